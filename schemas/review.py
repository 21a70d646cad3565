"""What people say about a run's masks: decisions, corrected masks, and their Arrow schemas.

The predictions are never changed; all of this lies beside them, under `reviewed/`.
"""

from typing import Literal, NamedTuple

import pyarrow as pa
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from schemas.base import Frozen
from schemas.records import FileEntry
from schemas.tables import WORD, table_schema

Action = Literal["accept", "reject", "relabel", "skip", "undo"]
Verdict = Literal["accepted", "changed", "added"]


class ReviewKey(NamedTuple):
    """What a decision is about: a segment, all segments of a label, or the whole image."""

    image_id: str
    label: str | None = None
    segment_index: int | None = None


class ReviewDecision(Frozen):
    """One thing that a person said; never changed, only followed by another one."""

    image_id: str
    label: str | None = None
    """The predicted label; None: the whole image."""
    segment_index: NonNegativeInt | None = None
    """Of the predicted segment; None: all segments of the label, or the whole image."""
    action: Action
    """`undo` takes back what the same source said last of the key; `skip` leaves it undecided."""
    new_label: str = ""
    """What a `relabel` calls the segment."""
    at_s: NonNegativeFloat
    """When, in Unix seconds."""
    source: str = ""
    """Who or what told; of the review page also a random name of the browser."""

    @model_validator(mode="after")
    def _fits(self) -> "ReviewDecision":
        if self.segment_index is not None and self.label is None:
            raise ValueError("a decision on a segment names its label")
        if (self.action == "relabel") != bool(self.new_label):
            raise ValueError("`new_label` goes with `relabel`, and only with it")
        if self.action == "relabel" and self.label is None:
            raise ValueError("a whole image cannot be relabelled: name a label or a segment")
        return self

    @property
    def key(self) -> ReviewKey:
        """What it is about."""
        return ReviewKey(self.image_id, self.label, self.segment_index)


class ReviewEntry(Frozen):
    """What one `append` keeps: one object in the run folder."""

    decisions: tuple[ReviewDecision, ...]


class ReviewedMask(Frozen):
    """One mask as a person left it."""

    image_id: str
    label: str
    category_id: PositiveInt
    segment_index: NonNegativeInt | None = None
    """Of the predicted segment that it came from; None: drawn by a person."""
    height: PositiveInt
    width: PositiveInt
    rle_counts: str
    """COCO compressed RLE (column-major), ASCII, in the frame that a person sees."""
    area_px: PositiveInt
    bbox_xywh: tuple[float, float, float, float]
    verdict: Verdict
    """`accepted`: label and every pixel as predicted; `changed`; `added`: none was predicted."""


class ReviewedImage(Frozen):
    """One image that a person has gone through."""

    image_id: str
    path: str
    source: str
    """Tool or file that it was read from; `log`: decided mask by mask."""
    seconds: NonNegativeFloat | None = None
    """Time that it took, where the tool tells."""
    num_rejected: NonNegativeInt = 0
    """Predicted segments that are gone."""


class ReviewPart(Frozen):
    """Two committed files of an import."""

    images: FileEntry
    masks: FileEntry


class ReviewImport(Frozen):
    """The marker of an import, written last: readers follow it and nothing else."""

    source: str
    at_s: NonNegativeFloat
    parts: tuple[ReviewPart, ...] = Field(min_length=1)


DECISIONS = table_schema(
    {
        "entry": WORD,
        "image_id": WORD,
        "label": WORD,
        "segment_index": pa.int32(),
        "action": WORD,
        "new_label": WORD,
        "at_s": pa.float64(),
        "source": WORD,
    },
    nullable=("label", "segment_index"),
)
REVIEWED_IMAGES = table_schema(
    {
        "image_id": pa.string(),
        "path": pa.string(),
        "source": WORD,
        "seconds": pa.float32(),
        "num_rejected": pa.int32(),
    },
    nullable=("seconds",),
)
REVIEWED_MASKS = table_schema(
    {
        "image_id": WORD,
        "label": WORD,
        "category_id": pa.int32(),
        "segment_index": pa.int32(),
        "height": pa.int32(),
        "width": pa.int32(),
        "rle_counts": pa.string(),
        "area_px": pa.int64(),
        "bbox_xywh": pa.list_(pa.float32(), 4),
        "verdict": WORD,
    },
    nullable=("segment_index",),
)
