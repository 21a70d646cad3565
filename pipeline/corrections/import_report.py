"""The report of an import: how often predictions were kept, by label."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from pipeline.corrections.matching import overlap
from pipeline.importers.shared.notes import Note, NoteKind
from pipeline.run.reader import Row, grouped
from pipeline.run.tables.damaged import Damage
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
    unknown: int
    """Segments that may have become masks of a label that the run does not have, or whose label the
    file does not list: undecided."""
    iou: float | None
    """Of predicted and corrected pixels over all reviewed images; None: neither has any."""
    minutes: float | None
    """Time of the images, divided evenly among the labels of each; None: not in the file."""

    @property
    def accepted_share(self) -> float | None:
        """Share of the decided segments that were accepted; None: none was decided."""
        decided = self.predicted - self.unknown
        return self.accepted / decided if decided else None


class ImportReport(Frozen):
    """Counts of one import."""

    id: str
    """What `ovseg import-review RUN --undo` takes."""
    source: str
    labels: tuple[LabelReview, ...]
    num_images: int
    """Images that now count as reviewed, in whole or in part."""
    num_partly: int
    """Of these, images of which something is unknown: labels that the other side does not have."""
    num_unchanged: int
    """Of these, images whose masks equal the predictions and of which nothing says that a person
    has looked at them: neither the file, nor an earlier review, nor `unchanged_means`."""
    num_of_earlier: int
    """Images that earlier imports have, and that still count as those say."""
    num_images_with_time: int
    minutes: float
    unknown_labels: dict[str, int]
    """Number of masks by label that the run does not have."""
    near_labels: dict[str, str]
    """Of these labels, those that are spelled much like a label of the run."""
    damaged: dict[str, Damage]
    """What of the run and its review was left out, as no ovseg wrote it, by what it is."""
    notes: dict[NoteKind, Note]
    """What was left out, replaced or read in another way, with the first ten of each kind."""


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
        unknown: Collection[int] = (),
    ) -> None:
        """Add an image.

        Args:
            row: with `height` and `width`.
            predicted: the image's annotation rows.
            masks: the corrected masks.
            seconds: time that the image took; None: not known.
            unknown: segments that are neither accepted nor rejected; their pixels do not count.
        """
        known = [row for row in predicted if row["segment_index"] not in unknown]
        before = grouped(known, "label")
        after = grouped((mask.model_dump() for mask in masks), "label")
        verdicts = {m.segment_index: m.verdict for m in masks if m.segment_index is not None}
        for segment in predicted:
            counts = self._counts[segment["label"]]
            counts.predicted += 1
            index = segment["segment_index"]
            counts.verdicts[verdicts.get(index, "unknown" if index in unknown else "rejected")] += 1
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
                unknown=counts.verdicts["unknown"],
                iou=counts.intersection / counts.union if counts.union else None,
                minutes=counts.seconds / 60 if counts.has_time else None,
            )
            for name, counts in self._counts.items()
        )
