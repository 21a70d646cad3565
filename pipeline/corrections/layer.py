"""The reviewed layer of a run: the corrected masks, beside the predictions.

    reviewed/log/        decisions of the review page, see `log`
    reviewed/imports/    what came back from tools, see `imports`

A decision of the review page replaces the imported mask of a segment by the predicted one, or
removes it. Which decisions count beside an import, the import's marker says (`prefer`). What was
said of an image before it changed (`ovseg annotate --update`) counts no more.
"""

import logging
from collections import Counter
from collections.abc import Mapping

from pipeline.corrections.imports import Imports
from pipeline.corrections.log import ReviewLog
from pipeline.run.folder import RunFolder
from pipeline.run.predictions import Predictions
from pipeline.run.reader import Row
from pipeline.run.tables.damaged import Damage
from schemas.base import Frozen
from schemas.review import ReviewDecision, ReviewedImage, ReviewedMask, ReviewKey
from schemas.score_columns import SCORE
from schemas.untrusted import printable

logger = logging.getLogger(__name__)

LOG_SOURCE = "log"
"""`ReviewedImage.source` of images that were reviewed on the review page."""


SKIPPED = "entries of the review that do not count"


class ReviewState(Frozen):
    """How far a run is reviewed."""

    left_out: dict[str, Damage]
    """What of it cannot be what ovseg wrote, by what it is."""
    num_reviewed: int
    """Images that count as reviewed."""
    num_partly_reviewed: int
    """Images of which something is decided, but not everything."""
    num_rejected_images: int
    """Images that were rejected as a whole and have no mask left, among the reviewed ones."""
    num_empty: int
    """Reviewed images without a mask that were not rejected: people found nothing there."""
    num_accepted: int
    """Masks as predicted."""
    num_changed: int
    """Masks with another outline or label."""
    num_added: int
    """Masks that were not predicted."""
    num_rejected: int
    """Predicted masks that are gone."""
    num_unknown_masks: int
    """Imported masks of labels that the run does not have."""
    num_imports: int
    """Imports that were not taken back."""
    num_outdated: int
    """Images that have changed since something was said of them, which counts no more."""


