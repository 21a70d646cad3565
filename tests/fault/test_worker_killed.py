"""Workers that die on a Ray cluster: by SIGKILL in each step of a commit, by an image."""

import signal

import psutil
import pytest

from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from tests.helpers.colour_segmenter import SegmenterFaults, colour_config, table_rows
from tests.helpers.killed_processes import BuildOnTraps, run_job
from tests.helpers.trap_filesystem import STEPS, set_trap, traps_left

pytestmark = pytest.mark.timeout(600)  # a worker takes long to start on a busy machine
ON_RAY = {"local": False, "workers": 2}


def run(config, faults=None):
    return job.run(config, Progress(), BuildOnTraps(faults or SegmenterFaults()))


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
    images, undisturbed, tmp_path
):
    config = colour_config(images, f"trap://{tmp_path}/run", run={**ON_RAY, "workers": 1})
    set_trap(tmp_path, "before-annotations", shard=3, what="fail 999")
    report = run(config, SegmenterFaults(kill_on="poison", break_on="break"))
    assert (report.exit_code, report.num_done, report.errors) == (3, 16, {"worker_lost": 2})
    assert list(report.failed_shards) == list(RunFolder.open(config.out).failed()) == [3]
    rows = table_rows(config.out)
    lost = {row["path"]: row["error_message"] for row in rows["images"] if row["error_code"]}
    assert list(lost) == ["009-poison.png", "018-break.png"]
    assert "the GPU is gone" in lost["018-break.png"]
    missing = {row["image_id"] for row in undisturbed["images"][12:16]}
    missing |= {row["image_id"] for row in undisturbed["images"] if row["path"] in lost}
    for table, expected in undisturbed.items():
        others = [row for row in expected if row["image_id"] not in missing]
        assert [row for row in rows[table] if row["image_id"] not in missing] == others


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
