"""For any collection and any order of commits, kills, damage and resumes."""

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.collection import manifest
from pipeline.collection.collect import collect
from pipeline.collection.rows import image_id
from pipeline.storage import parquet
from pipeline.storage.folder import Folder
from schemas.config import ImageConfig
from schemas.records import TABLE_NAMES, ImageRef, ShardFailed
from schemas.tables import to_records, to_table
from schemas.untrusted import is_relative_path
from tests.helpers.imageless_runs import begin_run, image_refs, make_rows, make_tally

# Characters that a POSIX file name may hold and text formats like to trip over.
NAME = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1, max_size=12
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 60)
# But a name that leaves its folder on another system is no path of a run.
PATH = st.lists(NAME, min_size=1, max_size=3).map("/".join).filter(is_relative_path)
SEVERAL = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@SEVERAL
@given(count=st.integers(0, 300), size=st.integers(1, 320))
def test_sharding_is_a_partition(count: int, size: int) -> None:
    bounds = manifest.shard_bounds((count, size))
    shards = manifest.Shards(to_table("manifest", image_refs(count)), bounds)
    assert [ref for shard in shards for ref in shard.refs] == image_refs(count)
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(len(shard.refs) == size for shard in shards[:-1])
    assert all(shard.refs for shard in shards)


@SEVERAL
@given(st.lists(st.builds(
    ImageRef,
    image_id=st.text("0123456789abcdef", min_size=16, max_size=16),
    path=PATH,
    uri=PATH.map("s3://bucket/{}".format),
    size_bytes=st.none() | st.integers(0, 2**62),
    etag=st.text("0123456789abcdef-", max_size=40),
), max_size=20, unique_by=(lambda ref: ref.image_id, lambda ref: ref.path)))  # fmt: skip
def test_manifest_round_trip(refs: list[ImageRef]) -> None:
    loaded = manifest.read_manifest(manifest.write_manifest(to_table("manifest", refs)))
    assert list(to_records("manifest", loaded)) == refs


@SEVERAL
@given(paths=st.sets(PATH, min_size=1, max_size=12))
def test_collect_sorts_any_names_and_keeps_ids(paths: set[str]) -> None:
    rows = [{"uri": f"s3://bucket/{path}", "path": path} for path in paths]
    ids = {path: image_id(path) for path in paths}
    if len(set(ids.values())) < len(ids):
        return  # accents written in two ways: refused, see the unit test
    folder = Folder("memory://property")
    folder.atomic_write("list.parquet", parquet.write_table(pa.Table.from_pylist(rows), 100))
    table = collect("memory://property/list.parquet", ImageConfig())
    assert table.column("path").to_pylist() == sorted(paths)
    assert (
        dict(zip(*(table.column(c).to_pylist() for c in ("path", "image_id")), strict=True)) == ids
    )


@SEVERAL
@given(path=PATH, data=st.binary(max_size=100))
def test_file_of_any_name_is_written_and_read(path: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(f"{place}/run")
        folder.atomic_write(path, data)
        assert folder.list() == [path]
        assert folder.read_bytes(path) == data


class RunFolderMachine(RuleBasedStateMachine):
    """The run folder against a dict of what must be readable: shard -> image ids."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.out = str(self.place / "run")
        self.committed: set[int] = set()
        self.gave_up: set[int] = set()

    @initialize(num_images=st.integers(1, 14))
    def begin(self, num_images: int) -> None:
        self.num_images = num_images
        self.run = begin_run(self.out, num_images)
        self.ids = [[ref.image_id for ref in shard.refs] for shard in self.run.shards()]

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Commit a shard, maybe one that is done already."""
        shard = self.run.shards()[data.draw(st.integers(0, len(self.ids) - 1))]
        rows = make_rows(shard)
        self.run.commit(shard.index, "t", rows, make_tally(rows))
        self.committed.add(shard.index)
        self.gave_up.discard(shard.index)

    @rule(data=st.data(), tables=st.integers(1, len(TABLE_NAMES)))
    def die_before_the_marker(self, data: st.DataObject, tables: int) -> None:
        """Leave the files of a worker that was killed before its marker."""
        shard = data.draw(st.integers(0, len(self.ids) - 1))
        for name in TABLE_NAMES[:tables]:
            number = data.draw(st.integers(0, 99))
            self.run.folder.atomic_write(f"{name}/{shard:05d}-dead{number}.parquet", b"torn")

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        shard = data.draw(st.integers(0, len(self.ids) - 1))
        if shard not in self.committed:
            self.run.fail(ShardFailed(shard=shard, attempts=2, message="lost"))
            self.gave_up.add(shard)

    @precondition(lambda self: self.committed)
    @rule(data=st.data(), table=st.sampled_from(TABLE_NAMES))
    def lose_a_file(self, data: st.DataObject, table: str) -> None:
        """Cut a committed file to half; readers must drop the whole shard."""
        shard = data.draw(st.sampled_from(sorted(self.committed)))
        path = self.place / "run" / self.run.done()[shard].files[table].name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.committed.discard(shard)

    @precondition(lambda self: self.committed)
    @rule(data=st.data())
    def tear_a_marker(self, data: st.DataObject) -> None:
        shard = data.draw(st.sampled_from(sorted(self.committed)))
        (self.place / "run/done" / f"{shard:05d}.json").write_text("{")
        self.committed.discard(shard)

    @rule()
    def resume(self) -> None:
        self.run = begin_run(self.out, self.num_images)
        assert set(self.run.folder.list("done")) == {
            f"done/{shard:05d}.json" for shard in self.committed
        }

    @rule()
    def clean(self) -> None:
        self.run.repair()
        self.run.clean()
        assert self.run.orphans() == []
        names = [name for name in self.run.folder.list() if name.endswith(".parquet")]
        assert len(names) == len(TABLE_NAMES) * len(self.committed) + 1

    @invariant()
    def readers_see_what_is_committed(self) -> None:
        if hasattr(self, "run"):
            assert list(self.run.done()) == sorted(self.committed)
            batches = self.run.read_table("images", ["image_id"])
            read = [value for batch in batches for value in batch.column(0).to_pylist()]
            assert read == [i for shard in sorted(self.committed) for i in self.ids[shard]]
            assert set(self.run.failed()) == self.gave_up

    def teardown(self) -> None:
        shutil.rmtree(self.place)


@pytest.mark.timeout(120)
class TestRunFolder(RunFolderMachine.TestCase):
    settings = settings(
        max_examples=25,
        stateful_step_count=15,
        suppress_health_check=list(HealthCheck),
    )
