"""The Label Studio exporter: its files are checked more strictly than the server does."""

import json
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from ovseg_core.rle import label_studio_brush
from pipeline.exporters import label_studio
from pipeline.run.folder import RunFolder
from tests.helpers.drawn_runs import ODD_NAMES, RunSpec, Scene, label_map, make_run, odd_scenes

LABELS = ("cat, small", 'dog "big" & <wild>', "potted plant")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, odd_scenes(), RunSpec(labels=LABELS))


def _export(run: RunFolder, **options) -> list[dict]:
    names = label_studio.export(run, label_studio.Options(**options))
    batches = [json.loads(run.folder.read_bytes(name)) for name in names if "tasks" in name]
    return [task for batch in batches for task in batch]


def _config(run: RunFolder) -> ElementTree.Element:
    return ElementTree.fromstring(run.folder.read_bytes("exports/label_studio/config.xml"))


def _check(tasks: list[dict], config: ElementTree.Element, photos: Path) -> None:
    """Check all that the import endpoint accepts and the labelling page then does not show."""
    (image,), (tag,) = config.findall("Image"), config.findall("BrushLabels")
    known = {label.attrib["value"] for label in tag.findall("Label")}
    assert tag.attrib["toName"] == image.attrib["name"]
    assert image.attrib["value"] == "$image"
    for task in tasks:
        url = task["data"]["image"]
        prefix = "/data/local-files/?d="
        assert url.startswith(prefix)
        assert not set(url[len(prefix) :]) & set(" #?&%") - {"%"}
        assert (photos / unquote(url[len(prefix) :])).is_file()
        (prediction,) = task["predictions"]
        assert 0 <= prediction["score"] <= 1
        assert prediction["model_version"]
        regions = prediction["result"]
        assert len({region["id"] for region in regions}) == len(regions)
        for region in regions:
            assert region["type"] == "brushlabels"
            assert (region["from_name"], region["to_name"]) == (
                tag.attrib["name"], image.attrib["name"],
            )  # fmt: skip
            assert 0 <= region["score"] <= 1
            assert region["image_rotation"] == 0
            assert region["value"]["format"] == "rle"
            (label,) = region["value"]["brushlabels"]
            assert label in known
            size_hw = region["original_height"], region["original_width"]
            alpha = label_studio_brush.decode_brush(region["value"]["rle"], size_hw)
            assert set(np.unique(alpha)) <= {0, 255}
            assert alpha.any()


def test_the_command_that_names_the_collection_is_said(tmp_path):
    run = make_run(tmp_path, [Scene("a/b.png", label_map(0)), Scene("c.png", label_map(1))])
    assert (
        f"export again: ovseg export {run.folder.uri} --to label_studio --set "
        "'url=/data/local-files/?d=photos/'"
    ) in label_studio.advice(run, label_studio.Options())
    other = label_studio.Options(url="s3://bucket/")
    assert "export again" not in label_studio.advice(run, other)


def test_export_tasks_are_valid_and_paint_the_label_maps(run, tmp_path):
    tasks = _export(run)
    _check(tasks, _config(run), tmp_path / "photos")
    scenes = {scene.path: scene.label_map for scene in odd_scenes()}
    assert {task["data"]["file_name"] for task in tasks} == set(ODD_NAMES) | {"nothing.png"}
    for task in tasks:
        expected = scenes[task["data"]["file_name"]]
        painted = np.zeros_like(expected)
        for region in task["predictions"][0]["result"]:
            inside = (
                label_studio_brush.decode_brush(region["value"]["rle"], expected.shape)
                > label_studio_brush.SOLID
            )
            painted[inside] = LABELS.index(region["value"]["brushlabels"][0]) + 1
        np.testing.assert_array_equal(painted, expected)


def test_export_config_has_every_label_in_order(run):
    _export(run)
    assert tuple(label.attrib["value"] for label in _config(run).iter("Label")) == LABELS


def test_export_highest_priority_has_the_lowest_score(run):
    tasks = _export(run)
    for task in tasks:
        doubt = task["data"]["review_priority"]
        assert task["predictions"][0]["score"] == pytest.approx(1 - doubt, abs=1e-6)
    assert len({task["predictions"][0]["score"] for task in tasks}) > 3


def test_export_files_stay_below_the_limit_and_old_ones_are_deleted(run):
    assert len(_export(run, max_bytes=5000)) == 9
    names = run.folder.list("exports/label_studio")
    batches = [name for name in names if "tasks" in name]
    assert len(batches) > 2
    sizes = [run.folder.size(name) for name in batches]
    counts = [len(json.loads(run.folder.read_bytes(name))) for name in batches]
    assert all(size <= 5000 or count == 1 for size, count in zip(sizes, counts, strict=True))
    _export(run)
    assert [n for n in run.folder.list("exports/label_studio") if "tasks" in n] == [
        "exports/label_studio/tasks.json"
    ]


def test_export_unquoted_paths_for_a_bucket(run):
    tasks = _export(run, url="s3://photos/", quoted=False)
    assert "s3://photos/a#b?c&d.png" in {task["data"]["image"] for task in tasks}
