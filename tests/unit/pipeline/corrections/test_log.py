"""The correction log: decisions in order, none lost, with several writers and after kills."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.corrections.log import FOLDER, ReviewLog
from pipeline.run.folder import RunFolder
from pipeline.storage import parquet
from schemas.errors import RunFolderError, StorageError, UserError
from schemas.review import DECISIONS, ReviewDecision, ReviewKey
from tests.helpers.fault_plan import PLAN_ENV, Fault, fault_environment
from tests.helpers.faulty_filesystem import FaultyFileSystem
from tests.helpers.imageless_runs import begin_run


def _accept(image: str, index: int | None = 0, **more) -> ReviewDecision:
    label = None if index is None else "cat"
    given = {"action": "accept", "at_s": 1.0} | more
    return ReviewDecision(image_id=image, label=label, segment_index=index, **given)


@pytest.fixture(params=["local", "memory", "s3"])
def run(request, tmp_path: Path) -> RunFolder:
    places = {
        "local": lambda: str(tmp_path / "run #1"),
        "memory": lambda: f"memory://{uuid.uuid4()}/run",
        "s3": lambda: request.getfixturevalue("s3_folder"),
    }
    out = places[request.param]()
    return begin_run(out)


@pytest.fixture
def local_run(tmp_path: Path) -> RunFolder:
    out = str(tmp_path / "run")
    return begin_run(out)


def _logged(run: RunFolder) -> list[ReviewDecision]:
    return ReviewLog(run).decisions()


def test_new_log_reads_decisions_in_order(run):
    decisions = [_accept(f"i{n}", n % 3, at_s=100.0 - n, source="ünï") for n in range(7)]
    log = ReviewLog(run)
    log.append(decisions[:1])
    log.append(decisions[1:4])
    log.append([])
    log.append(decisions[4:])
    assert log.decisions() == decisions == _logged(run)
    assert len(log) == 7
    assert len(run.folder.list("reviewed")) == 3


def test_packing_changes_no_decision(run):
    log = ReviewLog(run, pack_at=5)
    decisions = [_accept(f"i{n}", None if n % 2 else n) for n in range(13)]
    for decision in decisions:
        log.append([decision])
    names = run.folder.list(FOLDER)
    assert sum(name.endswith(".parquet") for name in names) == 2
    assert sum(name.endswith(".json") for name in names) == 3
    assert log.decisions() == decisions == _logged(run)


def test_current_is_the_last_decision_that_is_not_undone(local_run):
    log = ReviewLog(local_run)
    relabel = _accept("a", action="relabel", new_label="dog")
    log.append([_accept("a"), relabel, _accept("b"), _accept("a", None, action="reject")])
    key, whole = ReviewKey("a", "cat", 0), ReviewKey("a")
    assert log.current()[key] == relabel
    assert log.current()[whole].action == "reject"
    log.append([_accept("a", action="undo")])
    assert log.current()[key] == _accept("a")
    log.append([_accept("a", action="undo"), _accept("a", action="undo")])
    assert key not in log.current()
    log.append([_accept("a", action="skip")])
    assert log.current()[key].action == "skip"
    assert log.current() == ReviewLog(local_run).current()


def test_two_writers_see_all_decisions_of_each_other(run):
    one, two = ReviewLog(run, pack_at=4), ReviewLog(run, pack_at=4)
    for n in range(9):
        one.append([_accept(f"one{n}")])
        two.append([_accept(f"two{n}")])
    one.refresh()
    two.refresh()
    assert one.decisions() == two.decisions() == _logged(run)
    assert {d.image_id for d in one.decisions()} == {
        f"{w}{n}" for w in ("one", "two") for n in range(9)
    }
    one.append([_accept("two0", action="undo")])
    two.refresh()
    assert ReviewKey("two0", "cat", 0) not in two.current()


def test_order_does_not_depend_on_a_clock_set_back(local_run, monkeypatch):
    log = ReviewLog(local_run)
    log.append([_accept("a")])
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    log.append([_accept("a", action="undo")])
    assert ReviewLog(local_run).current() == {}


class InterruptedFileSystem(FaultyFileSystem):
    """The local disk, on which something happens once between a listing and its answer."""

    protocol = "interrupted"
    interruption: ClassVar[Callable[[], None] | None] = None

    def find(self, path: str, *args: Any, **options: Any) -> Any:
        found = super().find(path, *args, **options)
        interruption, type(self).interruption = type(self).interruption, None
        if interruption is not None:
            interruption()
        return found


fsspec.register_implementation("interrupted", InterruptedFileSystem, clobber=True)


def test_refresh_lists_again_after_listed_entries_were_packed(local_run):
    writer = ReviewLog(local_run, pack_at=3)
    for n in range(2):
        writer.append([_accept(f"i{n}")])
    reader = RunFolder.open(f"interrupted://{local_run.folder.uri}")
    InterruptedFileSystem.interruption = lambda: writer.append([_accept("i2")])
    assert [d.image_id for d in _logged(reader)] == ["i0", "i1", "i2"]
    assert InterruptedFileSystem.interruption is None


def test_pack_with_entries_not_deleted_counts_once(local_run):
    log = ReviewLog(local_run, pack_at=4)
    for n in range(3):
        log.append([_accept(f"i{n}")])
    kept = {name: local_run.folder.read_bytes(name) for name in local_run.folder.list(FOLDER)}
    log.append([_accept("i3")])
    for name, data in kept.items():  # the packer was killed before it had removed these
        local_run.folder.atomic_write(name, data)
    assert _logged(local_run) == log.decisions()
    again = ReviewLog(local_run, pack_at=4)
    again.append([_accept("i4")])
    assert [d.image_id for d in _logged(local_run)] == [f"i{n}" for n in range(5)]


@pytest.fixture
def faulty_run(local_run) -> RunFolder:
    return RunFolder.open(f"faulty://{local_run.folder.uri}")


def test_failed_pack_leaves_the_entries(faulty_run, tmp_path, monkeypatch, caplog):
    log = ReviewLog(faulty_run, pack_at=2)
    faults = [Fault("write", "pack-", action="full_disk", times=2)]
    monkeypatch.setenv(PLAN_ENV, fault_environment(tmp_path / "plan", faults)[PLAN_ENV])
    for n in range(3):
        log.append([_accept(f"i{n}")])
    assert "No space left" in caplog.text
    assert len(_logged(faulty_run)) == 3
    assert len(faulty_run.folder.list(FOLDER)) == 3
    log.append([_accept("i3")])
    assert len(faulty_run.folder.list(FOLDER)) == 1
    assert [d.image_id for d in _logged(faulty_run)] == [f"i{n}" for n in range(4)]


def test_failed_append_keeps_nothing(faulty_run, tmp_path, monkeypatch):
    log = ReviewLog(faulty_run)
    log.append([_accept("a")])
    faults = [Fault("write", "json", action="full_disk")]
    monkeypatch.setenv(PLAN_ENV, fault_environment(tmp_path / "plan", faults)[PLAN_ENV])
    with pytest.raises(StorageError):
        log.append([_accept("b")])
    assert log.decisions() == [_accept("a")] == _logged(faulty_run)


def test_damaged_file_is_named_in_the_error(local_run):
    log = ReviewLog(local_run, pack_at=2)
    log.append([_accept("a")])
    name = local_run.folder.list(FOLDER)[0]
    whole = local_run.folder.read_bytes(name)
    local_run.folder.atomic_write(name, whole[:20])
    with pytest.raises(RunFolderError, match=name.rpartition("/")[2]):
        ReviewLog(local_run)
    local_run.folder.atomic_write(name, whole)
    log.append([_accept("b")])
    (pack,) = local_run.folder.list(FOLDER)
    local_run.folder.atomic_write(pack, local_run.folder.read_bytes(pack)[:-9])
    with pytest.raises(RunFolderError, match="pack-"):
        ReviewLog(local_run)


@pytest.mark.parametrize(
    "wrong",
    [
        {"action": "relabel"},
        {"action": "accept", "new_label": "dog"},
        {"action": "accept", "label": None, "segment_index": 3},
        {"action": "relabel", "label": None, "segment_index": None, "new_label": "dog"},
        {"action": "delete"},
        {"segment_index": -1},
    ],
)
def test_contradictory_decision_is_refused(wrong):
    with pytest.raises(ValidationError):
        ReviewDecision.model_validate(
            {"image_id": "a", "label": "cat", "segment_index": 0, "action": "accept", "at_s": 0}
            | wrong
        )


def test_relabel_to_an_unknown_label_is_refused(local_run):
    log = ReviewLog(local_run)
    with pytest.raises(UserError, match="'cow' is not a label"):
        log.append([_accept("a"), _accept("b", action="relabel", new_label="cow")])
    assert _logged(local_run) == []


def _entry(*decisions: dict[str, Any]) -> bytes:
    base = {"image_id": "a", "label": "cat", "action": "accept", "at_s": 1.0}
    return json.dumps({"decisions": [base | one for one in decisions]}).encode()


@pytest.mark.parametrize("digits", ["9" * 19, "0001e9", "9" * 25, "1" + "0" * 18])
def test_a_name_from_somebody_else_hides_no_later_decision(local_run, digits, caplog):
    foreign = f"{FOLDER}/{digits}-0123abcd.json"
    local_run.folder.atomic_write(foreign, _entry({"action": "reject", "segment_index": 0}))
    log = ReviewLog(local_run, pack_at=2)
    for _ in range(2):
        log.append([_accept("a")])
    again = ReviewLog(local_run)
    assert len(again.decisions()) == 2
    assert again.current()[ReviewKey("a", "cat", 0)].action == "accept"
    assert list(again.skipped) == [f"{digits}-0123abcd"]
    assert digits in caplog.text
    assert local_run.folder.exists(foreign)


def test_a_log_that_is_ahead_of_the_clock_is_not_extended(local_run, monkeypatch):
    log = ReviewLog(local_run)
    log.append([_accept("a")])
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 2 * 86400 * 10**9)
    with pytest.raises(UserError, match="cannot be extended"):
        log.append([_accept("b")])


@pytest.mark.parametrize(
    "wrong",
    [
        {"at_s": "yesterday"},
        {"at_s": float("nan")},
        {"at_s": 1e300},
        {"label": "cow"},
        {"action": "relabel", "new_label": "cow"},
        {"segment_index": 10**30},
        {"segment_index": "first"},
        {"more": 1},
        {"image_id": None},
        {"image_id": [["a"]]},
    ],
)
def test_one_decision_that_is_wrong_is_skipped_counted_and_named(local_run, wrong, caplog):
    name = "0001763690000000000-0123abcd"
    local_run.folder.atomic_write(f"{FOLDER}/{name}.json", _entry({}, wrong, {"image_id": "b"}))
    log = ReviewLog(local_run, pack_at=1)
    log.append([_accept("c")])
    for read in (log, ReviewLog(local_run)):
        assert [decision.image_id for decision in read.decisions()] == ["a", "b", "c"]
        assert list(read.skipped) == [f"{name}, 2"]
    assert "1 entries or decisions are skipped" in caplog.text
    assert local_run.folder.exists(f"{FOLDER}/{name}.json"), "what was skipped is not packed away"


@pytest.mark.parametrize("data", [b"{}", b"[]", b"7", b'{"decisions": {"a": 1}}'])
def test_an_entry_of_another_form_is_skipped(local_run, data):
    local_run.folder.atomic_write(f"{FOLDER}/0001763690000000000-0123abcd.json", data)
    log = ReviewLog(local_run)
    log.append([_accept("c")])
    assert len(ReviewLog(local_run).decisions()) == 1
    assert list(log.skipped) == ["0001763690000000000-0123abcd"]


def test_rows_of_a_pack_that_are_wrong_are_skipped(local_run):
    good = _accept("a").model_dump() | {"entry": "0001763690000000000-0123abcd"}
    wrong = [{"entry": "9" * 19 + "-0123abcd"}, {"entry": "zzz"}, {"label": "cow"}, {"at_s": -1.0}]
    rows = [good, *(good | one for one in wrong)]
    table = pa.Table.from_pylist(rows, schema=DECISIONS)
    local_run.folder.atomic_write(f"{FOLDER}/pack-00.parquet", parquet.write_table(table))
    log = ReviewLog(local_run)
    assert log.decisions() == [_accept("a")]
    assert len(log.skipped) >= len(wrong)


def test_long_log_is_read_in_time(local_run):
    log = ReviewLog(local_run, pack_at=10)
    for block in range(20):
        log.append(_accept(f"i{block}-{n}") for n in range(1000))
    start = time.perf_counter()
    assert len(ReviewLog(local_run).current()) == 20_000
    assert time.perf_counter() - start < 4, "a hundred thousand would take twenty seconds"


_WRITER = """
import sys
from pipeline.corrections.log import ReviewLog
from pipeline.run.folder import RunFolder
from schemas.review import ReviewDecision

