"""What an import of a review brought: how often predictions were kept, label by label."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.corrections.matching import overlap
from pipeline.run.reader import Row, grouped
from schemas.base import Frozen
from schemas.review import ReviewedMask


class LabelReview(Frozen):
    """What people did to one label."""

    name: str
    predicted: int
    """Segments of the label in the reviewed images."""
    accepted: int
    changed: int
    """Outline or label."""
    rejected: int
    added: int
    """Masks of the label that nothing was predicted for."""
    iou: float | None
    """Of predicted and corrected pixels, over all reviewed images; None: neither has any."""
    minutes: float | None
    """Time of the images, shared evenly among the labels in each; None: the tool does not tell."""

    @property
    def accepted_share(self) -> float | None:
        """Share of the predicted segments that were left as they are."""
        return self.accepted / self.predicted if self.predicted else None


class ImportReport(Frozen):
    """What an import brought."""

    source: str
    labels: tuple[LabelReview, ...]
    num_images: int
    num_images_with_time: int
    minutes: float
    num_turned: int
    """Images whose masks were turned: the tool ignores EXIF."""
    num_unknown: int
    """Images left out: the run has none of their names, or has not annotated them."""
    num_repeated: int
    """Images left out: another of the file is the same image of the run."""
    num_wrong_size: int
    """Images left out: of another size than the run's."""
    num_other_regions: int
    """Boxes, points and such, left out."""
    unknown_labels: dict[str, int]
    """Masks left out by a label that the run does not have."""


@dataclass
class _Counts:
    predicted: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    intersection: int = 0
    union: int = 0
    seconds: float = 0.0
    has_time: bool = False


class Tally:
    """Counts by label on their way."""

    def __init__(self, names: Sequence[str]) -> None:
        """Begin; `names` are the run's labels."""
        self._counts = {name: _Counts() for name in names}

    def add(
        self,
        row: Row,
        predicted: Sequence[Row],
        masks: Sequence[ReviewedMask],
        seconds: float | None,
    ) -> None:
        """Take an image.

        Args:
            row: its `height` and `width`.
            predicted: its segments.
            masks: what people left, with what became of the segments.
            seconds: time that it took; None: not known.
        """
        before = grouped(predicted, "label")
        after = grouped((mask.model_dump() for mask in masks), "label")
        fate = {m.segment_index: m.verdict for m in masks if m.segment_index is not None}
        for segment in predicted:
            counts = self._counts[segment["label"]]
            counts.predicted += 1
            counts.verdicts[fate.get(segment["segment_index"], "rejected")] += 1
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
        """Return what there is, in the vocabulary's order."""
        return tuple(_label(name, counts) for name, counts in self._counts.items())


def _label(name: str, counts: _Counts) -> LabelReview:
    return LabelReview(
        name=name,
        predicted=counts.predicted,
        accepted=counts.verdicts["accepted"],
        changed=counts.verdicts["changed"],
        rejected=counts.verdicts["rejected"],
        added=counts.verdicts["added"],
        iou=counts.intersection / counts.union if counts.union else None,
        minutes=counts.seconds / 60 if counts.has_time else None,
    )
