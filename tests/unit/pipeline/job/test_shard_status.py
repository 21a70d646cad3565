"""Attempts, shards that are given up, and jobs that stop."""

import time

import pytest

from pipeline.annotate.rows import FailedImage, StageSeconds, failed_rows, tally_of
from pipeline.job.progress import Progress
from pipeline.job.shard_status import (
    MAX_ATTEMPTS,
    MAX_CONSECUTIVE_FAILURES,
    MAX_PAUSES,
    ShardStatus,
)
from schemas.errors import ErrorCode, ImageError, StorageError
from schemas.records import ImageRef, Shard, ShardTally
from tests.helpers.imageless_runs import begin_run


def shard(index, num_images=3):
    names = [f"{index}-{number}.png" for number in range(num_images)]
    refs = (ImageRef(image_id=name, path=name, uri=f"/{name}") for name in names)
    return Shard(index=index, refs=tuple(refs))


@pytest.fixture
def status(tmp_path):
    return ShardStatus(begin_run(str(tmp_path / "run")), Progress())


def test_shard_is_retried_a_few_times_then_given_up(status):
    error = StorageError("disk full")
    answers = [status.retry(shard(7), error) for _ in range(MAX_ATTEMPTS)]
    assert answers == [True] * (MAX_ATTEMPTS - 1) + [False]
    assert status.failed == {7: "StorageError: disk full"}
    note = status.run.failed()[7]
    assert (note.attempts, note.message) == (MAX_ATTEMPTS, "StorageError: disk full")
    assert status.progress.given_up == 3


def test_attempts_are_counted_per_shard(status):
    assert all(status.retry(shard(index), ValueError("odd")) for index in range(5))
    assert not status.failed


def test_job_stops_after_consecutive_failures(status):
    for index in range(MAX_CONSECUTIVE_FAILURES):
        assert not status.must_stop
        status.give_up(shard(index), StorageError("no space"))
    assert status.must_stop


def test_finished_shard_resets_the_count_of_failures(status):
    for index in range(MAX_CONSECUTIVE_FAILURES - 1):
        status.give_up(shard(index), StorageError("no space"))
    error = ImageError(ErrorCode.WORKER_LOST, "gone")
    rows = failed_rows(FailedImage(shard(8, 1).refs[0], StageSeconds(), error))
    status.finish(shard(8, 1), tally_of(rows, {"wall": 1.0}))
    status.give_up(shard(9), StorageError("no space"))
    assert not status.must_stop


def tally(num_images, **errors):
    return ShardTally(num_images=num_images, num_segments=0, errors=errors)


def test_shard_with_images_that_wait_is_tried_once_more(status):
    assert status.finish(shard(1), tally(3, not_found=2))
    assert (status.progress.finished, dict(status.progress.errors)) == (1, {})
    assert not status.finish(shard(1), tally(2, not_found=1))
    assert (status.progress.finished, dict(status.progress.errors)) == (3, {"not_found": 1})
    assert not status.finish(shard(2), tally(3, truncated=2))
    assert not status.pause_s


def test_job_pauses_then_stops_when_no_image_can_be_read(status):
    for index in range(MAX_PAUSES):
        assert status.finish(shard(index), tally(3, permission_denied=3))
        assert status.pause_s > 0
        status.finish(shard(90 + index), tally(3, permission_denied=3))  # begun before the pause
        assert not status.must_stop
        time.sleep(status.pause_s)
    status.finish(shard(7), tally(3, permission_denied=3))
    assert status.must_stop
    assert "permission_denied" in status.stop_reason


def test_single_images_that_are_gone_do_not_stop_a_job(status):
    for index in range(3 * MAX_PAUSES):
        status.finish(shard(index), tally(1, not_found=1))
    assert not status.pause_s
    assert not status.must_stop
