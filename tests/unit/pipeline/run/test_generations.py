"""Runs that grow: generations of a run's images, whatever comes, changes and vanishes."""

import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from pipeline.annotate.rows import join_rows, tally_of
from pipeline.collection.changes import changes
from pipeline.collection.rows import image_id
from pipeline.run.folder import RunFolder
from pipeline.run.markers import bytes_sha256
from pipeline.run.reader import RunReader
from pipeline.run.trust.confirmed import confirmed
from pipeline.storage import parquet
from schemas.errors import ErrorCode, RunFolderError, UserError
from schemas.records import FileEntry, ImageRef, ImageResult, Shard, ShardRows
from schemas.tables import to_table
from tests.helpers.imageless_runs import make_identity, make_rows

Collection = dict[str, int]
"""Version of each image by its path."""
COLLECTIONS = st.dictionaries(st.sampled_from([f"{n}.jpg" for n in range(12)]), st.integers(0, 5))


def listed(images: Collection) -> pa.Table:
    refs = [
        ImageRef(image_id=image_id(path), path=path, uri=f"/data/{path}", size_bytes=version)
        for path, version in sorted(images.items())
    ]
    return to_table("manifest", refs)


def begin(out: str, images: Collection) -> RunFolder:
    return RunFolder.create_or_resume(out, make_identity(out, shard_size=3), listed(images))


def update(out: str, images: Collection) -> RunFolder:
    run = RunFolder.open(out)
    run = run.updated(changes(run.manifest(), listed(images)), 0)
    run.write_update(make_identity(out).config)
    return RunFolder.open(out)


def rows_of_image(ref: ImageRef) -> ShardRows:
    """Return rows that depend on the image and its version alone; version 5 fails."""
    rows = make_rows(Shard(index=0, refs=(ref,)))
    if ref.size_bytes == 5:
        base = {"image_id": ref.image_id, "path": ref.path, "uri": ref.uri}
        failed = ImageResult(**base, status="error", error_code=ErrorCode.TRUNCATED)
        return ShardRows(images=(failed,), scores=(), annotations=())
    (image,) = rows.images
    seen = image.model_copy(update={"review_priority": (ref.size_bytes or 0) / 8})
    return rows.model_copy(update={"images": (seen,)})


def annotate(run: RunFolder, most: int = 99) -> None:
    for index in run.shards_left(run.done())[:most]:
        rows = join_rows(rows_of_image(ref) for ref in run.shards()[index].refs)
        run.commit(index, "t", rows, tally_of(rows, {"wall": 1.0}))


def contents(run: RunFolder) -> dict[str, list]:
    """Return the rows of each table, in the order in which a fresh run has them."""
    path_of = dict(zip(*(run.manifest()[n].to_pylist() for n in ("image_id", "path")), strict=True))
    return {
        name: sorted(
            (row for batch in run.read_table(name) for row in batch.to_pylist()),
            key=lambda row: path_of[row["image_id"]],
        )
        for name in ("images", "scores", "annotations")
    }


def numbers(run: RunFolder) -> dict[str, int]:
    shards = RunReader(run).shards()
    return {row["path"]: row["number"] for shard in shards for row in shard.images.values()}


def paths(run: RunFolder) -> list[str]:
    return sorted(run.manifest()["path"].to_pylist())


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "run")


@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    first=COLLECTIONS,
    later=st.lists(st.tuples(COLLECTIONS, st.integers(0, 3)), min_size=1, max_size=4),
)
def test_a_run_that_grows_equals_a_fresh_one_row_for_row(
    first: Collection, later: list[tuple[Collection, int]]
) -> None:
    place = tempfile.mkdtemp()
    try:
        out = f"{place}/run"
        run, states = begin(out, first), [first]
        annotate(run)
        begun = contents(run)
        for images, most in later:
            run = update(out, images)
            states.append(images)
            annotate(run, most)
        annotate(run)
        fresh = begin(f"{place}/fresh", images)
        annotate(fresh)
        assert contents(run) == contents(fresh)
        assert run.shards_left(run.done()) == []
        assert (
            run.num_images
            == len(images)
            == RunReader(run).num_images + sum(RunReader(run).errors.values())
        )
        assert RunReader(run).errors == RunReader(fresh).errors
        assert RunReader(run).num_left == 0
        for number, state in enumerate(states, start=1):
            assert paths(RunFolder.open(f"{out}@{number}")) == sorted(state)
        assert contents(RunFolder.open(f"{out}@1")) == begun
        assert run.repair() == []
        assert run.orphans() == []
    finally:
        shutil.rmtree(place)


