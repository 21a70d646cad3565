"""SIGKILL of a job that updates its run, at each step of the update and at any moment."""

import random
import signal
from pathlib import Path

import pytest

import tests.helpers.faulty_filesystem  # noqa: F401 - makes faulty:// known
from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    SegmenterFaults,
    colour_config,
    paint,
    table_rows,
)
from tests.helpers.fault_plan import Fault, fault_environment
from tests.helpers.killed_processes import run_job

NUM_IMAGES = 10


def change(collection: Path, seed: int) -> None:
    """Let images come, change and vanish, the same for the same seed."""
    dice = random.Random(seed)
    paths = sorted(collection.glob("*.png"))
    gone, changed = dice.sample(paths, 2)
    gone.unlink()
    paint(changed, 100 + seed)
    for number in range(2):
        paint(collection / f"{seed:03d}-new{number}.png", 200 + 2 * seed + number)


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "collection"
    for number in range(NUM_IMAGES):
        paint(folder / f"{number:03d}.png", number)
    return folder


def finish(config):
    report = job.run(config, Progress(), BuildColourSegmenter())
    assert report.exit_code == 0
    assert report.num_done == report.num_images
    return report


def by_path(out):
    """Return every row of the newest generation, images in the order of their paths."""
    rows = table_rows(out)
    path_of = {row["image_id"]: row["path"] for row in rows["images"]}
    return {name: sorted(rows[name], key=lambda row: path_of[row["image_id"]]) for name in rows}


def updating(config):
    return config.model_copy(update={"run": config.run.model_copy(update={"update": True})})


STEPS = [
    Fault(operation, path, action=action)
    for operation, path in (
        ("write", "generations/00002-new"),
        ("write", "generations/00002-gone"),
        ("create", "generations/00002.json"),
        ("write", "images/00003"),
        ("write", "annotations/00003"),
        ("create", "done/00003"),
    )
    for action in ("kill", "kill_after")
]


@pytest.mark.parametrize("fault", STEPS, ids=lambda f: f"{f.action}-{f.path}".replace("/", "-"))
def test_an_update_killed_at_any_step_goes_on(fault, collection, forks, tmp_path):
    config = colour_config(collection, f"faulty://{tmp_path}/run")
    finish(config)
    before = table_rows(config.out)
    change(collection, 1)
    environment = fault_environment(tmp_path / "plan", [fault])
    process = forks.Process(target=run_job, args=(updating(config), SegmenterFaults(), environment))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    is_written = "generations" not in fault.path or (
        fault.path.endswith(".json") and fault.action == "kill_after"
    )
    assert RunFolder.open(config.out).generations.number == (2 if is_written else 1)
    if is_written:  # without the flag the update goes on, too
        finish(config)
    else:
        assert table_rows(config.out) == before
        finish(updating(config))
    fresh = colour_config(collection, tmp_path / "fresh")
    finish(fresh)
    assert by_path(config.out) == by_path(fresh.out)
    assert table_rows(f"{config.out}@1") == before
    run = RunFolder.open(config.out)
    run.clean()
    assert by_path(config.out) == by_path(fresh.out)
    assert run.orphans() == []


def test_a_run_that_is_updated_and_killed_again_and_again_equals_a_fresh_one(
    collection, forks, tmp_path
):
    config = colour_config(collection, tmp_path / "run", shard_size=2)
    slow = SegmenterFaults(seconds_per_image=0.03)
    dice, kills, updates = random.Random(11), 0, 0
    for attempt in range(60):
        if kills >= 20:
            break
        if attempt % 3 == 2:
            change(collection, attempt)
            updates += 1
        process = forks.Process(target=run_job, args=(updating(config), slow))
        process.start()
        process.join(dice.uniform(0.05, 0.8))
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills >= 20
    assert updates >= 5
    finish(updating(config))
    fresh = colour_config(collection, tmp_path / "fresh", shard_size=2)
    finish(fresh)
    assert by_path(config.out) == by_path(fresh.out)
    assert RunFolder.open(config.out).repair() == []
    assert RunFolder.open(config.out).generations.number >= 2


def test_two_jobs_that_update_at_once_share_the_work(collection, forks, tmp_path):
    config = colour_config(collection, tmp_path / "run")
    finish(config)
    paint(collection / "new.png", 300)
    barrier = forks.Barrier(2)
    processes = [forks.Process(target=_update, args=(config, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    run = RunFolder.open(config.out)
    assert run.generations.number == 2
    assert len(table_rows(config.out)["images"]) == NUM_IMAGES + 1


def _update(config, barrier):
    barrier.wait(30)
    run_job(updating(config), SegmenterFaults())
