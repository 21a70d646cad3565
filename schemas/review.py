"""Corrections of a run's masks by people: decisions, corrected masks, and their Arrow schemas.

The predictions are never changed; corrections lie beside them, under `reviewed/`.
"""

from typing import Annotated, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field, model_validator

from schemas.base import Frozen
from schemas.records import (
    REPEATED_TEXT,
    Count,
    FileEntry,
    Int32,
    MaskRow,
    RepeatedText,
    Seconds,
    UnixSeconds,
)
from schemas.tables import arrow_schema

Action = Literal["accept", "reject", "relabel", "skip", "undo"]
Verdict = Literal["accepted", "changed", "added"]
Prefer = Literal["file", "page", "newer"]
"""Which of two statements on one image counts: an imported file's, the review page's, or the newer
by the tool's own clock (the page's where the tool does not say)."""


class ReviewKey(NamedTuple):
    """The subject of a decision: a segment, all segments of a label, or the whole image."""

    image_id: str
    label: str | None = None
    segment_index: int | None = None


class DecisionContent(Frozen):
    """What a reviewer decided, without the time and the source."""

    image_id: RepeatedText
    """Key of the image in all tables."""
    label: Annotated[str | None, REPEATED_TEXT] = None
    """The predicted label; null: the whole image."""
    segment_index: Annotated[Int32 | None, pa.int32()] = None
    """Of the predicted segment; null: all segments of the label, or the whole image."""
    action: Annotated[Action, REPEATED_TEXT]
    """`undo` takes back the last decision of the same source on the key; `skip` leaves it open."""
    new_label: RepeatedText = ""
    """The segment's label after a `relabel`; else empty."""

    @model_validator(mode="after")
    def _fits(self) -> "DecisionContent":
        if self.segment_index is not None and self.label is None:
            raise ValueError("a decision on a segment names its label")
        if (self.action == "relabel") != bool(self.new_label):
            raise ValueError("`new_label` goes with `relabel`, and only with it")
        if self.action == "relabel" and self.label is None:
            raise ValueError("a whole image cannot be relabelled: name a label or a segment")
        return self

    @property
    def key(self) -> ReviewKey:
        """The subject of the decision."""
        return ReviewKey(self.image_id, self.label, self.segment_index)


class ReviewDecision(DecisionContent):
    """One decision of a reviewer; it is never changed, a later one takes its place."""

    at_s: Annotated[UnixSeconds, pa.float64()]
    """When, in Unix seconds."""
    source: RepeatedText = ""
    """The person or tool that decided; for the review page with a random name of the browser."""


class ReviewEntry(Frozen):
    """The decisions of one `append`: one object in the run folder."""

    decisions: tuple[ReviewDecision, ...]


class ReviewedMask(MaskRow):
    """One mask as a person left it."""

    segment_index: Annotated[Int32 | None, pa.int32()] = None
    """Of the predicted segment that it came from; null: drawn by a person."""
    verdict: Annotated[Verdict, REPEATED_TEXT]
    """`accepted`: label and every pixel as predicted; `changed`; `added`: none was predicted."""


class ReviewedImage(Frozen):
    """One image that a person has gone through."""

    image_id: str
    """Key of the image in all tables: 16 hex digits, a hash of `path`."""
    path: str
    """Relative to the collection's root, `/` between parts; COCO's `file_name`."""
    source: RepeatedText
    """Tool or file that it was read from; `log`: decided mask by mask."""
    seconds: Annotated[Seconds | None, pa.float32()] = None
    """Seconds that a person took; null: the tool does not say."""
    num_rejected: Count = 0
    """Predicted segments that are gone."""
    told_at_s: Annotated[UnixSeconds | None, pa.float64()] = None
    """When its masks were made, by the tool's own clock, in Unix seconds; null: it does not say."""
    num_unknown_masks: Count = 0
    """Masks with a label that the run does not have."""
    unknown_segments: Annotated[tuple[Int32, ...], pa.list_(pa.int32())] = ()
    """Predicted segments that these masks may stem from, or of labels that the file does not list:
    neither accepted nor rejected."""
    is_checked: Annotated[bool, pa.bool_()] = False
    """Something besides the masks says that a person has looked at it: a mark in the file, an
    earlier correction, or the one who imported it."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is unknown; such an image is a truth for evaluation."""
        return not self.num_unknown_masks and not self.unknown_segments


class ReviewPart(Frozen):
    """Two committed files of an import."""

    images: FileEntry
    masks: FileEntry


class ReviewImport(Frozen):
    """The marker of an import, written last: readers follow it and nothing else."""

    source: str
    at_s: UnixSeconds
    prefer: Prefer = "file"
    """What counts of an image that was decided on the review page before the import; imports of
    earlier versions do not say, and counted as newer than the page."""
    unlisted_labels: tuple[str, ...] = ()
    """Labels of the run that the file does not list: in the tool nobody could keep them."""
    parts: tuple[ReviewPart, ...] = Field(min_length=1)

    def since_s(self, image: ReviewedImage) -> float:
        """Return from when on decisions of the review page count beside the import."""
        return page_since_s(self.prefer, image, self.at_s)


def page_since_s(prefer: Prefer, image: ReviewedImage, at_s: float) -> float:
    """Return from when on decisions of the review page on an image count, in Unix seconds.

    Args:
        prefer: of the import.
        image: as it was imported.
        at_s: time of the import.
    """
    if prefer == "file":
        return at_s
    if prefer == "page" or image.told_at_s is None:
        return 0.0
    return min(image.told_at_s, at_s)  # nothing was made after it was imported


class ReviewUndo(Frozen):
    """An import was taken back; lies beside its marker, nothing of the import is deleted."""

    at_s: UnixSeconds


_ENTRY = pa.field("entry", REPEATED_TEXT, False, {"description": "The write it came with."})
DECISIONS = pa.schema([_ENTRY, *arrow_schema(ReviewDecision)])
"""Of one correction log: each decision with the name of the entry that holds it."""
REVIEWED_IMAGES = arrow_schema(ReviewedImage)
REVIEWED_MASKS = arrow_schema(ReviewedMask)
