"""A student's images and labels out of a teacher's run: its masks, a review, a truth.

Of an image that people have gone through every pixel is labelled: a pixel without a mask is
background. Of an image that they have decided in part, and of one whose truth has no name for some
labels, what they said nothing of is UNLABELLED, and the teacher's labels stand beside; where they
contradict the teacher, nothing is learned. Other images are the teacher's alone.
"""

import hashlib
from collections.abc import Iterable
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from ovseg_core import methods
from ovseg_core.images.decoding.decode import DecodedImage
from ovseg_core.images.decoding.exif import upright_image
from ovseg_core.segmenter import MethodCard
from ovseg_core.training.students import IGNORED, UNLABELLED, Labels
from pipeline.corrections.layer import ReviewedLayer
from pipeline.curation.image_lists import listed_images
from pipeline.evaluation.reviewed_truth import paint_masks
from pipeline.evaluation.truth import FileTruth, Wanted, open_truth
from pipeline.run.folder import RunFolder
from pipeline.run.images import RunImages
from pipeline.run.predictions import Predictions
from pipeline.run.reader import RunReader
from pipeline.run.trust.confirmed import Confirmed
from pipeline.training.students.sources.cleaning import Cleaning, PaintedMasks
from pipeline.training.students.sources.source import ImageLabels
from schemas import plugins
from schemas.config import ClipConfig, StudentConfig
from schemas.errors import CollectionError, ErrorCode, ImageError, UserError
from schemas.redact import redact


