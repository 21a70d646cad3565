"""What flows through the pipeline and what is committed.

One record is one row of a table, or one JSON marker. The Arrow schema of a table is derived from
its record (`schemas.tables`): an Arrow type in `Annotated` says how a column is stored.
"""

from collections.abc import Container
from typing import Annotated, Literal, get_args

import pyarrow as pa
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from schemas.base import Frozen
from schemas.errors import PASSING_CODES, ErrorCode

REPEATED_TEXT = pa.dictionary(pa.int32(), pa.string())
"""Arrow type of text columns with few different values."""

Share = Annotated[float, Field(ge=0, le=1), pa.float32()]
"""A number in [0, 1]."""
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), pa.float32()]
Int32 = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[Int32, pa.int32()]
CategoryId = Annotated[int, Field(ge=1, le=2**31 - 1), pa.int32()]
SidePx = Annotated[int, Field(ge=1, le=2**31 - 1), pa.int32()]
UnixSeconds = Annotated[float, Field(ge=0, le=253_402_300_799, allow_inf_nan=False)]
"""Until the year 9999."""
RepeatedText = Annotated[str, REPEATED_TEXT]

MaskKind = Literal["class", "component", "instance"]
MASK_KINDS: dict[str, MaskKind] = {
    "class": "class",
    "components": "component",
    "instances": "instance",
}
"""What a run's segments are, by its `masks.segments`."""


TableName = Literal["images", "scores", "annotations", "vectors"]
"""A table of a shard: a folder with a file for each."""
TABLE_NAMES: tuple[TableName, ...] = get_args(TableName)


class ImageRef(Frozen):
    """One image of a collection: a row of `manifest.parquet`."""

    image_id: str
    """Key of the image in all tables: 16 hex digits, a hash of `path`."""
    path: str
    """Relative to the collection's root, `/` between parts; COCO's `file_name`."""
    uri: str
    """Where the bytes are: a path or URL."""
    size_bytes: Annotated[NonNegativeInt | None, pa.int64()] = None
    """Of the file, as listed; null where the listing does not have it."""
    etag: str = ""
    """The store's version of the content; empty where it has none."""


class Shard(Frozen):
    """Consecutive images of the manifest: the unit of work and commit."""

    index: NonNegativeInt
    """Place in the manifest's sequence of shards."""
    refs: tuple[ImageRef, ...]
    """In manifest order."""


STAGES = ("read", "decode", "segment", "rle")
"""What an image goes through, in order; `ImageResult` has the seconds of each."""
THREAD_TIMES = ("wall", "wait_images", "wait_masks", "write", "wait_shard")
"""What else a tally has seconds of, all of the worker's compute thread. `wall`: the shard, until
its rows are there; in it the thread computes (`segment`), waits for images that are being read and
decoded (`wait_images`) and for masks (`wait_masks`). Beside it: the tables are written (`write`),
and the worker waits for its next shard (`wait_shard`)."""


class ImageResult(Frozen):
    """What became of one image: a row of `images/*.parquet`."""

    image_id: str
    """Key of the image in all tables: 16 hex digits, a hash of `path`."""
    path: str
    """Relative to the collection's root, `/` between parts; COCO's `file_name`."""
    uri: str
    """Where the bytes were: a path or URL."""
    status: Annotated[Literal["ok", "error"], REPEATED_TEXT] = "ok"
    """`ok`: annotated; `error`: not annotated, see `error_code`."""
    error_code: Annotated[ErrorCode | None, REPEATED_TEXT] = None
    """Why the image was not annotated; null where it was."""
    error_message: str = ""
    """The same in a sentence; empty where it was annotated."""
    height: Count = 0
    """Pixels, in the frame that a person sees (EXIF orientation applied); 0 where unknown."""
    width: Count = 0
    """As `height`."""
    exif_orientation: Annotated[int, Field(ge=1, le=8), pa.int8()] = 1
    """The orientation that was applied, in EXIF's numbers; 1: none."""
    num_frames: Count = 1
    """Frames or pages in the file; only one of them is annotated."""
    value_range: RepeatedText = ""
    """Which numbers became black and white, where they are more than 8 bits deep; empty: 8 bits."""
    color_profile: RepeatedText = ""
    """What was done to the colours; empty: the file says nothing about them."""
    num_segments: Count = 0
    """Segments of the image: its rows in the annotations table."""
    review_priority: Share = 0.0
    """High: look at this image first. It grows with every mask that is improbable, near to another
    label, spread over many labels or a speck."""
    read_s: Seconds = 0.0
    """Seconds to fetch the file."""
    decode_s: Seconds = 0.0
    """Seconds from the file's bytes to pixels."""
    segment_s: Seconds = 0.0
    """Seconds from pixels to score maps; the image's share of its batch."""
    rle_s: Seconds = 0.0
    """Seconds from score maps to segments in RLE."""


