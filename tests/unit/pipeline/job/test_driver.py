"""The driver's accounts, without Ray: attempts, giving up, shards taken apart."""

import pytest

from pipeline.annotate.rows import Failed, StageSeconds, failed_rows, tally_of
from pipeline.job import job
from pipeline.job.driver import SplitShard
from pipeline.job.progress import Progress
from pipeline.job.shard_status import HOPELESS, MAX_ATTEMPTS, ShardStatus
from pipeline.run.folder import RunFolder
from schemas.errors import ErrorCode, ImageError, StorageError
from schemas.records import ImageRef, Shard
from tests.helpers.colour_segmenter import BuildOracle, oracle_config, paint_collection


def shard(index, num_images=3):
    names = [f"{index}-{number}.png" for number in range(num_images)]
    refs = (ImageRef(image_id=name, path=name, uri=f"/{name}") for name in names)
    return Shard(index=index, refs=tuple(refs))


def lost(ref):
    return failed_rows(Failed(ref, StageSeconds(), ImageError(ErrorCode.WORKER_LOST, "gone")))


@pytest.fixture
def ledger(tmp_path):
    config = oracle_config(paint_collection(tmp_path / "images", 2), tmp_path / "run")
    job.run(config, Progress(), BuildOracle())
    return ShardStatus(RunFolder.open(config.out), Progress())


def test_a_shard_is_tried_again_a_few_times_then_noted(ledger):
    error = StorageError("disk full")
    answers = [ledger.try_again(shard(7), error) for _ in range(MAX_ATTEMPTS)]
    assert answers == [True] * (MAX_ATTEMPTS - 1) + [False]
    assert ledger.failed == {7: "StorageError: disk full"}
    note = ledger.run_dir.failed()[7]
    assert (note.attempts, note.message) == (MAX_ATTEMPTS, "StorageError: disk full")
    assert ledger.progress.given_up == 3


def test_attempts_are_counted_for_each_shard_apart(ledger):
    assert all(ledger.try_again(shard(index), ValueError("odd")) for index in range(5))
    assert not ledger.failed


def test_a_job_in_which_nothing_works_is_hopeless(ledger):
    for index in range(HOPELESS):
        assert not ledger.hopeless
        ledger.give_up(shard(index), StorageError("no space"))
    assert ledger.hopeless


def test_one_success_gives_hope(ledger):
    for index in range(HOPELESS - 1):
        ledger.give_up(shard(index), StorageError("no space"))
    rows = lost(shard(8, 1).refs[0])
    ledger.done(tally_of(rows, wall_s=1.0))
    ledger.give_up(shard(9), StorageError("no space"))
    assert not ledger.hopeless


def test_a_shard_taken_apart_comes_together_in_manifest_order():
    whole = shard(4, 5)
    apart = SplitShard(whole)
    complete = [apart.add(position, lost(whole.refs[position])) for position in (3, 0, 4, 2, 1)]
    assert complete == [False] * 4 + [True]
    rows = apart.rows()
    assert [row.path for row in rows.images] == [ref.path for ref in whole.refs]
    assert tally_of(rows, apart.wall_s).errors == {"worker_lost": 5}
