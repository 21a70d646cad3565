"""Beginning a run, and the commit protocol under kills, damage and concurrent committers."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

import tests.helpers.faulty_filesystem  # noqa: F401 - makes faulty:// known
from pipeline.run.folder import RunFolder, check_free
from schemas.errors import RunFolderError, UserError
from schemas.records import TABLE_NAMES, ShardFailed, ShardRows, ShardTally
from schemas.tables import SCHEMA_VERSION, TABLES, to_records, to_table
from tests.helpers.fault_plan import Fault, fault_environment
from tests.helpers.imageless_runs import begin_run, image_refs, make_identity, make_rows, make_tally


def commit_all(run: RunFolder, skip: tuple[int, ...] = ()) -> None:
    for shard in run.shards():
        if shard.index not in skip:
            rows = make_rows(shard)
            run.commit(shard.index, "t", rows, make_tally(rows))


def contents(run: RunFolder) -> dict[str, list]:
    return {
        name: pa.Table.from_batches(list(run.read_table(name))).to_pylist() for name in TABLE_NAMES
    }


@pytest.fixture(params=["local", "memory", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "my run")
    if request.param == "memory":
        return f"memory://{tmp_path.name}/run"
    return request.getfixturevalue("s3_folder")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return begin_run(str(tmp_path / "run"))


def test_committed_rows_are_read_back(out: str) -> None:
    run = begin_run(out)
    assert run.done() == {}
    assert list(run.read_table("images")) == []
    commit_all(run)
    again = pickle.loads(pickle.dumps(RunFolder.open(out)))
    assert list(again.done()) == [0, 1, 2]
    expected = [make_rows(shard) for shard in again.shards()]
    for name in TABLE_NAMES:
        batches = list(again.read_table(name))
        table = pa.Table.from_batches(batches)
        assert table.schema.equals(TABLES[name][0])
        rows = [row for shard in expected for row in getattr(shard, name)]
        assert list(to_records(name, table)) == rows
        assert sum(m.files[name].num_rows for m in again.done().values()) == len(rows)
    assert again.orphans() == []
    assert begin_run(out).done() == run.done()


def test_read_table_takes_columns_by_name(run: RunFolder) -> None:
    commit_all(run)
    batch = next(run.read_table("images", ["path", "status"]))
    assert batch.schema.names == ["path", "status"]
    with pytest.raises(ValueError, match=r"no columns \['nope'\]"):
        next(run.read_table("images", ["nope"]))


def test_folder_with_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match=r"it holds thesis\.tex, but no run\.yaml"):
        begin_run(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_folder_with_hidden_files_only_is_free(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "empty").mkdir()
    assert len(begin_run(str(tmp_path)).shards()) == 3


def test_open_without_run_yaml_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is not a run folder \(run\.yaml is missing\)"):
        RunFolder.open(str(tmp_path / "nothing"))


def test_changed_manifest_is_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    run = begin_run(out)
    other = begin_run(f"{out}2", num_images=11)
    run.folder.atomic_write("manifest.parquet", other.folder.read_bytes("manifest.parquet"))
    with pytest.raises(RunFolderError, match=r"manifest\.parquet is not the one"):
        RunFolder.open(out).shards()


def test_manifest_without_run_yaml_is_used_for_the_same_collection_only(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    begin_run(out)
    (Path(out) / "run.yaml").unlink()
    with pytest.raises(RunFolderError, match="another collection"):
        begin_run(out, images="/other")
    # The same collection, in which a file has come since: the frozen list stands.
    assert begin_run(out, num_images=11).info.num_images == 10


def test_two_drivers_can_begin_at_once(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda count: begin_run(out, num_images=count), [10, 10, 11, 12]))
    assert len({run.fingerprint for run in runs}) == 1
    assert len({run.manifest().num_rows for run in runs}) == 1


def test_a_run_that_another_driver_begins_meanwhile_is_nothing_foreign(run: RunFolder) -> None:
    commit_all(run)
    check_free(run.folder)  # by a driver that has seen no run.yaml a moment ago
    run.folder.delete("run.yaml")
    with pytest.raises(RunFolderError, match=r"holds shards of a run whose run.yaml is gone"):
        check_free(run.folder)


def test_empty_manifest_has_no_shards(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    run = begin_run(out, num_images=0)
    assert len(run.shards()) == 0
    assert run.info.num_shards == 0
    assert image_refs(0) == []


def test_resume_keeps_the_frozen_list(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    begin_run(out)
    assert list(to_records("manifest", begin_run(out, num_images=11).manifest())) == image_refs(10)


def test_run_yaml_describes_the_run(run: RunFolder) -> None:
    info = RunFolder.open(run.folder.uri).info
    assert (info.num_images, info.num_shards, info.schema_version) == (10, 3, SCHEMA_VERSION)
    assert info.job() == make_identity(run.folder.uri).config
    assert info.weights == {"clip": "a" * 64}
    assert {"pyarrow", "torch"} <= info.versions.keys()
    assert list(to_records("manifest", run.manifest())) == image_refs(10)


def test_commit_keeps_the_first_of_two(run: RunFolder) -> None:
    rows = make_rows(run.shards()[1])
    first = run.commit(1, "one", rows, ShardTally(num_images=4, num_segments=3))
    second = run.commit(1, "two", rows, ShardTally(num_images=4, num_segments=3))
    assert second == first
    assert run.done() == {1: first}
    assert run.orphans() == []


def test_concurrent_commits_leave_one_result(out: str) -> None:
    if out.startswith("memory:"):
        pytest.skip("fsspec's memory checks and writes in two steps: it is for one thread only")
    run = begin_run(out)
    rows = make_rows(run.shards()[0])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: run.commit(0, f"w{i}", rows, make_tally(rows)), range(4)))
    assert len({marker.attempt for marker in found}) == 1
    assert run.done() == {0: found[0]}
    assert run.repair() == []
    assert run.orphans() == []


@pytest.mark.parametrize("table", TABLE_NAMES)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
def test_shard_with_a_damaged_file_is_done_again(run: RunFolder, table: str, damage: str) -> None:
    commit_all(run)
    before = contents(run)
    path = Path(run.folder.uri) / run.done()[1].files[table].name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        torn = {"cut": data[: len(data) // 2], "flipped": data[:9] + b"?" + data[10:], "empty": b""}
        path.write_bytes(torn[damage])
    assert (1 in run.done()) == (damage == "flipped"), "reading checks sizes, resuming the content"
    resumed = begin_run(run.folder.uri)
    assert list(resumed.done()) == [0, 2]
    commit_all(resumed)
    assert contents(resumed) == before
    assert len(resumed.clean()) == len(TABLE_NAMES) - (damage == "missing")
    assert resumed.orphans() == []
    assert contents(resumed) == before


def test_reading_a_damaged_file_of_the_right_size_is_an_error(run: RunFolder) -> None:
    commit_all(run)
    entry = next(iter(run.done().values())).files["images"]
    run.folder.atomic_write(entry.name, bytes(entry.size_bytes))
    with pytest.raises(RunFolderError, match="is damaged: repeat the command that made the run"):
        list(run.read_table("images"))


@pytest.mark.parametrize("text", ["", "{", '{"shard": 1}', "\xff"])
def test_torn_marker_does_not_count(run: RunFolder, text: str) -> None:
    commit_all(run)
    (Path(run.folder.uri) / "done/00001.json").write_text(text, encoding="latin-1")
    assert list(run.done()) == [0, 2]
    commit_all(run)
    assert list(run.done()) == [0, 1, 2]


def test_marker_of_another_run_does_not_count(run: RunFolder, tmp_path: Path) -> None:
    commit_all(run)
    other_out = str(tmp_path / "other")
    other = begin_run(other_out, labels=["cow"])
    for name in run.folder.list():
        if not name.endswith(("yaml", "manifest.parquet")):
            other.folder.atomic_write(name, run.folder.read_bytes(name))
    assert other.done() == {}
    assert other.repair() == [0, 1, 2]


def test_foreign_files_among_the_markers_are_kept(run: RunFolder) -> None:
    run.folder.atomic_write("done/README.txt", b"hello")
    run.folder.atomic_write("done/.00001.json.ab.part", b"another driver is writing this")
    commit_all(run)
    assert run.repair() == []
    assert list(run.done()) == [0, 1, 2]
    assert run.orphans() == ["done/.00001.json.ab.part"]


def test_only_files_that_ovseg_made_are_cleaned_away(run: RunFolder, tmp_path: Path) -> None:
    commit_all(run)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    theirs = [elsewhere / "00001-killed.parquet", elsewhere / ".x.ab12.part"]
    ours = Path(run.folder.uri, "images/00001-killed.parquet")
    people = [Path(run.folder.uri, name) for name in ("images/notes.txt", "film.part", "x.parquet")]
    for file in (*theirs, ours, *people):
        file.write_bytes(b"x")
    Path(run.folder.uri, "images/more").symlink_to(elsewhere)
    assert run.links() == ["images/more"]
    assert run.clean() == ["images/00001-killed.parquet"]
    assert not ours.exists()
    assert all(file.exists() for file in (*theirs, *people))


def test_run_whose_tables_lie_behind_a_link_is_refused(run: RunFolder, tmp_path: Path) -> None:
    commit_all(run)
    images = Path(run.folder.uri, "images")
    images.rename(tmp_path / "elsewhere")
    images.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="images is a symbolic link"):
        RunFolder.open(run.folder.uri).done()


def test_failed_note_is_deleted_by_a_commit(run: RunFolder) -> None:
    failed = ShardFailed(shard=2, attempts=3, message="lost ü at https://h/?***")
    run.fail(failed.model_copy(update={"message": "lost ü at https://h/?sig=SECRET"}))
    assert run.failed() == {2: failed}
    run.fail(failed.model_copy(update={"attempts": 6}))
    assert run.failed() == {2: failed.model_copy(update={"attempts": 6})}
    commit_all(run)
    assert run.failed() == {}


WRITE = """
import sys
import tests.helpers.faulty_filesystem
from tests.helpers.imageless_runs import begin_run, make_rows, make_tally
run = begin_run(sys.argv[1])
done = run.done()
for shard in run.shards():
    if shard.index not in done:
        rows = make_rows(shard)
        run.commit(shard.index, "t", rows, make_tally(rows))