class ScoreRow(Frozen):
    """One label in one image, found or not: a row of `scores/*.parquet`."""

    image_id: RepeatedText
    """Key of the image in all tables."""
    label: RepeatedText
    """Name of the label, as in the vocabulary."""
    category_id: CategoryId
    """Place of the label in the vocabulary, from 1; COCO's `category_id`."""
    max_prob: Share
    """Highest probability of the label at any pixel. High: the model sees it somewhere."""
    mean_prob: Share
    """Mean probability of the label over all pixels. High: the model sees it nearly everywhere."""
    area_frac: Share
    """Share of the image's pixels that carry the label; 0: not found."""


class MaskRow(Frozen):
    """One mask of a label in an image: the columns of predicted and of reviewed masks."""

    image_id: RepeatedText
    """Key of the image in all tables."""
    label: RepeatedText
    """Name of the label, as in the vocabulary."""
    category_id: CategoryId
    """Place of the label in the vocabulary, from 1; COCO's `category_id`."""
    segment_index: Annotated[Int32 | None, pa.int32()]
    """Place among the image's segments."""
    height: SidePx
    """Pixels of the image, in the frame that a person sees (EXIF orientation applied)."""
    width: SidePx
    """As `height`."""
    rle_counts: str
    """The mask: COCO's compressed RLE (column-major), ASCII."""
    area_px: Annotated[PositiveInt, pa.int64()]
    """Pixels in the mask, not in the box."""
    bbox_xywh: Annotated[tuple[float, float, float, float], pa.list_(pa.float32(), 4)]
    """Tight box of the mask in pixels: left, top, width, height."""


class Annotation(MaskRow):
    """One segment: a row of `annotations/*.parquet` and one entry of COCO's `annotations`.

    What becomes of each score column is in `schemas.score_columns`.
    """

    segment_index: Count
    """Place among the image's segments from 0, by label, then by component, or by falling score of
    instances."""
    kind: Annotated[MaskKind, REPEATED_TEXT]
    """What the mask is: all of the label in the image, one connected region of it, or one object.
    Only instances may overlap other segments."""
    mean_prob: Share
    """Mean probability of the label over the segment's pixels; of an instance that the method
    itself found, the method's score of it. High: the model is sure."""
    margin_mean: Share
    """Mean lead of the label over the second-best one. High: no other label comes near."""
    margin_p10: Share
    """10th percentile of that lead over the pixels. High: hardly a pixel is disputed."""
    entropy_mean: Share
    """Mean entropy over the labels, as a share of its maximum. High: many labels are
    about equally likely."""
    objectness_mean: Share
    """Mean objectness of the pixels. High: surely an object; 1 where the method has none."""
    boundary_uncertainty: Share
    """Mean entropy, as `entropy_mean`, at the segment's rim. High: the outline is doubtful."""
    proposal_score: Share = 1.0
    """Quality of the outline, as its proposal's source predicts it; 1 without a proposal."""
    area_frac: Share
    """Share of the image's pixels that are in the mask. High: a large mask."""
    num_components: Annotated[PositiveInt, pa.int32()]
    """Connected regions of the mask (8-neighbourhood). High: it is scattered."""


class ImageVector(Frozen):
    """CLIP's vector of one whole image: a row of `vectors/*.parquet`.

    Images that failed have none, nor have those of a method that loads no image encoder of CLIP.
    """

    image_id: RepeatedText
    """Key of the image in all tables."""
    vector: Annotated[tuple[float, ...], pa.list_(pa.float16())]
    """Unit vector in the joint space of the run's CLIP. Its product with the unit vector of another
    image or of a text, of the same CLIP, is their cosine."""