def test_images_keep_their_number_and_their_shard(out: str) -> None:
    run = begin(out, dict.fromkeys(("a", "c", "d", "e", "f"), 0))
    annotate(run)
    before = numbers(run)
    assert before == {"a": 1, "c": 2, "d": 3, "e": 4, "f": 5}
    run = update(out, {"a": 0, "b": 0, "c": 1, "d": 0, "f": 0})
    annotate(run)
    assert numbers(run) == {"a": 1, "d": 3, "f": 5, "b": 6, "c": 7}
    assert numbers(RunFolder.open(f"{out}@1")) == before
    (last,) = RunReader(run).shards({2})
    assert [row["number"] for row in last.images.values()] == [6, 7]
    ids = [image_id(path) for path in ("a", "b", "c", "e")]
    assert run.places(ids) == [0, 5, 6, -1]
    assert [run.shard_of(place) for place in (0, 4, 5, 6)] == [0, 1, 2, 2]


def test_an_image_that_goes_before_it_is_annotated_is_never_read(out: str) -> None:
    begin(out, dict.fromkeys("abcdefgh", 0))
    run = update(out, {**dict.fromkeys("abcd", 0), "b": 1})
    assert [[ref.path for ref in shard.refs] for shard in run.shards()] == [
        ["a", "c"], ["d"], [], ["b"]
    ]  # fmt: skip
    assert run.shards_left({}) == [0, 1, 3]
    annotate(run)
    assert [marker.tally.num_images for marker in run.done().values()] == [2, 1, 1]
    assert RunReader(run).errors == {}
    first = RunFolder.open(f"{out}@1")
    assert RunReader(first).errors == {"not_found": 3}
    assert RunReader(first).num_left == 2  # nobody annotates its last shard any more


def test_a_reader_sees_the_images_of_one_generation(
    out: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = begin(out, dict.fromkeys("abcd", 0))
    annotate(before)
    seen = contents(before)
    run = update(out, dict.fromkeys("bcdefgh", 0))
    annotate(run)
    assert contents(before) == seen
    assert caplog.messages == []
    assert before.newest() is not before
    assert paths(before.newest()) == list("bcdefgh")
    assert run.newest() is run
    run.check_newest()
    for old in (before, RunFolder.open(f"{out}@1")):
        with pytest.raises(UserError, match="generation 1 of the run, and there is a later one"):
            old.check_newest()
    assert before.repair() == []
    assert contents(run) == contents(RunFolder.open(f"{out}@2"))


def test_a_generation_is_named_by_its_number(out: str, tmp_path: Path) -> None:
    begin(out, {"a": 0})
    with pytest.raises(RunFolderError, match="has no generation 2: its newest is 1"):
        RunFolder.open(f"{out}@2")
    with pytest.raises(RunFolderError, match=r"nothing is not a run folder"):
        RunFolder.open(str(tmp_path / "nothing@2"))
    with pytest.raises(RunFolderError, match=r"names generation 1 of the run .*--out without @"):
        begin(f"{out}@1", {"a": 0})
    begin(str(tmp_path / "mail@7"), {"a": 0, "b": 0})
    assert paths(RunFolder.open(str(tmp_path / "mail@7"))) == ["a", "b"]


def test_what_people_said_of_an_image_counts_until_it_is_replaced(out: str) -> None:
    begin(out, {"a": 0, "b": 0, "c": 0})
    assert RunFolder.open(out).replaced_s == {}
    run = update(out, {"a": 1, "b": 0, "d": 0})
    at_s = run.generations.later[0].at_s
    assert run.replaced_s == {image_id("a"): at_s}
    run = update(out, {"a": 1, "b": 0, "c": 0, "d": 0})  # c is back, whatever it shows now
    assert run.replaced_s == {image_id("a"): at_s, image_id("c"): run.generations.later[1].at_s}
    assert RunFolder.open(f"{out}@1").replaced_s == {}


def test_own_generations_are_remembered_and_no_others(out: str) -> None:
    run = begin(out, {"a": 0})
    assert run.generations.sha256 == run.info.manifest_sha256
    run = update(out, {"a": 0, "b": 0})
    assert confirmed(run.generations.sha256, "").is_own
    record = Path(out, "generations/00002.json")
    record.write_text(record.read_text().replace('"limit": 0', '"limit": 7'))
    assert not confirmed(RunFolder.open(out).generations.sha256, "").is_own


def test_of_two_updates_at_once_one_counts(out: str, caplog: pytest.LogCaptureFixture) -> None:
    begin(out, {"a": 0})
    runs = [RunFolder.open(out) for _ in range(4)]
    updates = [
        run.updated(changes(run.manifest(), listed({"a": 0, f"{place % 2}": 0})), 0)
        for place, run in enumerate(runs)
    ]

    def write(run: RunFolder) -> str:
        try:
            run.write_update(make_identity(out).config)
        except RunFolderError as error:
            return str(error)
        return run.generations.sha256

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(write, updates))
    run = RunFolder.open(out)
    assert run.generations.number == 2
    assert said.count(run.generations.sha256) == 2  # both that have listed the same go on
    lost = [text for text in said if text != run.generations.sha256]
    assert len(lost) == 2
    told = "another job has updated the run to generation 2 first"
    assert caplog.messages == [told] * 3
    assert all("another job has updated this run at the same time" in text for text in lost)
    assert run.orphans() == []


