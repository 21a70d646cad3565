"""The COCO importer on files of our exporter and on files with other structures."""

import json
from pathlib import Path

import pytest

from pipeline.exporters import coco as exporter
from pipeline.importers import coco
from pipeline.importers.shared.tool_file import ToolImage
from schemas.errors import UserError
from tests.helpers.drawn_runs import Scene, label_map, make_run

PATHS = ("a.png", "b/c.png", "d.png", "e.png")


@pytest.fixture
def dataset(tmp_path: Path) -> dict:
    run = make_run(tmp_path, [Scene(path, label_map(seed)) for seed, path in enumerate(PATHS)])
    exporter.export(run, exporter.Options())
    return json.loads(run.folder.read_bytes("exports/coco/instances.json"))


def _read(dataset: dict) -> list[ToolImage]:
    return list(coco.read(json.dumps(dataset).encode()))


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


def test_read_masks_of_images_missing_in_the_file_are_left_out(dataset, caplog):
    whole = dict(dataset)
    dataset["images"] = dataset["images"][:2]
    images = _read(dataset)
    assert (len(images), sum(len(image.masks) for image in images)) == (2, 6)
    assert "6 masks belong to images that the file does not have" in caplog.text
    for entry in whole["annotations"]:
        entry["image_id"] += 100
    with pytest.raises(UserError, match="image_id 101"):
        _read(whole)


NOT_COCO = [
    {"images": None},
    {"images": [1]},
    {"images": {"a": 1}},
    {"annotations": None},
    {"categories": [{"id": 1, "name": ["cat"]}]},
    {"images": [{"id": 1, "file_name": ["a"], "height": 4, "width": 5}]},
    {"images": [{"id": 1, "file_name": "a.png", "height": None, "width": 5}]},
    {"images": [{"id": 1, "file_name": "a.png", "height": 5, "width": 5}] * 2},
]


@pytest.mark.parametrize("wrong", NOT_COCO, ids=str)
def test_read_other_structure_is_refused(wrong):
    with pytest.raises(UserError, match="cannot be read"):
        _read({"images": [], "annotations": [], "categories": []} | wrong)


@pytest.mark.parametrize("data", [b"", b"[]", b"5", b"not json", b'{"images": []}'])
def test_read_other_file_is_refused(data):
    with pytest.raises(UserError, match=r"expected COCO|is not a COCO file"):
        list(coco.read(data))