log = ReviewLog(RunFolder.open(sys.argv[1]), pack_at=7)
for number in range(int(sys.argv[2]), 10**6):
    pair = [
        ReviewDecision(image_id=f"{number}-{half}", action="accept", at_s=0) for half in "ab"
    ]
    log.append(pair)
    print(number, flush=True)
"""


def test_killed_writer_keeps_every_reported_decision(local_run):
    begin = 0
    for life in range(4):
        command = [sys.executable, "-c", _WRITER, local_run.folder.uri, str(begin)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            reported = [process.stdout.readline() for _ in range(20 + 3 * life)]
            os.kill(process.pid, signal.SIGKILL)  # while it goes on writing: a moment by chance
            reported += process.stdout.readlines()
        last = max(int(line) for line in reported if line.endswith("\n"))
        logged = [decision.image_id for decision in _logged(local_run)]
        number = (
            last + 1 + (len(logged) > 2 * (last + 1))
        )  # one may have been stored, not decisions
        assert logged == [f"{n}-{half}" for n in range(number) for half in "ab"]
        begin = number


def test_pack_of_terabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    run = begin_run(str(tmp_path / "run"))
    pack = Path(run.folder.uri, FOLDER, "pack-0123456789ab.parquet")
    pack.parent.mkdir(parents=True, exist_ok=True)
    pack.touch()
    os.truncate(pack, 2**41)
    with pytest.raises(UserError, match="has 2,199,023,255,552 bytes, expected at most"):
        ReviewLog(run)
