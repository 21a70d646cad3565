"""Rows that somebody else wrote, with fitting hashes, are held against the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from pipeline.storage.parquet import write_table
from schemas.errors import RunFolderError
from tests.helpers.drawn_runs import Scene, label_map, make_run
from tests.helpers.tampered_runs import rewrite


def _read_all(run: RunFolder) -> int:
    num_segments = sum(len(list(shard.segments())) for shard in RunReader(run).shards())
    return num_segments + sum(
        batch.num_rows for name in ("images", "scores", "vectors") for batch in run.read_table(name)
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    scenes = [Scene(f"sub/{seed}.png", label_map(seed)) for seed in range(5)]
    return make_run(tmp_path_factory.mktemp("honest"), scenes)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("images", {"path": lambda _: "../../.bashrc"}, "path is not that of"),
        ("images", {"uri": lambda _: "file:///etc/passwd"}, "uri is not that of"),
        ("images", {"image_id": lambda _: "0" * 16}, "image_id is not that of"),
        ("images", {"status": lambda _: "fine"}, "status holds 'fine'"),
        ("images", {"error_code": lambda _: "\x1b[2J"}, r"error_code holds '\\x1b\[2J'"),
        ("images", {"review_priority": lambda _: float("nan")}, "not finite"),
        ("images", {"exif_orientation": lambda _: 9}, "from 9 to 9, out of its range"),
        ("images", {"segment_s": lambda _: -1.0}, "segment_s holds numbers from -1.0"),
        ("annotations", {"image_id": lambda _: "nobody"}, "image_id holds 'nobody'"),
        ("annotations", {"label": lambda _: "lynx"}, "label holds 'lynx'"),
        ("annotations", {"category_id": lambda _: 77}, "category_id holds 77 to 77, not 1 to 3"),
        ("annotations", {"category_id": lambda old: old % 3 + 1}, "not the place of its label"),
        ("annotations", {"kind": lambda _: "blob"}, "kind holds 'blob'"),
        ("annotations", {"mean_prob": lambda _: 1.5}, "mean_prob holds numbers"),
        ("scores", {"max_prob": lambda _: float("inf")}, "not finite"),
        ("scores", {"label": lambda _: None}, "null"),
        ("vectors", {"image_id": lambda _: "nobody"}, "image_id holds 'nobody'"),
        ("vectors", {"vector": lambda old: [2 * it for it in old]}, "no unit vector"),
        ("vectors", {"vector": lambda old: [float("nan"), *old[1:]]}, "no unit vector"),
        ("vectors", {"vector": lambda old: [None, *old[1:]]}, "no unit vector"),
        ("vectors", {"vector": lambda old: old[: 1 + (old[0] > 0)]}, "vector holds"),
        ("vectors", {"vector": lambda _: "cat"}, "list"),
    ],
)
def test_rows_that_cannot_be_of_the_run_are_refused(
    honest: RunFolder,
    tmp_path: Path,
    table: str,
    change: dict[str, Callable[[Any], Any]],
    message: str,
) -> None:
    run = rewrite(honest, tmp_path / "run", table, change)
    with pytest.raises(RunFolderError, match=message) as caught:
        _read_all(run)
    assert f"{table}/0000" in str(caught.value)


def test_columns_of_another_type_are_refused(honest: RunFolder, tmp_path: Path) -> None:
    run = rewrite(honest, tmp_path / "run", "annotations", {"mean_prob": lambda _: "high"})
    with pytest.raises(RunFolderError, match=r"annotations/0000.* is damaged"):
        _read_all(run)


def test_a_table_without_its_columns_is_refused(honest: RunFolder, tmp_path: Path) -> None:
    empty = write_table(pa.table({"x": [1]}))
    run = rewrite(honest, tmp_path / "run", "images", {}, content=empty)
    with pytest.raises(RunFolderError, match=r"images/0000.* is damaged"):
        _read_all(run)


def test_rows_as_they_were_written_are_taken(honest: RunFolder, tmp_path: Path) -> None:
    run = rewrite(honest, tmp_path / "run", "annotations", {"mean_prob": lambda old: old})
    assert _read_all(run) == _read_all(honest) > 20
