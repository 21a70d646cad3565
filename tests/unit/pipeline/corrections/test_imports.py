"""Imports of a run: stored whole, listed, taken back."""

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.corrections.imports import (
    CALIBRATION,
    IMPORTS,
    import_names,
    list_imports,
    store_import,
    undo_import,
    undone_since,
)
from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.log import ReviewLog
from pipeline.run.folder import RunFolder
from pipeline.run.markers import bytes_sha256
from pipeline.run.predictions import Predictions
from pipeline.storage import parquet
from schemas.errors import RunFolderError, UserError
from schemas.review import REVIEWED_MASKS, Prefer, ReviewDecision, ReviewedImage, ReviewedMask
from tests.helpers.drawn_runs import Scene, label_map, make_run

PATHS = ("a.png", "b/c.png", "d.png")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, [Scene(path, label_map(seed)) for seed, path in enumerate(PATHS)])


def _import(run: RunFolder, *paths: str, prefer: Prefer = "file", **more) -> str:
    """Import images of which the first mask was kept."""
    images = [
        ReviewedImage(image_id=f"id-{path}", path=path, source="tool", **more) for path in paths
    ]
    masks = []
    for image in images:
        row = Predictions(run).segments(image.image_id)[0]
        fields = {name: row[name] for name in row if name in ReviewedMask.model_fields}
        masks.append(ReviewedMask.model_validate({**fields, "verdict": "accepted"}))
    return store_import(run, "tool: file", images, masks, prefer)


def _reject_on_the_page(run: RunFolder, path: str, at_s: float) -> None:
    decision = {"image_id": f"id-{path}", "label": "cat", "segment_index": 0, "action": "reject"}
    ReviewLog(run).append([ReviewDecision.model_validate(decision | {"at_s": at_s})])


def test_an_import_taken_back_after_a_calibration_is_told(run, tmp_path):
    first, second = _import(run, "a.png"), _import(run, "b/c.png")
    undo_import(run, first)
    run.folder.atomic_write(CALIBRATION, b"{}")
    file = Path(run.folder.uri) / CALIBRATION
    [earlier] = (file.parent / "imports").glob("*.undone.json")
    os.utime(file, (earlier.stat().st_mtime + 1,) * 2)
    assert undone_since(file) == []
    undo_import(run, second)
    os.utime(file, (earlier.stat().st_mtime - 1,) * 2)
    assert undone_since(file) == [first, second]
    elsewhere = tmp_path / "calibration.json"
    elsewhere.write_bytes(b"{}")
    assert undone_since(elsewhere) == []


def test_undone_import_gives_place_to_the_earlier_one(run):
    first = _import(run, "a.png", "b/c.png", seconds=1.0)
    second = _import(run, "a.png", seconds=2.0)
    assert ReviewedLayer(run).images["id-a.png"].seconds == 2.0
    before = import_names(run)
    listed = list_imports(run)
    assert [entry.id for entry in listed] == [first, second]
    assert [(entry.num_images, entry.num_masks, entry.num_replaced) for entry in listed] == [
        (2, 2, 1),
        (1, 1, 0),
    ]
    assert undo_import(run, second).undone_at_s is not None
    assert ReviewedLayer(run).images["id-a.png"].seconds == 1.0
    assert import_names(run) != before
    assert [entry.undone_at_s is None for entry in list_imports(run)] == [True, False]
    undo_import(run, first)
    assert ReviewedLayer(run).images == {}


def test_undo_mistakes_name_the_imports(run):
    with pytest.raises(UserError, match="its imports: none"):
        undo_import(run, "0a")
    known = _import(run, "a.png")
    with pytest.raises(UserError, match=known):
        undo_import(run, "")
    undo_import(run, known)
    with pytest.raises(UserError, match="taken back already"):
        undo_import(run, known)


@pytest.mark.parametrize(
    ("prefer", "told_at_s", "page_at_s", "page_counts"),
    [
        ("file", None, 50.0, False), ("page", 90.0, 50.0, True), ("newer", None, 50.0, True),
        ("newer", 90.0, 50.0, False), ("newer", 90.0, 95.0, True), ("file", 90.0, 95.0, False),
    ],
)  # fmt: skip
def test_what_counts_of_an_image_decided_before(run, prefer, told_at_s, page_at_s, page_counts):
    _reject_on_the_page(run, "a.png", page_at_s)
    _import(run, "a.png", prefer=prefer, told_at_s=told_at_s)
    assert (ReviewedLayer(run).masks("id-a.png") == ()) == page_counts


