"""The finished part of a run with what people said of it, as exporters read it.

A row of a mask that people decided on has a further column `verdict` (`schemas.review.Verdict`). An
accepted one keeps its scores. One that was changed or added has no score of a model: its score is
1, and of the other score columns it has `area_frac` only; its kind is the run's. An added mask has
a `segment_index` that no predicted segment of the image has. Reviewed images have the review
priority 0.
"""

from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipeline.corrections.layer import ReviewedLayer
from pipeline.run.folder import RunFolder
from pipeline.run.predictions import Predictions
from pipeline.run.reader import FinishedShard, Row, RunReader
from pipeline.run.tables.damaged import Damage
from schemas.errors import UserError
from schemas.review import ReviewedMask
from schemas.score_columns import SCORE

MaskSource = Literal["predicted", "reviewed", "merged"]
"""Whose masks: the run's own; only those that people decided on; or theirs and, where nobody has
decided, the run's own."""

REJECTED_MASKS = "masks that people rejected"
REJECTED_IMAGES = "images that people rejected"


@dataclass(frozen=True)
class CorrectedShard(FinishedShard):
    """One committed shard with corrections; images that are left out are not in `images`."""

    layer: ReviewedLayer
    keeps_undecided: bool
    all_images: tuple[str, ...]
    """Also those that are left out."""
    touched: frozenset[str]
    """Images of which people said something, by `image_id`."""
    num_left_out: Counter[str] = field(default_factory=Counter)
    """What `segments` has left out, by kind; filled while it is read."""

    def segments(self, columns: list[str] | None = None) -> Iterator[Row]:
        """Yield the masks of the shard's images, images in order, see the module."""
        wanted = None if columns is None else list(dict.fromkeys([*columns, "segment_index"]))
        predicted = super().segments(wanted)
        row = next(predicted, None)
        for image_id in self.all_images:
            rows: list[Row] = []
            while row is not None and row["image_id"] == image_id:
                rows.append(row)
                row = next(predicted, None)
            if image_id not in self.images:
                if image_id in self.touched:
                    self.num_left_out[REJECTED_MASKS] += len(rows)
            elif image_id in self.touched:
                yield from self._corrected(self.images[image_id], rows)
            else:
                yield from rows
        if row is not None:  # of no image of this shard: who reads it says so
            yield row

    def _corrected(self, image: Row, predicted: Iterable[Row]) -> Iterator[Row]:
        image_id = image["image_id"]
        outcomes = self.layer.outcomes(image_id) or {}
        seen: set[int] = set()
        for row in predicted:
            index = row["segment_index"]
            seen.add(index)
            if index not in outcomes:
                if self.keeps_undecided:
                    yield row
                else:
                    self.num_left_out["masks that nobody has decided on"] += 1
                continue
            mask = outcomes[index]
            if mask is None:
                self.num_left_out[REJECTED_MASKS] += 1
            elif mask.verdict == "accepted":
                yield {**row, "verdict": mask.verdict}
            else:
                yield self._drawn_row(mask, index)
        masks = self.layer.masks(image_id)
        for mask in masks:  # a person's mask in the place of a damaged one
            if mask.segment_index is not None and mask.segment_index not in seen:
                yield self._drawn_row(mask, mask.segment_index)
        added = (mask for mask in masks if mask.segment_index is None)
        for number, mask in enumerate(added, start=image["num_segments"]):
            yield self._drawn_row(mask, number)
        unknown = self.layer.num_unknown_masks(image_id)
        if unknown:
            self.num_left_out["imported masks of labels that the run does not have"] += unknown

    def _drawn_row(self, mask: ReviewedMask, segment_index: int) -> Row:
        """Return the row of a mask as a person left it, see the module."""
        return {
            **mask.model_dump(),
            "segment_index": segment_index,
            "kind": self.run.mask_kind,
            "bbox_xywh": list(mask.bbox_xywh),
            SCORE: 1.0,
            "area_frac": mask.area_px / (mask.height * mask.width),
        }