def test_leftovers_of_an_update_that_was_killed_are_orphans(out: str) -> None:
    begin(out, {"a": 0})
    update(out, {"a": 0, "b": 0})
    left = "generations/00003-new-0123456789ab.parquet"
    Path(out, left).write_bytes(b"torn")
    run = RunFolder.open(out)
    assert run.generations.number == 2
    assert run.orphans() == [left]
    assert run.clean() == [left]
    assert paths(RunFolder.open(out)) == ["a", "b"]


def _edit(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        record = folder / "00002.json"
        text = record.read_text()
        assert old in text
        record.write_text(text.replace(old, new))

    return edit


def _name_outside(folder: Path) -> None:
    """Name a file that is not the run's, with the right hash."""
    secret = folder.parents[1] / "secret"
    (table,) = folder.glob("00002-new-*")
    shutil.copy(table, secret)
    _edit(f"generations/{table.name}", "../secret")(folder)


def _flip(folder: Path) -> None:
    (table,) = folder.glob("00002-gone-*")
    data = table.read_bytes()
    table.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])


def _lose_table(folder: Path) -> None:
    next(folder.glob("00002-new-*")).unlink()


def _link(folder: Path) -> None:
    (table,) = folder.glob("00002-new-*")
    shutil.move(table, folder.parents[1] / "elsewhere")
    table.symlink_to(folder.parents[1] / "elsewhere")


def _grow_to_terabytes(folder: Path) -> None:
    os.truncate(folder / "00002.json", 2**41)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "00002.json").rename(folder / "00003.json"), "is missing"),
        (lambda folder: (folder / "00002.json").write_text("{"), "is damaged"),
        (_grow_to_terabytes, "is damaged"),
        (_edit('"number": 2', '"number": 3'), "does not follow the generation before it"),
        (_edit('"before": "', '"before": "0'), "does not follow the generation before it"),
        (_edit('"fingerprint": "', '"fingerprint": "0'), "is of another run"),
        (_edit("-new-", "-new-../../"), "names no file of its own as its new images"),
        (_name_outside, "names no file of its own as its new images"),
        (_lose_table, "which is gone"),
        (_flip, "which is damaged"),
        (_link, "is a symbolic link"),
        (_edit('"num_images": 3', '"num_images": 4'), "says 4 images, there are 3"),
        (_edit('"num_rows": 1', '"num_rows": 0'), "says 0 rows of"),
    ],
)  # fmt: skip
def test_what_ovseg_did_not_write_is_refused(
    out: str, damage: Callable[[Path], None], message: str
) -> None:
    begin(out, dict.fromkeys("abc", 0))
    update(out, dict.fromkeys("abd", 0))
    damage(Path(out, "generations"))
    with pytest.raises((RunFolderError, UserError), match=message):
        RunFolder.open(out).shards()
    assert paths(RunFolder.open(f"{out}@1")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("new", "gone"),
    [
        ({"a": 1}, []),  # it is there already
        ({}, ["z"]),  # it is not there
        ({}, ["a", "a"]),
        ({"../x": 0}, []),
        ({"e": 0}, ["a", "e"]),
    ],
)
def test_images_that_do_not_fit_those_before_are_refused(
    out: str, new: Collection, gone: list[str]
) -> None:
    run = begin(out, dict.fromkeys("abc", 0))
    found = changes(run.manifest(), listed(dict.fromkeys("abc", 0) | {"d": 0}))
    run.updated(found, 0).write_update(make_identity(out).config)
    (record,) = Path(out, "generations").glob("*.json")
    generation = RunFolder.open(out).generations.later[0]
    lost = [{"image_id": image_id(path), "path": path} for path in gone]
    schema = pa.schema([listed({}).schema.field(name) for name in ("image_id", "path")])
    tables = {"new": listed(new), "gone": pa.Table.from_pylist(lost, schema)}
    for kind, table in tables.items():
        data = parquet.write_table(table)
        sha256 = bytes_sha256(data)
        name = f"generations/00002-{kind}-{sha256[:12]}.parquet"
        run.folder.atomic_write(name, data)
        entry = FileEntry(name=name, num_rows=table.num_rows, sha256=sha256, size_bytes=len(data))
        generation = generation.model_copy(update={kind: entry})
    record.write_text(generation.model_dump_json(indent=1))
    with pytest.raises(RunFolderError, match=r"does not fit|leaves the collection's folder"):
        RunFolder.open(out).manifest()
    with pytest.raises(RunFolderError):
        RunFolder.open(out).shards()
