"""The rows of an image in the tables of its shard, and their sums for the driver."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from ovseg_core.decision.image_rows import ImageMasks
from ovseg_core.images.decoding.decode import DecodedImage
from schemas.errors import PASSING_CODES, ErrorCode, ImageError
from schemas.records import (
    STAGES,
    Annotation,
    FeatureRow,
    ImageRef,
    ImageResult,
    ImageVector,
    ScoreRow,
    ShardRows,
    ShardTally,
)

ImageRow = TypeVar("ImageRow", ScoreRow, Annotation, ImageVector, FeatureRow)


@dataclass(frozen=True)
class StageSeconds:
    """Seconds that one image took, by stage."""

    read_s: float = 0.0
    decode_s: float = 0.0
    segment_s: float = 0.0
    rle_s: float = 0.0


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be annotated, and why."""

    ref: ImageRef
    seconds: StageSeconds
    error: ImageError


def annotated_rows(
    ref: ImageRef,
    image: DecodedImage,
    masks: ImageMasks,
    seconds: StageSeconds,
    vector: tuple[float, ...] | None = None,
    features: bytes | None = None,
) -> ShardRows:
    """Return the rows of one annotated image.

    Args:
        ref: the image.
        image: what the decoder says of it; the pixels are not needed.
        masks: segments and scores.
        seconds: by stage.
        vector: CLIP's, of the whole image; None: there is none.
        features: packed; None: they are not kept.
    """
    row = ImageResult(
        image_id=ref.image_id,
        path=ref.path,
        uri=ref.uri,
        height=image.height,
        width=image.width,
        exif_orientation=image.exif_orientation,
        num_frames=image.num_frames,
        value_range=image.value_range,
        color_profile=image.color_profile,
        num_segments=len(masks.segments),
        review_priority=masks.review_priority,
        **asdict(seconds),
    )
    key = ref.image_id
    return ShardRows(
        images=(row,),
        scores=masks.label_scores,
        annotations=masks.segments,
        vectors=() if vector is None else (ImageVector(image_id=key, vector=vector),),
        features=() if features is None else (FeatureRow(image_id=key, features=features),),
    )


def failed_rows(failed: FailedImage) -> ShardRows:
    """Return the row of an image that could not be annotated."""
    image = ImageResult(
        image_id=failed.ref.image_id,
        path=failed.ref.path,
        uri=failed.ref.uri,
        status="error",
        error_code=failed.error.code,
        error_message=failed.error.message,
        **asdict(failed.seconds),
    )
    return ShardRows(images=(image,), scores=(), annotations=())


def join_rows(parts: Iterable[ShardRows]) -> ShardRows:
    """Return the parts' rows as one, in the parts' order."""
    parts = tuple(parts)
    return ShardRows(
        images=tuple(row for part in parts for row in part.images),
        scores=tuple(row for part in parts for row in part.scores),
        annotations=tuple(row for part in parts for row in part.annotations),
        vectors=tuple(row for part in parts for row in part.vectors),
        features=tuple(row for part in parts for row in part.features),
        other_sizes={key: size for part in parts for key, size in part.other_sizes.items()},
    )


def replaced_rows(rows: ShardRows, new: ShardRows) -> ShardRows:
    """Return a shard's rows with those of images that failed and were tried again, in order.

    An image keeps its row where it failed the same way again, and where its content had been the
    reason and now its store is: an outage says nothing of the content. A file that is gone does.

    Args:
        rows: of the shard.
        new: of the images that were tried again.

    Returns:
        `rows` itself where every image keeps its row.
    """
    before = {image.image_id: image for image in rows.images}
    again = {
        image.image_id: image
        for image in new.images
        if _takes_the_place(image.error_code, before[image.image_id].error_code)
    }
    if not again:
        return rows
    place_of = {image_id: place for place, image_id in enumerate(before)}

    def joined(kept: Iterable[ImageRow], added: Iterable[ImageRow]) -> tuple[ImageRow, ...]:
        both = [row for row in kept if row.image_id not in again]
        both += [row for row in added if row.image_id in again]
        return tuple(sorted(both, key=lambda row: place_of[row.image_id]))  # sorted is stable

    return ShardRows(
        images=tuple(again.get(image.image_id, image) for image in rows.images),
        scores=joined(rows.scores, new.scores),
        annotations=joined(rows.annotations, new.annotations),
        vectors=joined(rows.vectors, new.vectors),
        features=joined(rows.features, new.features),
        other_sizes=rows.other_sizes
        | {key: size for key, size in new.other_sizes.items() if key in again},
    )


def _takes_the_place(new: ErrorCode | None, old: ErrorCode | None) -> bool:
    is_outage = new in PASSING_CODES and new is not ErrorCode.NOT_FOUND
    return new != old and not (is_outage and old not in PASSING_CODES)


def tally_of(rows: ShardRows, times: Mapping[str, float]) -> ShardTally:
    """Return counts and summed seconds of a shard's rows.

    Args:
        rows: a whole shard.
        times: seconds of the compute thread, see `schemas.records.THREAD_TIMES`.
    """
    errors = Counter(str(row.error_code) for row in rows.images if row.error_code is not None)
    seconds = {stage: sum(getattr(row, f"{stage}_s") for row in rows.images) for stage in STAGES}
    return ShardTally(
        num_images=len(rows.images),
        num_segments=len(rows.annotations),
        errors=dict(sorted(errors.items())),
        num_multi_frame=sum(row.num_frames > 1 for row in rows.images),
        seconds={**seconds, **times},
    )
