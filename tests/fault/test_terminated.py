"""SIGTERM ends a job in order; two drivers on one run folder share its work."""

import itertools
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from schemas.errors import ExitCode, RunFolderError
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    ColourSegmenter,
    SegmenterFaults,
    colour_config,
    table_rows,
)
from tests.helpers.killed_processes import run_job

SLOW = SegmenterFaults(seconds_per_image=0.1)


def wait_for_a_shard(process, out):
    while process.is_alive() and not any((out / "done").glob("*.json")):
        time.sleep(0.01)
    assert process.is_alive()


@pytest.mark.parametrize("is_local", [True, False])
def test_terminated_job_hands_in_its_shards_and_goes_on_later(
    is_local, images, undisturbed, forks, tmp_path
):
    config = colour_config(images, tmp_path / "run", run={"local": is_local, "workers": 1})
    process = forks.Process(target=run_job, args=(config, SLOW))
    process.start()
    wait_for_a_shard(process, tmp_path / "run")
    process.terminate()
    process.join(60)
    assert process.exitcode == ExitCode.TERMINATED
    run = RunFolder.open(config.out)
    done = len(run.done())
    assert 1 <= done < 5
    assert not run.orphans()
    report = job.run(
        config.model_copy(update={"run": config.run.model_copy(update={"local": True})}),
        Progress(),
        BuildColourSegmenter(),
    )
    assert (report.exit_code, report.num_new) == (0, 20 - 4 * done)
    assert table_rows(config.out) == undisturbed


def test_second_signal_ends_a_job_at_once(images, forks, tmp_path):
    config = colour_config(images, tmp_path / "run")
    process = forks.Process(target=run_job, args=(config, SegmenterFaults(seconds_per_image=1.0)))
    process.start()
    while process.is_alive() and not (tmp_path / "run" / "run.yaml").exists():
        time.sleep(0.01)
    for _ in range(2):
        time.sleep(0.3)
        process.terminate()
    process.join(10)
    assert process.exitcode == ExitCode.TERMINATED


def test_two_drivers_share_the_work(images, undisturbed, forks, tmp_path):
    config = colour_config(images, tmp_path / "run", shard_size=1)
    drivers = [forks.Process(target=run_job, args=(config, SLOW)) for _ in range(2)]
    started = time.monotonic()
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(60)
    assert [driver.exitcode for driver in drivers] == [0, 0]
    assert table_rows(config.out) == undisturbed
    markers = RunFolder.open(config.out).done().values()
    attempts = [marker.attempt.split("-")[0] for marker in markers]
    shares = sorted(attempts.count(name) for name in set(attempts))
    assert len(shares) == 2
    assert shares[0] >= 5
    assert time.monotonic() - started < 20


@dataclass(frozen=True)
class BuildAndDelete(BuildColourSegmenter):
    """A segmenter that moves the run folder away when it gets its n-th batch, counted from 0."""

    batch: int = 0

    def __call__(self, config, device):
        built = super().__call__(config, device)
        run, batches, deletes_at = Path(config.out), itertools.count(), self.batch

        class Deleting(ColourSegmenter):
            def encode(self, images):
                if next(batches) == deletes_at:
                    run.rename(run.with_name("deleted"))
                return super().encode(images)

        return replace(built, segmenter=Deleting(**vars(built.segmenter)))


@pytest.mark.parametrize("batch", [0, 4])
def test_run_folder_that_is_deleted_in_mid_run(images, undisturbed, tmp_path, batch):
    config = colour_config(images, tmp_path / "run", shard_size=2)
    with pytest.raises(RunFolderError, match="was deleted or moved while the job ran"):
        job.run(config, Progress(), BuildAndDelete(batch=batch))
    with pytest.raises(RunFolderError, match="delete the folder and give the command again"):
        job.run(config, Progress(), BuildColourSegmenter())
    shutil.rmtree(tmp_path / "run")
    assert job.run(config, Progress(), BuildColourSegmenter()).exit_code == 0
    assert table_rows(config.out) == undisturbed
