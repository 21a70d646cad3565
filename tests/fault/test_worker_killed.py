"""Workers that die on a Ray cluster: by SIGKILL in each step of a commit, by an image."""

import re
import signal
from typing import cast

import psutil
import pytest

from pipeline.job import job
from pipeline.job.driver import Driver
from pipeline.job.progress import Progress
from pipeline.job.shard_status import ShardStatus
from pipeline.job.termination import Termination
from pipeline.job.worker import WorkerSetup
from pipeline.job.worker_pool import WorkerPool
from pipeline.run.folder import RunFolder
from tests.helpers.colour_segmenter import SegmenterFaults, colour_config, table_rows
from tests.helpers.imageless_runs import begin_run
from tests.helpers.killed_processes import BuildOnTraps, run_job
from tests.helpers.light_worker import LightSetup, LightWorker
from tests.helpers.trap_filesystem import STEPS, set_trap, traps_left

pytestmark = pytest.mark.timeout(600)  # a worker takes long to start on a busy machine
ON_RAY = {"local": False, "workers": 2}


def run(config, faults=None):
    return job.run(config, Progress(), BuildOnTraps(faults or SegmenterFaults()))


def shards_that_kill(caplog) -> list[int]:
    """Return the shards that the log says to kill their workers, in order."""
    return sorted(map(int, re.findall(r"shard (\d+) kills its workers", caplog.text)))


@pytest.mark.usefixtures("ray_cluster")
def test_worker_killed_at_each_step_of_a_commit(images, undisturbed, tmp_path):
    config = colour_config(images, f"trap://{tmp_path}/run", run=ON_RAY)
    for shard, step in enumerate(STEPS):
        set_trap(tmp_path, step, shard)
    report = run(config)
    assert not traps_left(tmp_path)
    assert (report.exit_code, report.num_done, report.failed_shards) == (0, 20, {})
    assert table_rows(config.out) == undisturbed
    assert RunFolder.open(config.out).orphans()  # files of killed workers, which no marker names


@pytest.mark.usefixtures("ray_cluster")
def test_images_that_kill_workers_get_an_error_and_a_failing_shard_is_noted(
    images, undisturbed, tmp_path, caplog
):
    config = colour_config(images, f"trap://{tmp_path}/run", run={**ON_RAY, "workers": 1})
    set_trap(tmp_path, "before-annotations", shard=3, what="fail 999")
    report = run(config, SegmenterFaults(kill_on="poison", break_on="break"))
    assert (report.exit_code, report.num_done, report.errors) == (3, 16, {"worker_lost": 2})
    assert list(report.failed_shards) == list(RunFolder.open(config.out).failed()) == [3]
    # Shard 3 was kept for the worker that died of shard 2.
    assert shards_that_kill(caplog) == [2, 4]
    rows = table_rows(config.out)
    lost = {row["path"]: row["error_message"] for row in rows["images"] if row["error_code"]}
    assert list(lost) == ["009-poison.png", "018-break.png"]
    assert "the GPU is gone" in lost["018-break.png"]
    missing = {row["image_id"] for row in undisturbed["images"][12:16]}
    missing |= {row["image_id"] for row in undisturbed["images"] if row["path"] in lost}
    for table, expected in undisturbed.items():
        others = [row for row in expected if row["image_id"] not in missing]
        assert [row for row in rows[table] if row["image_id"] not in missing] == others


@pytest.mark.usefixtures("ray_cluster")
def test_an_image_that_kills_while_it_is_read_ahead_costs_no_other_one(tmp_path, caplog):
    out, on_one_worker = str(tmp_path / "run"), {"workers": 1, "device": "cpu"}
    begun = begin_run(out, num_images=8, shard_size=2, run=on_one_worker)
    setup = LightSetup(begun.info.job(), "cpu", dies_reading="a/0003.jpg")
    pool = WorkerPool(cast(WorkerSetup, setup), 4, LightWorker)
    try:
        status = ShardStatus(begun, Progress())
        first = pool.wait_for_first()
        Driver(pool, status, iter(begun.shards()), Termination()).run(first)
    finally:
        pool.stop_all()
    assert list(begun.done()) == [0, 1, 2, 3]
    images = [row for batch in begun.read_table("images") for row in batch.to_pylist()]
    assert [row["path"] for row in images] == [f"a/{place:04d}.jpg" for place in range(8)]
    codes = {row["path"]: row["error_code"] for row in images if row["error_code"]}
    assert codes == {"a/0003.jpg": "worker_lost"}
    # The worker had shard 0 and read the first images of shard 1: both are tried one by one.
    assert shards_that_kill(caplog) == [0, 1]


def test_driver_killed_while_workers_are_busy(images, undisturbed, forks, tmp_path):
    config = colour_config(images, tmp_path / "run", run={**ON_RAY, "workers": 1})
    process = forks.Process(target=run_job, args=(config, SegmenterFaults(seconds_per_image=0.2)))
    process.start()
    done = tmp_path / "run" / "done"
    while process.is_alive() and not any(done.glob("*.json")):
        process.join(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    # Ray ends its own processes when the driver is gone; two agents of its take their time.
    _, alive = psutil.wait_procs(family, timeout=3)
    for orphan in alive:
        orphan.kill()
    assert 0 < len(RunFolder.open(config.out).done()) < 5
    here = colour_config(images, tmp_path / "run")
    report = run(here)
    assert (report.exit_code, report.num_done) == (0, 20)
    assert table_rows(config.out) == undisturbed
