"""The Label Studio importer, mostly on tasks of our exporter."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.exporters import label_studio as exporter
from pipeline.importers import label_studio
from pipeline.importers.shared.notes import NoteKind, Notes
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from tests.helpers.drawn_runs import LABELS as DRAWN_LABELS
from tests.helpers.drawn_runs import RunSpec, awkward_scenes, make_run, odd_scenes

LABELS = ("cat, small", 'dog "big" & <wild>', "potted plant")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, odd_scenes(), RunSpec(labels=LABELS))


def _export(run: RunFolder) -> list[dict]:
    exporter.export(run, exporter.Options())
    return json.loads(run.folder.read_bytes("exports/label_studio/tasks.json"))


def _annotated(task: dict, **changes) -> dict:
    annotation = {
        "result": task["predictions"][0]["result"], "was_cancelled": False, "lead_time": 2.5,
        "updated_at": "2026-11-21T03:00:00Z",
    }  # fmt: skip
    return {**task, "annotations": [annotation | changes]}


def _read(tasks: list[dict], notes: Notes | None = None) -> list:
    return list(label_studio.read(json.dumps(tasks).encode(), notes or Notes()))


def test_read_masks_of_our_export_to_the_pixel(run):
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


def test_read_every_annotation_that_was_not_cancelled(run):
    task = next(task for task in _export(run) if len(task["predictions"][0]["result"]) > 1)
    regions = task["predictions"][0]["result"]
    done = _annotated(task)["annotations"][0]
    newer = {**done, "result": regions[:1], "updated_at": "2026-11-21T04:00:00Z"}
    truth = {**done, "result": [], "updated_at": "soon", "ground_truth": True}
    cancelled = {**newer, "was_cancelled": True, "result": [], "updated_at": "2026-11-22"}
    notes = Notes()
    images = _read([{**task, "annotations": [newer, done, truth, cancelled]}], notes)
    assert [len(image.masks) for image in images] == [1, len(regions), 0]
    assert [image.is_ground_truth for image in images] == [False, False, True]
    assert images[0].told_at_s - images[1].told_at_s == 3600
    assert images[2].told_at_s is None
    assert all(image.is_checked for image in images)
    (untouched,) = _read([{**task, "annotations": [cancelled]}, {**task, "annotations": []}], notes)
    assert (untouched.masks, untouched.is_checked, notes[NoteKind.SKIPPED]) == ((), False, 2)


def test_read_polygon_and_box(run):
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
        ({"value": {}}, "'rle' is missing"),
        ({"original_height": None}, "width and a height"),
        ({"image_rotation": 90}, "turned"),
    ],
)
def test_read_task_with_a_damaged_region_is_noted(run, change, message):
    task, other = [task for task in _export(run) if task["predictions"][0]["result"]][:2]
    region = {**task["predictions"][0]["result"][0], **change}
    notes = Notes()
    images = _read([{**_annotated(task, result=[region]), "id": 7}, _annotated(other)], notes)
    assert [image.names[0] for image in images] == [other["data"]["file_name"]]
    (problem,) = notes.report()[NoteKind.UNREADABLE].first
    assert re.match(f"(?s)task 7 .*{message}", problem)


@pytest.mark.parametrize("beside", [True, False])
def test_read_region_without_a_label_of_its_own(run, beside):
    task = next(task for task in _export(run) if task["predictions"][0]["result"])
    region = task["predictions"][0]["result"][0]
    brush = {**region, "type": "brush", "value": {**region["value"], "brushlabels": []}}
    labels = {**region, "type": "labels", "value": {"labels": ["potted plant"]}}
    (image,) = _read([_annotated(task, result=[brush, *[labels] * beside])])
    assert [mask.label for mask in image.masks] == ["potted plant" if beside else ""]
    assert image.num_left_out == 0


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"\xff\xfe", b"[1]", b"[{}]", b"[null]"])
def test_read_other_file_is_refused(data):
    with pytest.raises(UserError):
        list(label_studio.read(data, Notes()))


def test_read_names_are_the_file_name_and_the_url():
    url = "/data/upload/3/0a1b2c3d-dog%201.jpg"
    task = {"data": {"image": url, "file_name": "dog 1.jpg"}, "annotations": [{"result": []}]}
    assert _read([task])[0].names == ("dog 1.jpg", url)
    task["data"] = {"id": 7, "text": "a dog", "picture": url}
    assert _read([task])[0].names == (url,)


@pytest.mark.parametrize("time", [-6, math.nan, math.inf, "soon", None])
def test_read_impossible_time_is_unknown(run, time):
    tasks = _export(run)[:2]
    images = _read([_annotated(tasks[0], lead_time=time), _annotated(tasks[1], lead_time=90)])
    assert [image.seconds for image in images] == [None, 90]


def test_read_json_min_is_refused():
    sent = [{"data": {"image": "a.jpg"}, "predictions": []}]
    with pytest.raises(UserError, match="this is the file with predictions that goes to Label St"):
        list(label_studio.read(json.dumps(sent).encode(), Notes()))
    with pytest.raises(UserError, match="JSON-MIN"):
        _read([{"image": "a.png", "tag": []}])


def test_read_segment_of_the_run_of_every_component(tmp_path):
    run = make_run(tmp_path, awkward_scenes())
    exporter.export(run, exporter.Options(segments="components"))
    tasks = json.loads(run.folder.read_bytes("exports/label_studio/tasks.json"))
    task = next(task for task in tasks if len(task["predictions"][0]["result"]) > 9)
    (image,) = _read([_annotated(task)])
    labels = [DRAWN_LABELS[mask.segment_index or 0] for mask in image.masks]
    assert set(labels) == {"cat", "dog"}
    assert [mask.label for mask in image.masks] == labels
