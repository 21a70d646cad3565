"""An inspection counts what is committed, and names what failed, what is slow and what is left."""

from pathlib import Path

import pytest

from pipeline.run.folder import RunFolder
from pipeline.run.identity import RunIdentity
from pipeline.run.inspection.inspect import Inspection, inspect_folder
from schemas.config import JobConfig
from schemas.errors import ErrorCode
from schemas.records import (
    Annotation,
    ImageRef,
    ImageResult,
    ScoreRow,
    Shard,
    ShardFailed,
    ShardRows,
    ShardTally,
)
from schemas.tables import to_table

NUM_IMAGES, SHARD_SIZE = 11, 4
"""Three shards, the last of three images."""


def new_run(folder: Path) -> RunFolder:
    config = JobConfig.model_validate(
        {
            "images": str(folder / "photos"),
            "out": str(folder / "run"),
            "labels": ["cat", "dog"],
            "shard_size": SHARD_SIZE,
        }
    )
    refs = [
        ImageRef(image_id=f"id{i:02d}", path=f"{i:02d}.jpg", uri=f"{folder}/photos/{i:02d}.jpg")
        for i in range(NUM_IMAGES)
    ]
    manifest = to_table("manifest", refs)
    return RunFolder.create_or_resume(config.out, RunIdentity(config, {}), manifest)


def image(ref: ImageRef, number: int) -> ImageResult:
    failed = number % 5 == 0
    return ImageResult(
        image_id=ref.image_id,
        path=ref.path,
        uri=ref.uri,
        status="error" if failed else "ok",
        error_code=ErrorCode.TRUNCATED if failed else None,
        error_message="ran out of bytes" if failed else "",
        height=0 if failed else 48,
        width=0 if failed else 64,
        num_segments=0 if failed else 1,
        segment_s=number / 10,
    )


def segment(ref: ImageRef) -> Annotation:
    return Annotation(
        image_id=ref.image_id,
        label="cat",
        category_id=1,
        segment_index=0,
        kind="class",
        height=48,
        width=64,
        rle_counts="PP",
        area_px=9,
        bbox_xywh=(1, 2, 3, 3),
        mean_prob=0.5,
        margin_mean=0.1,
        margin_p10=0.1,
        entropy_mean=0.5,
        objectness_mean=1,
        boundary_uncertainty=0.5,
        area_frac=0.01,
        num_components=1,
    )


def commit(run: RunFolder, shard: Shard) -> None:
    images = [image(ref, int(ref.path[:2])) for ref in shard.refs]
    good = [ref for ref, row in zip(shard.refs, images, strict=True) if row.status == "ok"]
    scores = [
        ScoreRow(
            image_id=ref.image_id,
            label="cat",
            category_id=1,
            max_prob=1,
            mean_prob=0.5,
            area_frac=0.1,
        )
        for ref in good
    ]
    rows = ShardRows(
        images=tuple(images),
        scores=tuple(scores),
        annotations=tuple(segment(ref) for ref in good),
    )
    errors = len(images) - len(good)
    tally = ShardTally(
        num_images=len(images),
        num_segments=len(good),
        errors={"truncated": errors} if errors else {},
        seconds={"read": 0.5, "wall": 2.0},
    )
    run.commit(shard.index, "test", rows, tally)


def test_inspect_half_finished_run(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    shards = run.shards()
    commit(run, shards[0])
    commit(run, shards[2])
    run.fail(ShardFailed(shard=1, attempts=3, message="disk full"))
    found = inspect_folder(RunFolder.open(str(tmp_path / "run")))
    assert (found.num_images, found.num_ok, found.num_errors, found.num_left) == (11, 5, 2, 4)
    assert (found.num_shards, found.num_shards_done) == (3, 2)
    assert found.errors == {"truncated": 2}
    assert found.segments_by_label == {"cat": 5, "dog": 0}
    assert found.num_segments == 5
    counts = {"present": 5, "absent": 0, "unsure": 0, "failed": 4, "not_asked": 13}
    assert found.answers == counts, "11 images x 2 labels; there are no scores of dogs"
    assert [problem.path for problem in found.problems] == ["00.jpg", "10.jpg"]
    assert [slow.path for slow in found.slowest] == [f"{i:02d}.jpg" for i in (10, 9, 8, 3, 2, 1, 0)]
    assert found.slowest[1].seconds == pytest.approx(0.9)
    assert {name: found.seconds[name] for name in ("read", "wall")} == {"read": 1.0, "wall": 4.0}
    assert found.seconds.keys() == {"read", "wall", "write"}
    assert [shard.message for shard in found.failed_shards] == ["disk full"]
    assert found.orphans == ()
    assert Inspection.model_validate_json(found.model_dump_json()) == found


def test_inspect_run_without_a_finished_shard(tmp_path: Path) -> None:
    new_run(tmp_path)
    found = inspect_folder(RunFolder.open(str(tmp_path / "run")))
    assert (found.num_images, found.num_ok, found.num_left) == (11, 0, 11)
    assert found.segments_by_label == {"cat": 0, "dog": 0}
    assert found.slowest == found.problems == ()


def test_orphans_are_listed_and_cleaned(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    commit(run, run.shards()[0])
    (tmp_path / "run" / "scores" / "00001-killed.parquet").write_bytes(b"half")
    found = inspect_folder(run)
    assert found.orphans == ("scores/00001-killed.parquet",)
    run.clean()
    assert inspect_folder(run).orphans == ()
    assert inspect_folder(run).num_ok == found.num_ok == 3
