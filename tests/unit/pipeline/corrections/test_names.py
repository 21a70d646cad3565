"""Images and labels of a run, found by the names in a tool's file."""

from pathlib import Path

import pytest

from pipeline.corrections.names import ImageMatch, ImageNames, LabelNames
from pipeline.run.folder import RunFolder
from tests.helpers.drawn_runs import Scene, label_map, make_run

PATHS = ("photos/a.png", "b c/ü.png", "d.png")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, [Scene(path, label_map(seed)) for seed, path in enumerate(PATHS)])


def test_find_image_by_names_of_every_tool(run):
    names = ImageNames(run)
    for given, expected in {
        "photos/a.png": "id-photos/a.png",
        "/data/images/photos/a.png": "id-photos/a.png",
        "images/default/b c/u\u0308.png": "id-b c/ü.png",
        "photos__a.png": "id-photos/a.png",
        "a.png": "id-photos/a.png",
        "x/y/d": "id-d.png",
        "e.png": None,
        "": None,
    }.items():
        assert _id(names.find([given])) == expected, given
    assert _id(names.find(["nothing", "d.png"])) == "id-d.png"


def _id(found: ImageMatch | None) -> str | None:
    return found and found.image_id


def test_ambiguous_base_name_finds_no_image(tmp_path):
    run = make_run(tmp_path, [Scene(f"{f}/a.png", label_map(0)) for f in "xy"])
    assert ImageNames(run).find(["a.png", "z/a.png", "a"]) is None


def test_find_label_ignores_case():
    labels = LabelNames(["cat", "Cat ", "é"])
    assert [labels.find(name) for name in ("cat", "Cat ", " E\u0301", "cow")] == [1, 2, 3, None]
