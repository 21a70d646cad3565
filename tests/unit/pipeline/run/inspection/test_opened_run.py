import json
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from pipeline import OpenedRun, open_run
from pipeline.corrections.import_review import ImportRules, import_review
from pipeline.corrections.log import ReviewLog
from pipeline.run.folder import RunFolder
from schemas.errors import RunFolderError, UserError
from schemas.review import ReviewDecision
from schemas.tables import ANNOTATIONS, SCORES
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run
from tests.helpers.exported_masks import coco_dataset, counts_of

SCENES = [Scene(f"day {i}/{i}.png", label_map(i, 30 + i, 44)) for i in range(5)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("run")
    return make_run(folder, [*SCENES, Scene("broken.png", None)], RunSpec(shard_size=2))


@pytest.fixture
def opened(run: RunFolder) -> OpenedRun:
    return open_run(run.folder.uri)


def test_tables_have_all_rows_and_columns(opened):
    images, scores, annotations = opened.images(), opened.scores(), opened.annotations()
    assert images.num_rows == 6
    assert images.filter(pa_equal(images["status"], "error"))["path"].to_pylist() == ["broken.png"]
    assert "uri" not in images.column_names
    assert scores.num_rows == 5 * len(LABELS)
    assert scores.column_names == SCORES.names
    assert annotations.column_names == ANNOTATIONS.names
    expected = sum(len(np.unique(one.label_map[one.label_map > 0])) for one in SCENES)
    assert annotations.num_rows == expected
    assert opened.labels == tuple(LABELS)


def pa_equal(column, value):
    return [one == value for one in column.to_pylist()]


def test_masks_of_an_image_are_those_that_were_drawn(opened):
    for scene in (SCENES[3], SCENES[0], SCENES[1]):
        np.testing.assert_array_equal(opened.label_map(scene.path), scene.label_map)
        masks, rows = opened.masks(scene.path), opened.segments(scene.path)
        assert masks.shape == (len(rows), *scene.label_map.shape)
        for mask, row in zip(masks, rows, strict=True):
            np.testing.assert_array_equal(mask, scene.label_map == row["category_id"])
    maps = dict(opened.label_maps())
    assert list(maps) == [scene.path for scene in SCENES]


def test_only_some_columns_in_the_order_asked_for(opened):
    table = opened.annotations(["label", "area_px"])
    assert table.column_names == ["label", "area_px"]
    assert opened.images(["path"]).column_names == ["path"]
    with pytest.raises(UserError, match="no column colour; there are image_id"):
        opened.scores(["colour"])


def test_where_an_image_was_is_told_if_it_is_asked_for(opened, run):
    places = opened.images(["uri", "path"])
    assert places.column_names == ["uri", "path"]
    listed = run.manifest().select(["uri", "path"]).to_pylist()
    assert sorted(places.to_pylist(), key=str) == sorted(listed, key=str)
    with pytest.raises(UserError, match="no column address; there are image_id, path, uri"):
        opened.images(["address"])


def test_other_libraries(opened, monkeypatch):
    frame = opened.annotations(["label", "mean_prob"], to="pandas")
    assert list(frame.columns) == ["label", "mean_prob"]
    assert len(frame) == opened.annotations().num_rows
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UserError, match="pip install polars") as missing:
        opened.images(to="polars")
    assert "ModuleNotFoundError" not in "".join(traceback.format_exception(missing.value))
    with pytest.raises(UserError, match="expected arrow, pandas or polars"):
        opened.images(to="excel")


def test_corrections_are_merged(tmp_path):
    run = make_run(tmp_path, SCENES[:3], RunSpec(shard_size=2))
    first = open_run(run.folder.uri)
    row = first.segments(SCENES[0].path)[0]
    common = {"image_id": row["image_id"], "at_s": time.time()}
    relabel = {
        **common, "action": "relabel", "segment_index": 0, "label": row["label"],
        "new_label": LABELS[1],
    }  # fmt: skip
    rejected = first.segments(SCENES[1].path)[0]["image_id"]
    reject = {"image_id": rejected, "at_s": time.time(), "action": "reject"}
    ReviewLog(run).append([ReviewDecision.model_validate(one) for one in (relabel, reject)])
    merged = open_run(run.folder.uri)
    assert merged.annotations(["label"]).column_names == ["label", "verdict"]
    table = merged.annotations(["verdict", "mean_prob"])
    assert table.column_names == ["verdict", "mean_prob"]
    assert table["verdict"].to_pylist().count("changed") == 1
    assert merged.annotations().column_names == [*ANNOTATIONS.names, "verdict"]
    with pytest.raises(UserError, match=r"no column colour; there are .*, verdict$"):
        merged.annotations(["verdict", "colour"])
    assert merged.segments(SCENES[0].path)[0]["label"] == LABELS[1]
    with pytest.raises(UserError, match="was rejected"):
        merged.label_map(SCENES[1].path)
    predicted = open_run(run.folder.uri, masks="predicted")
    assert predicted.annotations().equals(first.annotations())
    for unreviewed in (first, predicted):
        with pytest.raises(UserError, match=r"no column verdict: nobody has reviewed .*predicted"):
            unreviewed.annotations(["label", "verdict"])
    assert "predicted" in repr(predicted)


