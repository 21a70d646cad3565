"""Torn files, writes that fail for a while and writes that always fail."""

import pytest

from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from schemas.errors import BlockedStoreError
from tests.helpers.colour_segmenter import BuildColourSegmenter, colour_config, table_rows
from tests.helpers.fault_plan import Fault
from tests.helpers.faulty_folder import FaultyFolder
from tests.helpers.trap_filesystem import set_trap, traps_left


def run(config):
    return job.run(config, Progress(), BuildColourSegmenter())


def committed(folder, table, shard):
    [path] = (folder / "run" / table).glob(f"{shard:05d}-*.parquet")
    return path


@pytest.mark.parametrize("table", ["images", "scores", "annotations"])
@pytest.mark.parametrize("damage", ["torn", "a byte changed", "gone"])
def test_damaged_table_is_restored(table, damage, images, undisturbed, tmp_path):
    config = colour_config(images, tmp_path / "run")
    run(config)
    path = committed(tmp_path, table, shard=3)
    content = path.read_bytes()
    if damage == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        path.unlink()
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    report = run(config)
    assert (report.exit_code, report.num_new, report.num_done) == (0, 4, 20)
    assert table_rows(config.out) == undisturbed


def test_torn_marker_is_restored(images, undisturbed, tmp_path):
    config = colour_config(images, tmp_path / "run")
    run(config)
    marker = tmp_path / "run" / "done" / "00001.json"
    marker.write_bytes(marker.read_bytes()[:40])
    assert run(config).num_new == 4
    assert table_rows(config.out) == undisturbed


@pytest.mark.parametrize("step", ["before-images", "before-annotations", "before-done"])
def test_write_that_fails_twice_is_retried(step, images, undisturbed, tmp_path):
    config = colour_config(images, f"trap://{tmp_path}/run")
    set_trap(tmp_path, step, shard=1, what="fail 2")
    report = run(config)
    assert not traps_left(tmp_path)
    assert (report.exit_code, report.num_done, report.failed_shards) == (0, 20, {})
    assert table_rows(config.out) == undisturbed


def test_marker_written_with_a_lost_answer_counts_once(images, undisturbed, tmp_path):
    config = colour_config(images, f"trap://{tmp_path}/run")
    set_trap(tmp_path, "after-done", shard=1, what="fail 1")
    assert run(config).exit_code == 0
    assert table_rows(config.out) == undisturbed


def test_shard_that_always_fails_is_noted_and_the_others_are_done(images, undisturbed, tmp_path):
    config = colour_config(images, f"trap://{tmp_path}/run")
    set_trap(tmp_path, "before-scores", shard=1, what="fail 999")
    report = run(config)
    assert (report.exit_code, report.num_done, list(report.failed_shards)) == (3, 16, [1])
    assert "the store fails" in report.failed_shards[1]
    assert "shard 1 failed" in report.summary()
    run_dir = RunFolder.open(config.out)
    assert list(run_dir.failed()) == [1]
    assert list(run_dir.done()) == [0, 2, 3, 4]

    (tmp_path / "traps" / "before-scores-00001").unlink()
    report = run(config)
    assert (report.exit_code, report.num_new, report.failed_shards) == (0, 4, {})
    assert table_rows(config.out) == undisturbed
    assert RunFolder.open(config.out).failed() == {}


@pytest.mark.parametrize(("operation", "path"), [("write", "scores/00002"), ("create", "done/")])
def test_full_store_ends_the_job_at_once_and_leaves_nothing_half_written(
    operation, path, images, undisturbed, tmp_path, monkeypatch
):
    faulty = FaultyFolder(tmp_path, monkeypatch)
    config = colour_config(images, faulty.folder.child("run").uri)
    nth = 3 if operation == "create" else 1
    faulty.plan(Fault(operation, path, nth=nth, action="full_disk", times=99))
    with pytest.raises(BlockedStoreError, match="full, or your share of it: make room"):
        run(config)
    run_folder = RunFolder.open(config.out)
    assert list(run_folder.done()) == [0, 1]
    assert run_folder.orphans() == []
    faulty.plan()
    assert run(config).num_new == 12
    assert table_rows(config.out) == undisturbed


def test_store_that_refuses_all_writes_ends_the_job_early(images, tmp_path):
    config = colour_config(images, f"trap://{tmp_path}/run", shard_size=2)
    for shard in range(10):
        set_trap(tmp_path, "before-images", shard, what="fail 999")
    report = run(config)
    assert (report.exit_code, report.num_done) == (3, 0)
    assert list(report.failed_shards) == [0, 1, 2, 3]  # not all ten: the images are not computed
