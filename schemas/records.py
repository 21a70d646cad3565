"""What flows through the pipeline and what is committed.

One record is one row of a table, or one JSON marker.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from schemas.base import Frozen
from schemas.errors import ErrorCode

Share = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""


class ImageRef(Frozen):
    """One image of a collection: a row of `manifest.parquet`."""

    image_id: str
    """Hash of `path`, so that it survives a move of the collection."""
    path: str
    """Relative to the collection's root, `/` between parts; COCO's `file_name`."""
    uri: str
    """Where the bytes are."""
    size_bytes: NonNegativeInt | None = None
    """As listed; None where the listing does not tell."""
    etag: str = ""
    """The store's version of the content; empty where it has none."""


class Shard(Frozen):
    """A contiguous cut of the manifest: the unit of work and commit."""

    index: NonNegativeInt
    """Place in the manifest's sequence of shards."""
    refs: tuple[ImageRef, ...]
    """In manifest order."""


class ImageResult(Frozen):
    """What became of one image: a row of `images/*.parquet`."""

    image_id: str
    path: str
    uri: str
    status: Literal["ok", "error"] = "ok"
    error_code: ErrorCode | None = None
    error_message: str = ""
    height: NonNegativeInt = 0
    """Pixels, in the frame that a person sees (EXIF turn applied); 0 where unknown."""
    width: NonNegativeInt = 0
    exif_orientation: Annotated[int, Field(ge=1, le=8)] = 1
    """The turn that was applied; 1: none."""
    num_segments: NonNegativeInt = 0
    review_priority: Share = 0.0
    """1: look at this image first."""
    read_s: NonNegativeFloat = 0.0
    decode_s: NonNegativeFloat = 0.0
    segment_s: NonNegativeFloat = 0.0
    """The image's share of its batch."""
    encode_s: NonNegativeFloat = 0.0


class ScoreRow(Frozen):
    """One label in one image, found or not: a row of `scores/*.parquet`."""

    image_id: str
    label: str
    category_id: PositiveInt
    max_prob: Share
    """Highest probability of the label over the image."""
    mean_prob: Share
    """Mean probability of the label over the whole image."""
    area_frac: Share
    """Share of the image's pixels that carry the label."""


class Annotation(Frozen):
    """One segment: a row of `annotations/*.parquet` and one entry of COCO's `annotations`."""

    image_id: str
    label: str
    category_id: PositiveInt
    segment_index: NonNegativeInt
    """Place among the image's segments, by label, then by component."""
    height: PositiveInt
    width: PositiveInt
    rle_counts: str
    """COCO compressed RLE (column-major), ASCII."""
    area_px: PositiveInt
    """Pixels in the mask, not in the box."""
    bbox_xywh: tuple[float, float, float, float]
    """Tight box of the mask, pixels."""
    mean_prob: Share
    """Mean probability of the segment's label over its pixels."""
    margin_mean: Share
    """Mean difference between the best and the second-best probability."""
    margin_p10: Share
    """10th percentile of that difference."""
    entropy_mean: Share
    """Mean entropy of the probabilities, divided by log(number of classes)."""
    saliency_mean: Share
    """Mean objectness under the mask; 1 where the method has none."""
    boundary_uncertainty: Share
    """Mean entropy at the segment's rim."""
    area_frac: Share
    num_components: PositiveInt
    """Connected regions of the mask (8-neighbourhood)."""


class ShardRows(Frozen):
    """All rows of one annotated shard, before they are written; images in manifest order."""

    images: tuple[ImageResult, ...]
    scores: tuple[ScoreRow, ...]
    annotations: tuple[Annotation, ...]


class ShardTally(Frozen):
    """What the driver shows of a finished shard."""

    num_images: NonNegativeInt
    num_segments: NonNegativeInt
    errors: dict[str, NonNegativeInt] = {}
    """Number of failed images by code."""
    seconds: dict[str, NonNegativeFloat] = {}
    """Summed over images by stage: read, decode, segment, encode; `wall` for the whole shard."""


class FileEntry(Frozen):
    """One committed Parquet file."""

    name: str
    """Relative to the run folder."""
    num_rows: NonNegativeInt
    sha256: str
    size_bytes: NonNegativeInt


class ShardDone(Frozen):
    """The done marker of a shard: readers follow it and nothing else."""

    schema_version: PositiveInt
    shard: NonNegativeInt
    attempt: str
    fingerprint: str
    files: dict[Literal["images", "scores", "annotations"], FileEntry]
    tally: ShardTally


class ShardFailed(Frozen):
    """A shard that was given up; it is tried again by the next run."""

    shard: NonNegativeInt
    attempts: PositiveInt
    message: str
