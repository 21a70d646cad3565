"""The COCO importer on files of our exporter and on files with other structures."""

import json
from pathlib import Path

import pytest

from pipeline.exporters import coco as exporter
from pipeline.importers import coco
from pipeline.importers.shared.notes import NoteKind, Notes
from pipeline.importers.shared.tool_file import ToolImage
from schemas.errors import UserError
from tests.helpers.drawn_runs import Scene, label_map, make_run

PATHS = ("a.png", "b/c.png", "d.png", "e.png")


@pytest.fixture
def dataset(tmp_path: Path) -> dict:
    run = make_run(tmp_path, [Scene(path, label_map(seed)) for seed, path in enumerate(PATHS)])
    exporter.export(run, exporter.Options())
    return json.loads(run.folder.read_bytes("exports/coco/instances.json"))


def _read(dataset: dict, notes: Notes | None = None) -> list[ToolImage]:
    return list(coco.read(json.dumps(dataset).encode(), notes or Notes()))


def test_read_yields_every_image_with_its_masks(dataset):
    images = _read(dataset)
    assert [image.names for image in images] == [(path,) for path in PATHS]
    assert [mask.label for mask in images[0].masks] == ["cat", "dog", "potted plant"]
    assert [mask.segment_index for mask in images[0].masks] == [0, 1, 2]
    assert (images[0].masks[1].pixels == (label_map(0) == 2)).all()


@pytest.mark.parametrize(
    "kind", [str, float, lambda number: f"{number}"], ids=["str", "float", "f"]
)
def test_read_ids_as_text_equal_ids_as_numbers(dataset, kind):
    expected = _read(dataset)
    for entry in dataset["annotations"]:
        for key in ("image_id", "category_id"):
            entry[key] = kind(entry[key])
    assert _read(dataset) == expected
    assert sum(len(image.masks) for image in expected) == 12


def test_read_masks_of_images_missing_in_the_file_are_noted(dataset):
    whole = dict(dataset)
    dataset["images"] = dataset["images"][:2]
    notes = Notes()
    images = _read(dataset, notes)
    assert (len(images), sum(len(image.masks) for image in images)) == (2, 6)
    note = notes.report()[NoteKind.DROPPED_MASKS]
    assert note.count == 6
    assert note.first[0] == "annotation 7: the file has no image with the id 3"
    for entry in whole["annotations"]:
        entry["image_id"] += 100
    with pytest.raises(UserError, match="image_id 101"):
        _read(whole)


@pytest.mark.parametrize("wrong", [{"images": None}, {"images": {"a": 1}}, {"annotations": None}])
def test_read_other_structure_is_refused(wrong):
    with pytest.raises(UserError, match="cannot be read: expected a list"):
        _read({"images": [], "annotations": [], "categories": []} | wrong)


BAD_IMAGES = [1, {}, {"id": 1}, {"height": None}, {"height": "40"}, {"width": -1},
              {"file_name": ["a"]}, {"file_name": None}, {"id": [1]}]  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_IMAGES, ids=str)
def test_read_bad_image_is_noted_and_the_others_are_read(dataset, wrong):
    is_change = isinstance(wrong, dict) and wrong.keys() - {"id"}
    dataset["images"][0] = {**dataset["images"][0], **wrong} if is_change else wrong
    notes = Notes()
    assert [image.names for image in _read(dataset, notes)] == [(path,) for path in PATHS[1:]]
    assert notes[NoteKind.UNREADABLE] == 1


BAD_MASKS = [
    ({"segmentation": [1, 1, 20, 1, 20, 20]}, "flat list of numbers"),
    ({"segmentation": [[1, 1, 5, 5]]}, "a polygon of 2 corners"),
    ({"segmentation": [[1, 1, 500, 1, 500, 500]]}, "the size or the frame is of another image"),
    ({"segmentation": {"size": [56, 40], "counts": [2240]}}, "image's size"),
    ({"segmentation": "x"}, "unexpected structure"),
    ({"category_id": 99}, "no category with the id 99"),
    ({"category_id": None}, "expected an id"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD_MASKS)
def test_read_image_with_a_bad_mask_is_noted_with_all_its_problems(dataset, wrong, message):
    for entry in dataset["annotations"][1:3]:
        entry |= wrong
    notes = Notes()
    assert [image.names for image in _read(dataset, notes)] == [(path,) for path in PATHS[1:]]
    (problem,) = notes.report()[NoteKind.UNREADABLE].first
    assert problem.startswith("a.png: ")
    assert ("annotation 2: " in problem) == ("annotation 3: " in problem) == ("500" not in problem)
    assert message in problem


def test_read_two_images_of_one_id_are_noted(dataset):
    dataset["images"][1]["id"] = dataset["images"][0]["id"]
    dataset["annotations"] = dataset["annotations"][:3]
    notes = Notes()
    assert [image.names[0] for image in _read(dataset, notes)] == list(PATHS[2:])
    assert notes[NoteKind.UNREADABLE] == 2


def test_read_polygons_in_a_frame_of_exchanged_sides(dataset):
    corners = [[2, 2, 54, 2, 54, 30, 2, 30], [1, 1, 2, 2]]
    dataset["annotations"][0]["segmentation"] = corners
    dataset["annotations"] = dataset["annotations"][:1]
    dataset["images"][0] |= {"height": 56, "width": 40}
    notes = Notes()
    image = _read(dataset, notes)[0]
    assert (image.size_hw, image.masks[0].pixels.shape) == ((40, 56), (40, 56))
    assert image.masks[0].pixels[3:30, 3:54].all()
    assert image.frame_note
    assert notes[NoteKind.DROPPED_MASKS] == 1  # the part of two corners


def test_read_further_names_and_marks(dataset):
    dataset["images"][0] |= {"path": "/x/a.png", "extra": {"name": "A.png"}, "verified": True}
    image, other = _read(dataset)[:2]
    assert image.names == ("/x/a.png", "a.png", "A.png")
    assert (image.is_checked, other.is_checked) == (True, False)


@pytest.mark.parametrize("data", [b"", b"[]", b"5", b"not json", b'{"images": []}'])
def test_read_other_file_is_refused(data):
    with pytest.raises(UserError, match=r"expected COCO|is not a COCO file"):
        list(coco.read(data, Notes()))


def test_read_annotations_that_are_no_objects_are_counted_or_refused_in_one_line():
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}
    dataset = {"images": [image], "annotations": [0, "a", [[]]], "categories": []}
    with pytest.raises(UserError, match="annotation 0: expected a JSON object, got int"):
        _read(dataset)
    annotation = {"id": 1, "image_id": 1, "category_id": 1}
    notes = Notes()
    (found,) = _read({**dataset, "annotations": [0, annotation, None]}, notes)
    assert (found.num_left_out, notes[NoteKind.DROPPED_MASKS]) == (1, 2)
