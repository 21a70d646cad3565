"""Runs without image files: a failed image in three, and a cat in each of the others.

For runs with photographs and drawn masks see `drawn_runs`.
"""

import zlib

from pipeline.run.folder import RunFolder
from pipeline.run.identity import RunIdentity
from schemas.config import JobConfig
from schemas.errors import ErrorCode
from schemas.records import (
    Annotation,
    ImageRef,
    ImageResult,
    ImageVector,
    ScoreRow,
    Shard,
    ShardRows,
    ShardTally,
)
from schemas.score_columns import SCORE_COLUMNS
from schemas.tables import to_table


def image_refs(count: int) -> list[ImageRef]:
    return [
        ImageRef(image_id=f"{i:016x}", path=f"a/{i:04d}.jpg", uri=f"/data/a/{i:04d}.jpg")
        for i in range(count)
    ]


def make_identity(out: str, **settings: object) -> RunIdentity:
    given = {"images": "/data", "out": out, "labels": ["cat", "dog"], "shard_size": 4} | settings
    return RunIdentity(JobConfig.model_validate(given), {"clip": "a" * 64})


def begin_run(out: str, num_images: int = 10, **settings: object) -> RunFolder:
    """Create a run of shards of four images, or resume it."""
    images = to_table("manifest", image_refs(num_images))
    return RunFolder.create_or_resume(out, make_identity(out, **settings), images)


def make_rows(shard: Shard) -> ShardRows:
    """Return rows for a shard: every third image failed, the others have a cat."""
    images, scores, annotations, vectors = [], [], [], []
    for place, ref in enumerate(shard.refs):
        base = {"image_id": ref.image_id, "path": ref.path, "uri": ref.uri}
        if place % 3 == 2:
            failure = {"status": "error", "error_code": ErrorCode.TRUNCATED, "error_message": "cut"}
            images.append(ImageResult(**base, **failure))
            continue
        images.append(ImageResult(**base, height=20, width=30, num_segments=1, read_s=0.5))
        shares = {"max_prob": 0.5, "mean_prob": 0.25, "area_frac": 0.125}
        scores.append(ScoreRow(image_id=ref.image_id, label="cat", category_id=1, **shares))
        annotations.append(_cat(ref.image_id))
        vectors.append(ImageVector(image_id=ref.image_id, vector=unit_vector(ref.image_id)))
    return ShardRows(
        images=tuple(images),
        scores=tuple(scores),
        annotations=tuple(annotations),
        vectors=tuple(vectors),
    )


def unit_vector(text: str) -> tuple[float, ...]:
    """Return one of sixteen unit vectors of four numbers."""
    bits = zlib.crc32(text.encode())
    return tuple(0.5 if bits >> place & 1 else -0.5 for place in range(4))


def make_tally(rows: ShardRows) -> ShardTally:
    failed = sum(row.status == "error" for row in rows.images)
    return ShardTally(
        num_images=len(rows.images),
        num_segments=len(rows.annotations),
        errors={"truncated": failed} if failed else {},
        seconds={"wall": 1.0},
    )


def _cat(image_id: str) -> Annotation:
    return Annotation(
        image_id=image_id,
        label="cat",
        category_id=1,
        segment_index=0,
        kind="class",
        height=20,
        width=30,
        rle_counts="V3?50000000^<",  # rows 2 to 16 of columns 5 to 9
        area_px=75,
        bbox_xywh=(5.0, 2.0, 5.0, 15.0),
        **{**dict.fromkeys(SCORE_COLUMNS, 0.5), "area_frac": 0.125, "num_components": 1},
    )