"""


def steps() -> list[Fault]:
    """Return a kill before and behind every kind of write, in the first shard or the last."""
    creations = ("manifest", "run.yaml", "done/00000", "done/00002")
    writes = ("images/00000", "scores/00000", "annotations/00002")
    planned = [("create", path) for path in creations] + [("write", path) for path in writes]
    return [
        Fault(operation, path, action=action)
        for operation, path in planned
        for action in ("kill", "kill_after")
    ]


@pytest.mark.parametrize("fault", steps(), ids=lambda f: f"{f.action}-{f.path}".replace("/", "-"))
def test_run_killed_at_any_write_is_resumed(tmp_path: Path, fault: Fault) -> None:
    out = f"faulty://{tmp_path}/run"
    env = os.environ | fault_environment(tmp_path / "plan", [fault])
    command = [sys.executable, "-c", WRITE, out]
    assert subprocess.run(command, env=env, check=False).returncode == -9
    run = begin_run(out)
    commit_all(run, skip=tuple(run.done()))
    assert list(run.done()) == [0, 1, 2]
    assert run.repair() == []
    undisturbed = begin_run(f"{out}2")
    commit_all(undisturbed)
    assert contents(run) == contents(undisturbed)
    run.clean()
    assert contents(run) == contents(undisturbed)
    assert len(run.folder.list()) == len(undisturbed.folder.list())


@pytest.mark.parametrize("fault", [
    Fault("os.rename", "images/00001", action="kill"),
    Fault("os.rename", "annotations/00001", action="kill"),
    Fault("os.link", "done/00001", action="kill"),
    Fault("os.link", "run.yaml", action="kill"),
], ids=lambda f: f.path.replace("/", "-"))  # fmt: skip
def test_run_killed_on_a_local_disk_is_resumed(tmp_path: Path, fault: Fault) -> None:
    out = str(tmp_path / "run")
    env = os.environ | fault_environment(tmp_path / "plan", [fault])
    command = [sys.executable, "-c", WRITE, out]
    assert subprocess.run(command, env=env, check=False).returncode == -9
    run = begin_run(out)
    commit_all(run, skip=tuple(run.done()))
    assert list(run.done()) == [0, 1, 2]
    assert len(contents(run)["images"]) == 10
    assert run.clean()
    assert run.orphans() == []


def test_nobody_else_looks_into_a_run_whose_images_have_signed_addresses(tmp_path: Path) -> None:
    modes = []
    for name, query in (("signed", "?sig=SECRET"), ("open", "?id=3")):
        refs = [
            ref.model_copy(update={"uri": f"https://h/{ref.path}{query}"}) for ref in image_refs(2)
        ]
        out = tmp_path / name
        out.mkdir(mode=0o755)
        identity = make_identity(str(out))
        RunFolder.create_or_resume(str(out), identity, to_table("manifest", refs))
        modes.append(out.stat().st_mode & 0o777)
    assert modes == [0o700, 0o755]


def _sparse(place: Path) -> None:
    """Make a file of two terabytes that takes no room on the disk."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    os.truncate(place, 2**41)