def test_image_with_masks_of_unknown_labels_is_reviewed_in_part(run):
    _import(run, "a.png", num_unknown_masks=1, unknown_segments=(1,))
    layer = ReviewedLayer(run)
    assert layer.images == {}
    assert layer.partly_reviewed() == ["id-a.png"]
    assert layer.unknown_segments("id-a.png") == {1}
    outcomes = layer.outcomes("id-a.png") or {}
    assert {index: mask and mask.verdict for index, mask in outcomes.items()} == {
        0: "accepted",
        2: None,
    }
    decision = {"image_id": "id-a.png", "label": "dog", "segment_index": 1, "action": "reject"}
    ReviewLog(run).append([ReviewDecision.model_validate(decision | {"at_s": 4e9})])
    layer = ReviewedLayer(run)
    assert layer.unknown_segments("id-a.png") == frozenset()
    assert (layer.outcomes("id-a.png") or {})[1] is None
    whole = {"image_id": "id-a.png", "action": "accept", "at_s": 4e9}
    ReviewLog(run).append([ReviewDecision.model_validate(whole)])
    assert list(ReviewedLayer(run).images) == ["id-a.png"]


def _rename(run: RunFolder, name: str, **changes: object) -> None:
    """Give the only import another name, and its marker other fields, as anybody could."""
    (old,) = import_names(run)
    for file in run.folder.list(IMPORTS):
        content = run.folder.read_bytes(file)
        renamed = file.replace(old.rpartition("/")[2].removesuffix(".json"), name)
        if file == old:
            content = content.replace(old.rpartition("/")[2][:-5].encode(), name.encode())
            content = json.dumps(json.loads(content) | changes).encode()
        run.folder.delete(file)
        run.folder.atomic_write(renamed, content)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("9" * 19 + "-0123abcd", {}),
        ("9" * 25 + "-0123abcd", {}),
        ("zzz", {}),
        ("0001763690000000000-0123abcd", {"at_s": 4e9}),
    ],
)
def test_an_import_that_is_dated_ahead_hides_neither_imports_nor_decisions(
    run, name, changes, caplog
):
    _import(run, "a.png", "d.png", seconds=1.0)
    _rename(run, name, **changes)
    second = _import(run, "a.png", seconds=2.0)
    _reject_on_the_page(run, "d.png", time.time())
    layer = ReviewedLayer(run)
    assert layer.images["id-a.png"].seconds == 2.0
    assert "id-d.png" not in layer.images or layer.images["id-d.png"].seconds is None
    assert second in [entry.id for entry in list_imports(run)]
    assert name in caplog.text


def test_rows_of_an_import_that_are_not_of_the_run_are_skipped_and_named(run, caplog):
    first = ReviewedImage(image_id="id-a.png", path="a.png", source="tool")
    row = Predictions(run).segments("id-a.png")[0]
    fields = {name: row[name] for name in row if name in ReviewedMask.model_fields}
    good = ReviewedMask.model_validate({**fields, "verdict": "accepted"})
    wrong = good.model_copy(update={"label": "cow"})
    other = good.model_copy(update={"category_id": 77})
    store_import(run, "tool: file", [first], [good, wrong, other])
    assert ReviewedLayer(run).masks("id-a.png") == (good,)
    assert "'cow'" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"rle_counts": "PPYo0"},
        {"rle_counts": "o" * 5000},
        {"height": 2**31 - 1},
        {"height": 20, "width": 28, "rle_counts": "`a0`0"},
        {"rle_counts": "\0\x7fé"},
    ],
)
def test_masks_of_an_import_that_are_no_masks_of_their_image_are_left_out(run, change, caplog):
    _import(run, *PATHS)
    (file,) = Path(run.folder.uri, IMPORTS).glob("*-masks-0.parquet")
    rows = parquet.read_table(file.read_bytes()).to_pylist()
    rows[1] |= change
    data = parquet.write_table(pa.Table.from_pylist(rows, REVIEWED_MASKS))
    file.write_bytes(data)
    (marker,) = Path(run.folder.uri, IMPORTS).glob("*.json")
    content = json.loads(marker.read_text())
    content["parts"][0]["masks"] |= {"sha256": bytes_sha256(data), "size_bytes": len(data)}
    marker.write_text(json.dumps(content))
    layer = ReviewedLayer(run)
    assert [len(layer.masks(f"id-{path}")) for path in PATHS] == [1, 0, 1]
    assert "masks-0.parquet, row 2: " in caplog.text or "left out: 1 imported masks" in caplog.text


def test_an_import_names_its_own_files_only(run):
    _import(run, "a.png")
    (name,) = import_names(run)
    marker = json.loads(run.folder.read_bytes(name))
    marker["parts"][0]["images"]["name"] = "../../manifest.parquet"
    run.folder.atomic_write(name, json.dumps(marker).encode())
    with pytest.raises(RunFolderError, match="files of another import"):
        ReviewedLayer(run)
