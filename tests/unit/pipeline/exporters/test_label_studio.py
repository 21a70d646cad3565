"""Label Studio's files are checked here as strictly as its server does not, and read back."""

import json
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from ovseg_core.rle import label_studio_brush
from pipeline.exporters import label_studio
from pipeline.importers import label_studio as importer
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from tests.helpers.drawn_runs import ODD_NAMES, RunSpec, make_run, odd_scenes

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


def _lint(tasks: list[dict], config: ElementTree.Element, photos: Path) -> None:
    """All that the import endpoint swallows and the labelling page then does not show."""
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
            alpha = label_studio_brush.opacity(region["value"]["rle"], size_hw)
            assert set(np.unique(alpha)) <= {0, 255}
            assert alpha.any()


def test_tasks_pass_the_lint_and_paint_the_label_maps(run, tmp_path):
    tasks = _export(run)
    _lint(tasks, _config(run), tmp_path / "photos")
    scenes = {scene.path: scene.label_map for scene in odd_scenes()}
    assert {task["data"]["file_name"] for task in tasks} == set(ODD_NAMES) | {"nothing.png"}
    for task in tasks:
        expected = scenes[task["data"]["file_name"]]
        painted = np.zeros_like(expected)
        for region in task["predictions"][0]["result"]:
            inside = (
                label_studio_brush.opacity(region["value"]["rle"], expected.shape)
                > label_studio_brush.SOLID
            )
            painted[inside] = LABELS.index(region["value"]["brushlabels"][0]) + 1
        np.testing.assert_array_equal(painted, expected)


def test_the_config_has_every_label_in_order(run):
    _export(run)
    assert tuple(label.attrib["value"] for label in _config(run).iter("Label")) == LABELS


def test_the_most_doubtful_image_has_the_lowest_score(run):
    tasks = _export(run)
    for task in tasks:
        doubt = task["data"]["review_priority"]
        assert task["predictions"][0]["score"] == pytest.approx(1 - doubt, abs=1e-6)
    assert len({task["predictions"][0]["score"] for task in tasks}) > 3


def test_files_stay_under_the_limit_and_old_ones_go(run):
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


def test_a_bucket_has_plain_names(run):
    tasks = _export(run, url="s3://photos/", quoted=False)
    assert "s3://photos/a#b?c&d.png" in {task["data"]["image"] for task in tasks}


def _annotated(task: dict, **changes) -> dict:
    annotation = {
        "result": task["predictions"][0]["result"], "was_cancelled": False, "lead_time": 2.5,
        "updated_at": "2026-11-21T03:00:00Z",
    }  # fmt: skip
    return {**task, "annotations": [annotation | changes]}


def _read(tasks: list[dict]) -> list:
    return list(importer.read(json.dumps(tasks).encode()))


def test_every_mask_comes_back_to_the_pixel(run):
    tasks = _export(run)
    images = _read([_annotated(task) for task in tasks])
    scenes = {scene.path: scene.label_map for scene in odd_scenes()}
    assert len(images) == len(tasks)
    for image in images:
        expected = scenes[image.names[0]]
        painted = np.zeros_like(expected)
        for mask in image.masks:
            painted[mask.pixels] = LABELS.index(mask.label) + 1
        np.testing.assert_array_equal(painted, expected)
        assert [mask.segment_index for mask in image.masks] == list(range(len(image.masks)))
        assert image.seconds == 2.5


def test_the_newest_annotation_that_was_not_cancelled_counts(run):
    task = next(task for task in _export(run) if len(task["predictions"][0]["result"]) > 1)
    regions = task["predictions"][0]["result"]
    done = _annotated(task)["annotations"][0]
    newer = {**done, "result": regions[:1], "updated_at": "2026-11-21T04:00:00Z"}
    cancelled = {**newer, "was_cancelled": True, "result": [], "updated_at": "2026-11-22"}
    (image,) = _read([{**task, "annotations": [newer, done, cancelled]}])
    assert len(image.masks) == 1
    assert _read([{**task, "annotations": [cancelled]}, {**task, "annotations": []}]) == []


def test_soft_rims_polygons_and_boxes(run):
    task = next(task for task in _export(run) if task["predictions"][0]["result"])
    region = task["predictions"][0]["result"][0]
    size = {"original_width": 10, "original_height": 8}
    points = [[0, 0], [50, 0], [50, 50], [0, 50]]
    polygon = {
        **region, **size, "id": "x", "type": "polygonlabels",
        "value": {"points": points, "polygonlabels": ["potted plant"]},
    }  # fmt: skip
    box = {**region, **size, "type": "rectanglelabels", "value": {}}
    (image,) = _read([_annotated(task, result=[polygon, box])])
    (mask,) = image.masks
    assert mask.pixels[:4, :5].all()
    assert mask.pixels.sum() == 20
    assert (mask.segment_index, image.num_left_out) == (None, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": {"format": "rle", "rle": [1, 2], "brushlabels": ["cat"]}}, "brush"),
        ({"original_width": 7}, "brush bytes"),
        ({"value": {}}, "no 'brushlabels'"),
        ({"image_rotation": 90}, "turned"),
    ],
)
def test_a_damaged_region_is_told_with_its_task(run, change, message):
    task = next(task for task in _export(run) if task["predictions"][0]["result"])
    region = {**task["predictions"][0]["result"][0], **change}
    with pytest.raises(UserError, match=f"(?s)task 7 .*{message}"):
        _read([{**_annotated(task, result=[region]), "id": 7}])


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"\xff\xfe", b"[1]", b"[{}]", b"[null]"])
def test_other_files_are_refused(data):
    with pytest.raises(UserError):
        list(importer.read(data))


def test_names_are_found_in_the_url_too():
    def names(url: str) -> tuple[str, ...]:
        task = {"data": {"image": url}, "annotations": [{"result": []}]}
        return _read([task])[0].names

    assert "photos/a b#c.jpg" in names("/data/local-files/?d=photos/a%20b%23c.jpg")
    assert "/data/upload/3/dog 1.jpg" in names("/data/upload/3/0a1b2c3d-dog%201.jpg")
    assert "/a/ü.png" in names("s3://bucket/a/ü.png")
