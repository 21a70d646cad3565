"""The report of an import: how often predictions were kept, by label."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.corrections.matching import overlap
from pipeline.run.reader import Row, grouped
from schemas.base import Frozen
from schemas.review import ReviewedMask


class LabelReview(Frozen):
    """The corrections of one label."""

    name: str
    predicted: int
    """Segments of the label in the reviewed images."""
    accepted: int
    changed: int
    """Segments with another outline or label."""
    rejected: int
    added: int
    """Masks of the label without a predicted segment."""
    iou: float | None
    """Of predicted and corrected pixels over all reviewed images; None: neither has any."""
    minutes: float | None
    """Time of the images, divided evenly among the labels of each; None: not in the file."""

    @property
    def accepted_share(self) -> float | None:
        """Share of the predicted segments that were accepted; None: none was predicted."""
        return self.accepted / self.predicted if self.predicted else None


class ImportReport(Frozen):
    """Counts of one import."""

    source: str
    labels: tuple[LabelReview, ...]
    num_images: int
    num_images_with_time: int
    minutes: float
    num_turned: int
    """Images whose masks were turned because the tool ignores EXIF."""
    num_unknown: int
    """Images left out: the run does not have them or has not annotated them."""
    num_repeated: int
    """Images left out: the file has the same image of the run twice."""
    num_wrong_size: int
    """Images left out: their size is not that of the run's image."""
    num_other_regions: int
    """Boxes, points and other shapes that were left out."""
    unknown_labels: dict[str, int]
    """Number of masks left out, by label that the run does not have."""


@dataclass
class _Counts:
    predicted: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    intersection: int = 0
    union: int = 0
    seconds: float = 0.0
    has_time: bool = False


class Tally:
    """Adds up the counts of an import by label.

    Args:
        names: the run's labels in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._counts = {name: _Counts() for name in names}

    def add(
        self,
        row: Row,
        predicted: Sequence[Row],
        masks: Sequence[ReviewedMask],
        seconds: float | None,
    ) -> None:
        """Add an image.

        Args:
            row: with `height` and `width`.
            predicted: the image's annotation rows.
            masks: the corrected masks.
            seconds: time that the image took; None: not known.
        """
        before = grouped(predicted, "label")
        after = grouped((mask.model_dump() for mask in masks), "label")
        verdicts = {m.segment_index: m.verdict for m in masks if m.segment_index is not None}
        for segment in predicted:
            counts = self._counts[segment["label"]]
            counts.predicted += 1
            counts.verdicts[verdicts.get(segment["segment_index"], "rejected")] += 1
        for mask in masks:
            self._counts[mask.label].verdicts["added"] += mask.verdict == "added"
        present = before.keys() | after.keys()
        for label in present:
            counts = self._counts[label]
            size_hw = row["height"], row["width"]
            sides = (before.get(label, []), after.get(label, []))
            one, other = ([row["rle_counts"] for row in side] for side in sides)
            shared, union = overlap(one, other, size_hw)
            counts.intersection += shared
            counts.union += union
            if seconds is not None:
                counts.seconds += seconds / len(present)
                counts.has_time = True

    def labels(self) -> tuple[LabelReview, ...]:
        """Return the counts of each label, in the vocabulary's order."""
        return tuple(
            LabelReview(
                name=name,
                predicted=counts.predicted,
                accepted=counts.verdicts["accepted"],
                changed=counts.verdicts["changed"],
                rejected=counts.verdicts["rejected"],
                added=counts.verdicts["added"],
                iou=counts.intersection / counts.union if counts.union else None,
                minutes=counts.seconds / 60 if counts.has_time else None,
            )
            for name, counts in self._counts.items()
        )