class RunSource:
    """The annotated images of a run; see `Source`. Safe for threads.

    Args:
        config: of the training; names the run.

    Raises:
        UserError: the run has no images or masks to learn from, they may not be read, or a review,
            truth or calibration that is wanted is missing or damaged.
    """

    num_training: int | None = None

    def __init__(self, config: StudentConfig) -> None:
        roots, allow = config.run.images_roots, config.run.allow_private_addresses
        run = RunFolder.open(config.teacher, Confirmed.from_flags(roots, allow_private=allow))
        self.run = run
        self._images = RunImages(run)
        if self._images.notice:
            raise UserError(self._images.notice)
        self.vocabulary = run.info.job().vocabulary
        self._predictions = Predictions(run)
        self._cleaning = Cleaning.of_run(config.cleaning, run)
        self._layer = None if config.masks == "predicted" else ReviewedLayer(run)
        self._layer_lock = Lock()
        self._people = _People(self._layer, config.masks)
        self.left_out: dict[str, int] = {}
        self._ids: list[str] = []
        self._paths: list[str] = []
        self._shards: list[int] = []
        self._num_segments = 0
        only = listed_images(run, config.only) if config.only else None
        self._find_usable(config.cleaning.max_review_priority, only)
        self.num_images = len(self._ids)
        if not self.num_images:
            raise CollectionError(self._why_empty())
        self._predictions.in_order(self._ids)  # looks all of them up at once
        self._truth = self._open_truth(config.truth)
        self.known = self._known()
        self.is_labelled = bool(self._people.touched) or self._truth is not None
        if not self._num_segments and not self.is_labelled:
            raise CollectionError(
                f"{redact(config.teacher)} has no masks, so that a student would learn nothing but "
                "background: annotate with other labels or lower thresholds, review the run, or "
                "give --truth"
            )
        self.identity = self._identity(config)
        self.facts = self._facts(config)

    @property
    def clip(self) -> ClipConfig:
        """The CLIP of the teacher, `auto` resolved."""
        clip = self.run.info.job().clip
        return self._card.clip if clip.model == "auto" else clip

    @property
    def _card(self) -> MethodCard:
        return plugins.load_plugin(methods.PACKAGE, self.run.info.job().method.name).CARD

    def path(self, number: int) -> str:
        """Return the path of an image in its collection."""
        return self._paths[number]

    def image(self, number: int) -> DecodedImage:
        """Read an image, see `Source`."""
        row = self._row(number)
        image = self._images.read_image({**row, "shard": self._shards[number]})
        if (image.height, image.width) != (row["height"], row["width"]):
            raise ImageError(
                ErrorCode.NOT_FOUND,
                f"it has {image.width} x {image.height} pixels, in the run {row['width']} x "
                f"{row['height']}: it was replaced since",
            )
        return image

    def labels(self, number: int, image: DecodedImage) -> ImageLabels:
        """Return the labels of an image, see `Source`."""
        size_hw = image.height, image.width
        image_id = self._ids[number]
        segments = self._predictions.segments(image_id)
        masks = self._cleaning.paint(segments, size_hw)
        true_map = self._true_map(number, image)
        if true_map is not None:
            labels = self._from_truth(true_map, masks)
        else:
            labels = np.full(size_hw, UNLABELLED, np.int16)
            if image_id in self._people.touched:
                places = {row["segment_index"]: at for at, row in enumerate(segments, start=1)}
                labels = self._from_review(image_id, masks, places)
        reference = np.where(labels == UNLABELLED, masks.painted, labels)
        return ImageLabels(labels, masks.cleaned, reference, masks.painted)

    def _true_map(self, number: int, image: DecodedImage) -> Labels | None:
        """Return the truth of an image, turned as the image is if its tool did not.

        Raises:
            ImageError: it has another size than the image.
        """
        found = None if self._truth is None else self._truth.label_map(self._paths[number])
        if found is None:
            return None
        size_hw = image.height, image.width
        if found.shape != size_hw:
            turned = upright_image(PillowImage.fromarray(found), image.exif_orientation)
            found = np.asarray(turned)
        if found.shape != size_hw:
            raise ImageError(
                ErrorCode.NOT_FOUND,
                f"its truth has {found.shape[1]} x {found.shape[0]} pixels, it has {image.width} "
                f"x {image.height}",
            )
        return found.astype(np.int16)  # the truth's value of ignored pixels is ours

    def _from_truth(self, true_map: Labels, masks: PaintedMasks) -> Labels:
        """Return the labels of a truth; the rest is unlabelled where it does not name all."""
        assert self._truth is not None
        covered = self._truth.covered
        if len(covered) == len(self.vocabulary.labels):
            return true_map
        # The truth says that this pixel is none of its labels; the teacher may say which it is.
        silent = true_map == 0
        masks.cleaned[silent & np.isin(masks.painted, sorted(covered))] = IGNORED
        masks.painted[silent & np.isin(masks.painted, sorted(covered))] = IGNORED
        return np.where(silent, UNLABELLED, true_map).astype(np.int16)

    def _from_review(self, image_id: str, masks: PaintedMasks, places: dict[int, int]) -> Labels:
        """Return the labels of a review; `places` are those of segments by their index."""
        assert self._layer is not None
        with self._layer_lock:
            corrected = self._layer.bottom_first(image_id)
            is_complete = image_id in self._layer.images
            outcomes = {} if is_complete else self._layer.outcomes(image_id) or {}
        size_hw = masks.painted.shape[0], masks.painted.shape[1]
        drawn = paint_masks(corrected, size_hw).astype(np.int16)
        if is_complete:
            return drawn
        decided = [places[index] for index in outcomes if index in places]
        contradicted = np.isin(masks.place, decided)  # what is accepted is among `drawn`
        masks.cleaned[contradicted] = IGNORED
        masks.painted[contradicted] = IGNORED
        rest = IGNORED if self._people.masks == "reviewed" else UNLABELLED
        return np.where(drawn > 0, drawn, rest).astype(np.int16)

    def _find_usable(self, max_priority: float, only: frozenset[str] | None) -> None:
        """Note the images that can be learned, and count the others."""
        reader, people = RunReader(self.run, only), self._people
        left = {
            "failed in the run": sum(reader.errors.values()),
            "of unfinished shards": reader.num_left,
            "not in the list": reader.num_unwanted,
        }
        for shard in reader.shards():
            for image_id, row in shard.images.items():
                reason = people.refuses(image_id)
                is_doubtful = row["review_priority"] > max_priority
                if not reason and is_doubtful and image_id not in people.touched:
                    reason = "above cleaning.max_review_priority"
                if reason:
                    left[reason] = left.get(reason, 0) + 1
                else:
                    self._ids.append(image_id)
                    self._paths.append(row["path"])
                    self._shards.append(shard.marker.shard)
                    self._num_segments += row["num_segments"]
        left["with a damaged row"] = sum(reader.damaged.counts.values())
        self.left_out = {reason: count for reason, count in left.items() if count}
        self._markers = _sha256(marker.model_dump_json() for marker in reader.markers)

    def _why_empty(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return (
            f"{redact(self.run.folder.uri)} has no images to learn from: expected a run that "
            f"`ovseg annotate` has finished, at least in part ({reasons or 'it is empty'})"
        )

    def _row(self, number: int) -> dict[str, Any]:
        row = self._predictions.image(self._ids[number])
        if row is None:
            raise ImageError(ErrorCode.NOT_FOUND, "its row in the run is damaged")
        return row

    def _open_truth(self, uri: str) -> FileTruth | None:
        if not uri:
            return None
        truth = open_truth(uri, Wanted.of_run(self.run))
        if not truth.paths & set(self._paths):
            raise UserError(
                f"truth: none of the {truth.num_images} images in {redact(uri)} is one of the "
                f"{self.num_images} of the run that are learned (matched by path)"
            )
        return truth

    def _known(self) -> frozenset[int]:
        """Return the labels that the truth covers, if it covers some and has every image."""
        truth = self._truth
        if truth is None or not truth.paths.issuperset(self._paths):
            return frozenset()
        is_all = len(truth.covered) == len(self.vocabulary.labels)
        return frozenset() if is_all else truth.covered

    def _identity(self, config: StudentConfig) -> dict[str, Any]:
        found: dict[str, Any] = {
            "teacher": self.run.fingerprint,
            "teacher.shards": self._markers,
            "masks": self._people.masks,
            **{f"cleaning.{name}": value for name, value in self._cleaning.identity.items()},
        }
        if config.only:
            found["only"] = _sha256(sorted(self._ids))
        if self._people.masks != "predicted":
            assert self._layer is not None
            found["review"] = self._people.digest(self._layer)
        if self._truth is not None:
            found["truth"] = [redact(config.truth), self._truth.sha256()]
        return found

    def _facts(self, config: StudentConfig) -> dict[str, Any]:
        method = self.run.info.job().method.name
        truth = {"truth": redact(config.truth)} if config.truth else {}
        return {
            "teacher": method,
            "teacher_fingerprint": self.run.fingerprint,
            "teacher_clip": self.clip.model,
            "teacher_weights": dict(self.run.info.weights),
            "licence": self._card.licence,
            "masks": self._people.masks,
            "reviewed_images": len(self._people.touched),
            **truth,
        }


class _People:
    """Of which images people said something, and which are left out for it.

    Args:
        layer: the review; None: it is not asked.
        masks: as configured.

    Attributes:
        masks: whose masks are learned, `auto` resolved.
        touched: images that are reviewed, also in part.

    Raises:
        UserError: only reviewed masks are wanted, and there are none.
    """

    def __init__(self, layer: ReviewedLayer | None, masks: str) -> None:
        self.touched: frozenset[str] = frozenset()
        self._rejected: frozenset[str] = frozenset()
        if layer is not None:
            self._rejected = layer.rejected_images()
            self.touched = frozenset((*layer.images, *layer.partly_reviewed())) - self._rejected
        said = bool(self.touched or self._rejected)
        self.masks = masks if masks != "auto" else "merged" if said else "predicted"
        if self.masks == "reviewed" and not self.touched:
            raise UserError(
                "masks: no image of the run is reviewed: review it with `ovseg review`, import "
                "another tool's file with `ovseg import-review`, or learn from the predicted masks "
                "(--masks predicted)"
            )

    def refuses(self, image_id: str) -> str:
        """Return why an image is left out; empty: it is not."""
        if image_id in self._rejected:
            return "rejected by people"
        is_unseen = self.masks == "reviewed" and image_id not in self.touched
        return "that nobody has reviewed" if is_unseen else ""

    def digest(self, layer: ReviewedLayer) -> str:
        """Return the SHA-256 of what people said, as it is now."""

        def parts() -> Iterable[str]:
            for image_id in sorted((*self.touched, *self._rejected)):
                yield f"{image_id} {image_id in layer.images} {image_id in self._rejected}"
                for mask in layer.masks(image_id):
                    yield f"{mask.category_id} {mask.segment_index} {mask.rle_counts}"
                if image_id not in layer.images:
                    yield str(sorted(layer.outcomes(image_id) or {}))

        return _sha256(parts())


def _sha256(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\0".encode(errors="backslashreplace"))
    return digest.hexdigest()