def test_files_of_terabytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = begin_run(str(out), num_images=8)
    for shard in run.shards():
        rows = make_rows(shard)
        run.commit(shard.index, "a", rows, make_tally(rows))
    whole = list(run.done())
    marker = run.done()[0]
    _sparse(out / marker.files["scores"].name)
    assert list(RunFolder.open(str(out)).done()) == whole[1:]
    done = out / "done" / "00001.json"
    done.unlink()
    _sparse(done)
    assert run.done() == {}
    assert not run.folder.create_once("done/00001.json", b"{}")
    (out / "manifest.parquet").unlink()
    _sparse(out / "manifest.parquet")
    with pytest.raises(UserError, match="has 2,199,023,255,552 bytes, expected at most"):
        RunFolder.open(str(out)).manifest()


def test_marker_of_another_number_of_images_than_its_shard_is_done_again(tmp_path, caplog) -> None:
    run = begin_run(str(tmp_path / "run"), num_images=8)
    shard = run.shards()[1]
    rows = make_rows(shard)
    first = rows.images[:1], rows.scores[:1], rows.annotations[:1]
    part = ShardRows(**dict(zip(("images", "scores", "annotations"), first, strict=True)))
    run.commit(shard.index, "a", part, make_tally(part))
    assert run.done() == run.done() == {}
    (message,) = caplog.messages
    assert message.endswith("00001.json does not count: it says 1 images, the shard has 4")
    run.commit(shard.index, "b", rows, make_tally(rows))
    assert list(run.done()) == [1]


def test_run_file_that_says_another_number_of_images_is_refused(tmp_path: Path) -> None:
    begin_run(str(tmp_path / "run"), num_images=8)
    file = tmp_path / "run" / "run.yaml"
    file.write_text(file.read_text().replace("num_images: 8", "num_images: 6"))
    with pytest.raises(RunFolderError, match=r"has 8 images, run\.yaml says 6"):
        RunFolder.open(str(tmp_path / "run")).manifest()