class ReviewedLayer:
    """The corrections of a run as they were when the layer was made; masks are read at first use.

    Args:
        run: at any place.
        log: of the run, if it was read already.
        predictions: of the run, if something else reads the same shards at the same time.

    Raises:
        RunFolderError: an import or the log is damaged.

    Attributes:
        images: the images that count as reviewed, by `image_id`, in the run's order: imported
            with nothing unknown, decided as a whole, or with every segment decided.
        outdated: images that have changed since something was said of them, in the run's order.
    """

    def __init__(
        self,
        run: RunFolder,
        log: ReviewLog | None = None,
        predictions: Predictions | None = None,
    ) -> None:
        self._imports = Imports(run)
        self._is_of_instances = run.mask_kind == "instance"
        self._predictions = predictions or Predictions(run)
        names = run.info.job().vocabulary.names
        self._category_id = {name: number for number, name in enumerate(names, start=1)}
        self._decisions: dict[str, dict[ReviewKey, ReviewDecision]] = {}
        self._log = log or ReviewLog(run)
        outdated = set(self._imports.outdated)
        for key, decision in self._log.current().items():
            if decision.at_s > self._imports.state(key.image_id).since_s:
                self._decisions.setdefault(key.image_id, {})[key] = decision
            if decision.at_s <= run.replaced_s.get(key.image_id, -1.0):
                outdated.add(key.image_id)
        complete = {
            image_id: image
            for image_id, image in self._imports.images().items()
            if self._imports.state(image_id).is_complete
        }
        images = complete | self._decided()
        self.images = {key: images[key] for key in self._predictions.in_order(images)}
        self._tell_unknown_images()
        self.outdated = tuple(self._predictions.in_order(outdated))
        if self.outdated:
            paths = (self._path(image_id) for image_id in self.outdated[:3])
            logger.warning(
                "%d images have changed since something was said of them; those decisions and "
                "masks count no more: %s",
                len(self.outdated), ", ".join(map(printable, paths)),
            )  # fmt: skip

    def _path(self, image_id: str) -> str:
        image = self._predictions.image(image_id)
        return image_id if image is None else image["path"]

    def _tell_unknown_images(self) -> None:
        reviewed = self._decisions.keys() | self._imports.images().keys()
        unknown = sorted(reviewed - set(self._predictions.in_order(reviewed)))
        if unknown:
            logger.warning(
                "the review has %d images that the run does not have, which do not count: %s",
                len(unknown), ", ".join(map(printable, unknown[:3])),
            )  # fmt: skip

    def left_out(self) -> dict[str, Damage]:
        """Return what of the review and of the predictions does not count, as far as it was read.

        By what it is, in the plural.
        """
        reasons = self._log.skipped | self._imports.skipped
        skipped = [f"{name}: {why}" for name, why in reasons.items()]
        of_review = {SKIPPED: Damage.of(skipped)} if skipped else {}
        return {**of_review, **self._predictions.damaged.report()}

    def masks(self, image_id: str) -> tuple[ReviewedMask, ...]:
        """Return the corrected masks of an image, also of one that is only partly reviewed."""
        imported = self._of_the_images_size(image_id, self._imports.masks(image_id))
        if image_id not in self._decisions:
            return imported
        decided = self._decided_masks(image_id, self._predictions.segments(image_id))
        kept = [mask for mask in imported if mask.segment_index not in decided]
        return (*kept, *(mask for mask in decided.values() if mask is not None))

    def bottom_first(self, image_id: str) -> list[ReviewedMask]:
        """Return the corrected masks of an image in the order in which they are painted.

        Smaller ones lie over larger ones; instances of a higher score lie over those of a lower
        one first, as predicted instances do: those that people changed or added have the score 1.
        """
        scores: dict[int | None, float] = {}
        if self._is_of_instances:
            rows = self._predictions.segments(image_id)
            scores = {row["segment_index"]: row[SCORE] for row in rows}

        def rank(mask: ReviewedMask) -> tuple[float, int, int]:
            score = scores.get(mask.segment_index, 1.0) if mask.verdict == "accepted" else 1.0
            return score, -mask.area_px, mask.category_id

        return sorted(self.masks(image_id), key=rank)

    def _of_the_images_size(
        self, image_id: str, masks: tuple[ReviewedMask, ...]
    ) -> tuple[ReviewedMask, ...]:
        """Leave out imported masks of another size than their image, which no import stores."""
        image = self._predictions.image(image_id)
        if image is None:
            return ()
        size = image["height"], image["width"]
        fitting = tuple(mask for mask in masks if (mask.height, mask.width) == size)
        if len(fitting) < len(masks):
            logger.warning(
                "left out: %d imported masks of %s, whose image has another size",
                len(masks) - len(fitting), printable(image["path"]),
            )  # fmt: skip
        return fitting

    def size_hw(self, image_id: str) -> tuple[int, int]:
        """Return the size of a reviewed image, as a person sees it."""
        image = self._predictions.image(image_id)
        if image is None:
            raise KeyError(f"{image_id} is not an annotated image of the run")
        return image["height"], image["width"]

    def predicted(self, image_id: str) -> list[Row]:
        """Return the predicted segments of an image, also of one that is not reviewed."""
        return self._predictions.segments(image_id)

    def partly_reviewed(self) -> list[str]:
        """Return the images with some but not all segments decided, in the run's order.

        Imported images of which something is unknown are among them.
        """
        decided = {
            image_id
            for image_id, decisions in self._decisions.items()
            if any(decision.action != "skip" for decision in decisions.values())
        }
        begun = decided | self._imports.images().keys()
        return self._predictions.in_order(begun - self.images.keys())

    def rejected_images(self) -> frozenset[str]:
        """Return the images that were rejected as a whole and have no mask left.

        They are no images without objects: those were accepted, imported without masks, or had each
        of their masks rejected.
        """
        found = set()
        for image_id in self.images:
            whole = self._decisions.get(image_id, {}).get(ReviewKey(image_id))
            if whole is not None and whole.action == "reject" and not self.masks(image_id):
                found.add(image_id)
        return frozenset(found)

    def is_unchanged(self, image_id: str) -> bool:
        """Return whether a reviewed image is as predicted, and nothing tells of a person.

        It was imported, neither the file nor the one who imported it says that somebody has looked
        at it, its tool tells no time, and the review page has no decision on it.
        """
        image = self.images[image_id]
        is_told = image.source == LOG_SOURCE or image.is_checked or image.told_at_s is not None
        if is_told or image_id in self._decisions or image.num_rejected:
            return False
        return all(mask.verdict == "accepted" for mask in self.masks(image_id))

    @property
    def num_unchanged(self) -> int:
        """Reviewed images of which `is_unchanged` is true."""
        return sum(map(self.is_unchanged, self.images))

    def num_unknown_masks(self, image_id: str) -> int:
        """Return how many imported masks of an image have labels that the run does not have."""
        image = self._imports.image(image_id)
        return 0 if image is None else image.num_unknown_masks

    def state(self) -> ReviewState:
        """Return how far the run is reviewed; every corrected mask is read once."""
        partly = [key for key in self.partly_reviewed() if self._predictions.image(key) is not None]
        rejected = self.rejected_images()
        verdicts: Counter[str] = Counter()
        num_empty = num_rejected = 0
        for image_id in (*self.images, *partly):
            masks = self.masks(image_id)
            verdicts.update(mask.verdict for mask in masks)
            num_empty += not masks and image_id in self.images and image_id not in rejected
            outcomes = self.outcomes(image_id) or {}
            num_rejected += sum(mask is None for mask in outcomes.values())
        return ReviewState(
            left_out=self.left_out(),
            num_reviewed=len(self.images),
            num_partly_reviewed=len(partly),
            num_rejected_images=len(rejected),
            num_empty=num_empty,
            num_accepted=verdicts["accepted"],
            num_changed=verdicts["changed"],
            num_added=verdicts["added"],
            num_rejected=num_rejected,
            num_unknown_masks=sum(map(self.num_unknown_masks, (*self.images, *partly))),
            num_imports=len(self._imports.markers) - len(self._imports.undone),
            num_outdated=len(self.outdated),
        )

    def unknown_segments(self, image_id: str) -> frozenset[int]:
        """Return the predicted segments of which an import says nothing about their label.

        They have masks of labels that the run does not have, or a label that the tool's file does
        not list; nobody has decided on them on the review page. `outcomes` may hold some of the
        latter: those that the tool has relabelled.
        """
        image = self._imports.image(image_id)
        if image is None:
            return frozenset()
        unlisted = self._imports.unlisted_labels(image_id)
        rows = self._predictions.segments(image_id)
        unknown = {row["segment_index"] for row in rows if row["label"] in unlisted}
        decided = self._decided_masks(image_id, rows) if image_id in self._decisions else {}
        return frozenset(unknown.union(image.unknown_segments) - decided.keys())

    def unlisted_labels(self, image_id: str) -> frozenset[str]:
        """Return the labels that the imported file of an image does not list: it tells nothing."""
        return frozenset(self._imports.unlisted_labels(image_id))

    def outcomes(self, image_id: str) -> dict[int, ReviewedMask | None] | None:
        """Return the corrected mask of each predicted segment, by its index; None: rejected.

        Of an image that is only partly reviewed the decided segments are returned.

        Returns:
            None: nothing was decided or imported for this image.
        """
        rows = self._predictions.segments(image_id)
        imported = self._imports.image(image_id)
        if image_id not in self.images and imported is None:
            return self._decided_masks(image_id, rows) if image_id in self._decisions else None
        open_ones = imported.unknown_segments if imported is not None else ()
        outcomes: dict[int, ReviewedMask | None] = {
            row["segment_index"]: None for row in rows if row["segment_index"] not in open_ones
        }
        for mask in self.masks(image_id):
            if mask.segment_index is not None:
                outcomes[mask.segment_index] = mask
        if open_ones and image_id in self._decisions:
            outcomes |= self._decided_masks(image_id, rows)
        return outcomes

    def _decided(self) -> dict[str, ReviewedImage]:
        """Return the images that are reviewed, or changed after an import, by the log."""
        found: dict[str, ReviewedImage] = {}
        for image_id in self._predictions.in_order(self._decisions):
            decisions = self._decisions[image_id]
            image = self._predictions.image(image_id)
            if image is None:
                continue  # not annotated
            rows = self._predictions.segments(image_id)
            decided = self._decided_masks(image_id, rows)
            imported = self._imports.image(image_id)
            whole = decisions.get(ReviewKey(image_id))
            is_decided = (rows and len(decided) == len(rows)) or (whole and whole.action != "skip")
            if imported is not None:
                if not imported.is_complete and not is_decided:
                    continue
                left = {mask.segment_index for mask in self.masks(image_id)}
                gone = sum(row["segment_index"] not in left for row in rows)
                found[image_id] = imported.model_copy(update={"num_rejected": gone})
            elif is_decided:
                gone = sum(mask is None for mask in decided.values())
                found[image_id] = ReviewedImage(
                    image_id=image_id, path=image["path"], source=LOG_SOURCE, num_rejected=gone
                )
        return found

    def _decided_masks(self, image_id: str, rows: list[Row]) -> dict[int, ReviewedMask | None]:
        """Return the mask of each segment that the log decides, by its index; None: rejected."""
        decisions = self._decisions[image_id]
        decided: dict[int, ReviewedMask | None] = {}
        for row in rows:
            decision = decision_on(row, decisions)
            if decision is not None:
                decided[row["segment_index"]] = self._mask(row, decision)
        return decided

    def _mask(self, row: Row, decision: ReviewDecision) -> ReviewedMask | None:
        if decision.action == "reject":
            return None
        label = decision.new_label or row["label"]
        changes = {
            "label": label,
            "category_id": self._category_id[label],
            "verdict": "accepted" if label == row["label"] else "changed",
        }
        fields = {name: row[name] for name in row if name in ReviewedMask.model_fields}
        return ReviewedMask.model_validate({**fields, **changes})


def decision_on(row: Row, decisions: Mapping[ReviewKey, ReviewDecision]) -> ReviewDecision | None:
    """Return the decision on a segment: its own, else its label's, else the image's."""
    image_id, label, index = row["image_id"], row["label"], row["segment_index"]
    for key in (
        ReviewKey(image_id, label, index),
        ReviewKey(image_id, label),
        ReviewKey(image_id),
    ):
        decision = decisions.get(key)
        if decision is not None and decision.action != "skip":
            return decision
    return None