class FeatureRow(Frozen):
    """The stored features of one image: a row of `features/*.parquet`."""

    image_id: RepeatedText
    """Key of the image in all tables."""
    features: Annotated[bytes, pa.large_binary()]
    """What the run's method knows of the image before it gets words, as
    `ovseg_core.prediction.stored_features` packs it."""


class ShardRows(Frozen):
    """All rows of one annotated shard, before they are written; images in manifest order."""

    images: tuple[ImageResult, ...]
    scores: tuple[ScoreRow, ...]
    annotations: tuple[Annotation, ...]
    vectors: tuple[ImageVector, ...] = ()
    features: tuple[FeatureRow, ...] = ()
    other_sizes: dict[str, NonNegativeInt] = {}
    """Bytes of the files, by `image_id`, that were annotated with another size than they were
    listed with: they changed in between."""


class ShardTally(Frozen):
    """Counts and times of a finished shard, for the driver."""

    num_images: NonNegativeInt
    num_segments: NonNegativeInt
    errors: dict[str, NonNegativeInt] = {}
    """Number of failed images by code."""
    num_multi_frame: NonNegativeInt = 0
    """Images whose files have several frames or pages, of which one was annotated."""
    seconds: dict[str, NonNegativeFloat] = {}
    """Summed over images by stage (`STAGES`), and of the compute thread (`THREAD_TIMES`)."""

    def num_failed(self, codes: Container[str]) -> int:
        """Return the number of images that failed with one of the codes."""
        return sum(count for code, count in self.errors.items() if code in codes)

    @property
    def num_waiting(self) -> int:
        """Images with a passing error: the next call of the same command tries them again."""
        return self.num_failed(PASSING_CODES)

    def without_waiting(self) -> "ShardTally":
        """Return the tally without the images that wait."""
        errors = {code: n for code, n in self.errors.items() if code not in PASSING_CODES}
        return self.model_copy(
            update={"num_images": self.num_images - self.num_waiting, "errors": errors}
        )

    def with_seconds(self, **seconds: float) -> "ShardTally":
        """Return the tally with further seconds, added to those that it has."""
        sums = {name: self.seconds.get(name, 0.0) + added for name, added in seconds.items()}
        return self.model_copy(update={"seconds": {**self.seconds, **sums}})

    def is_better_than(self, other: "ShardTally") -> bool:
        """Return whether these rows take the place of others of the same shard.

        They do if fewer images wait; if as many wait, if fewer have failed.
        """
        ours = self.num_waiting, sum(self.errors.values())
        return ours < (other.num_waiting, sum(other.errors.values()))


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
    """Of its tables, see `schemas.tables.SCHEMA_VERSION`."""
    shard: NonNegativeInt
    attempt: str
    fingerprint: str
    files: dict[TableName, FileEntry]
    features: FileEntry | None = None
    """Features of its annotated images, see `run.keep_features`; the shard counts without."""
    tally: ShardTally
    other_sizes: dict[str, NonNegativeInt] = {}
    """See `ShardRows`: what a later listing is compared with, in place of the run's own list."""
    other_versions: dict[str, str] = {}
    """Libraries with another version than when the run was begun, see `run.accept_versions`."""

    @property
    def all_files(self) -> dict[str, FileEntry]:
        """The tables and, where they are kept, the features, by the name of their folder."""
        return {**self.files, **({"features": self.features} if self.features else {})}


class Generation(Frozen):
    """A later state of a run's collection: `generations/NNNNN.json`, created once, written last."""

    schema_version: PositiveInt
    """Of the tables, see `schemas.tables.SCHEMA_VERSION`."""
    number: Annotated[int, Field(ge=2, lt=100_000)]
    """The manifest is generation 1."""
    fingerprint: str
    """Of the run."""
    before: str
    """SHA-256 of the record before, which has one of the record before it; of generation 2 that of
    the manifest."""
    at_s: UnixSeconds
    """When it was written, in Unix seconds: what people said before of an image that changed counts
    no more."""
    limit: NonNegativeInt
    """`image.limit` of the job that listed it."""
    num_images: NonNegativeInt
    """Images of the collection from then on."""
    new: FileEntry
    """Images that came or changed, in the manifest's columns."""
    gone: FileEntry
    """Images that vanished, and those in whose place the changed ones come."""


class ShardFailed(Frozen):
    """A shard that was given up; it is tried again by the next run."""

    shard: NonNegativeInt
    attempts: PositiveInt
    message: str
