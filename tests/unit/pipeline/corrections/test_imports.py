"""Imports of a run: stored whole, listed, taken back."""

from pathlib import Path

import pytest

from pipeline.corrections.imports import import_names, list_imports, store_import, undo_import
from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.log import ReviewLog
from pipeline.run.folder import RunFolder
from pipeline.run.predictions import Predictions
from schemas.errors import UserError
from schemas.review import Prefer, ReviewDecision, ReviewedImage, ReviewedMask
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