class CorrectedRun(RunReader):
    """The finished shards of a run, with the masks that are wanted.

    Args:
        run: at any place.
        masks: whose; None: `merged` if people said anything of the run, else `predicted`.
        only: `image_id` of the images that are wanted; None: all.

    Raises:
        RunFolderError: the review is damaged.
        UserError: only reviewed masks are wanted, and there are none.

    Attributes:
        masks: whose they are.
        num_left_out: images that are left out, by the reason.
    """

    def __init__(
        self,
        run: RunFolder,
        masks: MaskSource | None = "predicted",
        only: frozenset[str] | None = None,
    ) -> None:
        super().__init__(run, only)
        self.num_left_out: dict[str, int] = {}
        self._layer: ReviewedLayer | None = None
        if masks != "predicted":
            predictions = Predictions(run, self.damaged)
            self._layer = ReviewedLayer(run, predictions=predictions)
        self._rejected: frozenset[str] = frozenset()
        self._touched: frozenset[str] = frozenset()
        self._num_reviewed = self._num_in_part = self._num_rejected = 0
        if self._layer is None:
            self.masks: MaskSource = "predicted"
            return
        self._partly = self._layer.partly_reviewed()
        self._touched = frozenset((*self._layer.images, *self._partly))
        self.masks = masks or ("merged" if self._touched else "predicted")
        if self.masks == "predicted":
            self._layer = None
            return
        if self.masks == "reviewed" and not self._touched:
            raise UserError(
                "no image of the run is reviewed: review it with `ovseg review`, import another "
                "tool's file with `ovseg import-review`, or export with `--masks predicted`"
            )
        self._rejected = self._layer.rejected_images()

        def num_wanted(images: Collection[str]) -> int:
            return len(images if only is None else only.intersection(images))

        self._num_reviewed = num_wanted(self._layer.images)
        self._num_in_part, self._num_rejected = map(num_wanted, (self._partly, self._rejected))
        self.num_left_out[REJECTED_IMAGES] = self._num_rejected
        if self.masks == "reviewed":
            unseen = self.num_images - num_wanted(self._touched)
            self.num_left_out["images that nobody has reviewed"] = unseen

    @property
    def summary(self) -> str:
        """One sentence about whose masks they are."""
        if self._layer is None:
            return "masks: predicted, as the model made them"
        counts = (
            f"{self._num_reviewed} images are reviewed, {self._num_in_part} in part, "
            f"{self._num_rejected} of them rejected as a whole"
        )
        if self.masks == "reviewed":
            return f"masks: reviewed, only what people decided ({counts})"
        return f"masks: merged, what people decided over what was predicted ({counts})"

    def predicted_images(self) -> Iterator[tuple[Row, bool]]:
        """Yield the images as the run has them, and whether `shards` has them too."""
        for shard in super().shards():
            kept = self._kept(shard)
            for image_id, row in shard.images.items():
                yield row, image_id in kept

    def _kept(self, shard: FinishedShard) -> set[str]:
        kept = shard.images.keys() - self._rejected
        return kept & self._touched if self.masks == "reviewed" else kept

    def is_reviewed(self, image_id: str) -> bool:
        """Return whether people went through the whole image, and their masks are wanted."""
        return self._layer is not None and image_id in self._layer.images

    def labels_not_reviewed(self, image_id: str) -> frozenset[str]:
        """Return the labels that the tool in which an image was reviewed does not know."""
        return frozenset() if self._layer is None else self._layer.unlisted_labels(image_id)

    def left_out(self) -> dict[str, Damage]:
        """Return what was left out so far, also of the review."""
        found = super().left_out()
        return found if self._layer is None else {**self._layer.left_out(), **found}

    def shards(self, only: Container[int] | None = None) -> Iterator[FinishedShard]:
        """Yield the shards in order; images keep the numbers that they have in the run."""
        if self._layer is None:
            yield from super().shards(only)
            return
        for shard in super().shards(only):
            touched = self._touched & shard.images.keys()
            kept = self._kept(shard)
            yield CorrectedShard(
                run=shard.run,
                marker=shard.marker,
                images={
                    key: {**row, "review_priority": 0.0} if key in self._layer.images else row
                    for key, row in shard.images.items()
                    if key in kept
                },
                damaged=shard.damaged,
                left_out=shard.left_out,
                layer=self._layer,
                keeps_undecided=self.masks == "merged",
                all_images=tuple(shard.images),
                touched=touched,
            )
