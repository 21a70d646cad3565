"""Tasks of an array job share one run folder: started at once, killed, started again."""

import signal
from collections import defaultdict

import pytest

import tests.helpers.faulty_filesystem  # noqa: F401 - makes faulty:// known
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

NUM_TASKS = 8


def task_config(number, images, out):
    return colour_config(images, out, shard_size=1, run={"shards": f"{number}/{NUM_TASKS}"})


def run_when_all_are_there(barrier, config):
    barrier.wait(60)
    run_job(config, SegmenterFaults(seconds_per_image=0.05))


def start_at_once(forks, configs):
    """Start a process for each job, wait for the last, and return their exit codes."""
    barrier = forks.Barrier(len(configs))
    processes = [
        forks.Process(target=run_when_all_are_there, args=(barrier, config)) for config in configs
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def shards_by_attempt(out):
    """Return the shards that each process has committed, and check that no other was computed."""
    found = defaultdict(list)
    folder = RunFolder.open(out).folder
    for name in folder.list("images"):  # a shard that is computed twice leaves a second file
        shard, attempt, _ = name.split("/")[-1].split("-")
        found[attempt].append(int(shard))
    return {attempt: sorted(shards) for attempt, shards in found.items()}


@pytest.mark.parametrize("place", ["", "faulty://"])
def test_tasks_started_at_once_do_each_shard_once(place, images, undisturbed, forks, tmp_path):
    out = f"{place}{tmp_path}/run"
    configs = [task_config(number, images, out) for number in range(1, NUM_TASKS + 1)]
    assert start_at_once(forks, configs) == [0] * NUM_TASKS
    run = RunFolder.open(out)
    assert list(run.done()) == list(range(20))
    assert sorted(shards_by_attempt(out).values()) == [
        list(range(first, 20, NUM_TASKS)) for first in range(NUM_TASKS)
    ]
    assert table_rows(out) == undisturbed
    assert not run.orphans()


def test_a_killed_task_does_its_own_rest_when_it_is_started_again(
    images, undisturbed, forks, tmp_path
):
    out = f"{tmp_path}/run"
    third = task_config(3, images, out)  # shards 2, 10 and 18
    environment = fault_environment(tmp_path, [Fault("os.link", "done/", nth=2, action="kill")])
    process = forks.Process(target=run_job, args=(third, SegmenterFaults(), environment))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(RunFolder.open(out).done()) == 1
    again = job.run(third, Progress(), BuildColourSegmenter())
    assert (again.exit_code, again.num_images, again.num_done, again.num_new) == (0, 3, 3, 2)
    assert again.num_left_to_others == 17
    assert list(RunFolder.open(out).done()) == [2, 10, 18]
    assert start_at_once(forks, [task_config(n, images, out) for n in (1, 2, 4, 5)]) == [0] * 4
    # Tasks 6 to 8 never come: the job without tasks does what is theirs.
    last = job.run(colour_config(images, out, shard_size=1), Progress(), BuildColourSegmenter())
    assert (last.exit_code, last.num_done, last.num_new, last.whole) == (0, 20, 6, None)
    assert RunFolder.open(out).clean()  # of the killed process
    assert table_rows(out) == undisturbed


def test_one_task_started_twice_at_once_leaves_no_row_twice(images, undisturbed, forks, tmp_path):
    out = f"{tmp_path}/run"
    twice = colour_config(images, out, shard_size=1, run={"shards": "2/2"})
    once = colour_config(images, out, shard_size=1, run={"shards": "1/2"})
    assert start_at_once(forks, [twice, once, twice]) == [0, 0, 0]
    assert table_rows(out) == undisturbed
    assert not RunFolder.open(out).orphans()
