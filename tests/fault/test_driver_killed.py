"""SIGKILL of the process that runs a job, at each step of a commit and at any moment."""

import random
import signal
import time

import pytest

from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    SegmenterFaults,
    colour_config,
    table_rows,
)
from tests.helpers.fault_plan import Fault, fault_environment
from tests.helpers.killed_processes import run_job
from tests.helpers.trap_filesystem import STEPS, set_trap, traps_left


def finish(config):
    report = job.run(config, Progress(), BuildColourSegmenter())
    assert report.exit_code == 0
    assert report.num_done == report.num_images
    return report


@pytest.mark.parametrize("step", STEPS)
def test_interrupted_commit_is_repeated_without_duplicates(
    step, images, undisturbed, forks, tmp_path
):
    config = colour_config(images, f"trap://{tmp_path}/run")
    set_trap(tmp_path, step, shard=2)
    process = forks.Process(target=run_job, args=(config, SegmenterFaults()))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not traps_left(tmp_path)
    before = RunFolder.open(config.out)
    # The shard in hand counts only if its marker was written.
    expected = [0, 1, 2] if step == "after-done" else [0, 1]
    assert list(before.done()) == expected
    assert finish(config).num_new == 20 - 4 * len(expected)
    assert table_rows(config.out) == undisturbed
    run = RunFolder.open(config.out)
    # Leftover files, if any, are those of the killed process, and no marker names them.
    assert {name.split("/")[1][:5] for name in run.orphans()} <= {"00002"}
    run.clean()
    assert table_rows(config.out) == undisturbed


@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("os.link", "run.yaml"),
        ("os.rename", "images/00002"),
        ("os.rename", "annotations/00002"),
        ("os.link", "done/00002"),
    ],
)
def test_interrupted_write_to_a_local_folder_does_not_count(
    call, path, images, undisturbed, forks, tmp_path
):
    config = colour_config(images, tmp_path / "run")
    environment = fault_environment(tmp_path, [Fault(call, path, action="kill")])
    process = forks.Process(target=run_job, args=(config, SegmenterFaults(), environment))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert finish(config).num_new == (20 if path == "run.yaml" else 12)
    assert table_rows(config.out) == undisturbed


def test_job_killed_repeatedly_completes(images, undisturbed, forks, tmp_path):
    config = colour_config(images, tmp_path / "run", shard_size=2)
    slow = SegmenterFaults(seconds_per_image=0.05)
    dice, kills, progress = random.Random(7), 0, [0]

    def num_done():
        started = (tmp_path / "run" / "run.yaml").exists()
        return len(RunFolder.open(config.out).done()) if started else 0

    while progress[-1] < 10:
        process = forks.Process(target=run_job, args=(config, slow))
        process.start()
        wanted = progress[-1] + dice.randint(0, 2)
        while process.is_alive() and len(list((tmp_path / "run" / "done").glob("*"))) < wanted:
            time.sleep(0.005)
        process.join(dice.uniform(0, 0.2))  # a shard takes 0.1 s
        kills += process.is_alive()
        process.kill()
        process.join()
        progress.append(num_done())
        assert len(progress) < 100
    assert progress == sorted(progress)  # what is committed stays
    assert kills >= 3
    assert finish(config).num_new == 0
    assert table_rows(config.out) == undisturbed