def _draw_two_dots(run: RunFolder, folder: Path, scene: Scene) -> None:
    """Import one drawn mask of two pixels that do not touch."""
    dataset, dots = coco_dataset(run), np.zeros(scene.label_map.shape, bool)
    rows, columns = np.nonzero(scene.label_map == 0)
    dots[rows[[0, -1]], columns[[0, -1]]] = True
    (number,) = (one["id"] for one in dataset["images"] if one["file_name"] == scene.path)
    drawn = {"size": list(dots.shape), "counts": counts_of(dots)}
    dataset["annotations"].append(
        {"id": 99, "image_id": number, "category_id": 3, "segmentation": drawn}
    )
    file = folder / "drawn.json"
    file.write_text(json.dumps(dataset))
    import_review(run, "coco", str(file), ImportRules(unchanged_means="unreviewed"))


@pytest.mark.parametrize("kind", ["class", "components"])
def test_masks_are_joined_and_cut_as_exports_do_it(tmp_path, kind):
    run = make_run(tmp_path, SCENES, RunSpec(shard_size=2, masks={"segments": kind}))
    first = open_run(run.folder.uri)
    _draw_two_dots(run, tmp_path, SCENES[1])
    decided = []
    for path in (SCENES[0].path, SCENES[3].path):
        cat, *_, dog = (row for row in first.segments(path) if row["label"] in ("cat", "dog"))
        for row, more in ((cat, {"action": "accept"}), (dog, {"action": "relabel"})):
            of_row = {name: row[name] for name in ("image_id", "label", "segment_index")}
            new = {"new_label": "cat"} if more["action"] == "relabel" else {}
            decided.append({**of_row, **more, **new, "at_s": time.time()})
    ReviewLog(run).append([ReviewDecision.model_validate(one) for one in decided])
    merged = open_run(run.folder.uri)
    exported = coco_dataset(run)["annotations"]
    names = ["label", "verdict", "mean_prob", "area_px"]
    found = [tuple(row[name] for name in names) for row in merged.annotations(names).to_pylist()]
    assert found == [
        (LABELS[one["category_id"] - 1], one["attributes"].get("verdict"),
         pytest.approx(one["score"]), one["area"])
        for one in exported
    ]  # fmt: skip
    assert merged.annotations(["verdict"])["verdict"].to_pylist() == [one[1] for one in found]
    assert merged.annotations()["rle_counts"].to_pylist() == [
        one["segmentation"]["counts"] for one in exported
    ]
    more = len(found) - first.annotations().num_rows
    assert more == (-2 if kind == "class" else 2)  # the dots are regions of their own
    segments, masks = merged.segments(SCENES[3].path), merged.masks(SCENES[3].path)
    assert [row["area_px"] for row in segments] == masks.sum((1, 2)).tolist()
    ours = {row["image_id"]: row for row in merged.images().to_pylist()}
    of_image = [
        row["rle_counts"]
        for row in merged.annotations().to_pylist()
        if ours[row["image_id"]]["path"] == SCENES[3].path
    ]
    assert [row["rle_counts"] for row in segments] == of_image


def test_what_is_not_there_is_said(opened, tmp_path):
    with pytest.raises(UserError, match="not among the finished images"):
        opened.label_map("day 9/9.png")
    with pytest.raises(UserError, match="failed in the run"):
        opened.masks("broken.png")
    with pytest.raises(RunFolderError):
        open_run(tmp_path)
    with pytest.raises(UserError, match="expected predicted, reviewed or merged"):
        open_run(tmp_path, masks="mine")
    assert opened.left_out == {}
