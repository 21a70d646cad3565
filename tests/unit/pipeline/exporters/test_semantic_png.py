import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.truth import Wanted, open_truth
from pipeline.exporters import semantic_png
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from tests.helpers.drawn_runs import RunSpec, Scene, awkward_scenes, make_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, awkward_scenes())


def _read(run: RunFolder, name: str) -> str:
    return run.folder.read_bytes(name).decode()


def _label_maps(run: RunFolder) -> dict[str, np.ndarray]:
    shards = RunReader(run).shards()
    return {image["path"]: found for shard in shards for image, found in shard.label_maps()}


def test_export_with_background_is_a_truth_of_the_run(run):
    semantic_png.export(run, semantic_png.Options(background=True))
    folder = f"{run.folder.uri}/exports/semantic_png/labels"
    report = evaluate(run, folder)
    assert report.miou == 1.0
    assert report.num_images == len(awkward_scenes())
    opened = open_truth(folder, Wanted.of_run(run))
    for path, found in _label_maps(run).items():
        np.testing.assert_array_equal(opened.label_map(path), found)


def test_export_many_labels_have_16_bits(tmp_path):
    labels = tuple(f"word {number}" for number in range(300))
    seen = np.array([[0, 1, 256], [255, 299, 300]], np.uint16)
    run = make_run(tmp_path, [Scene("a.jpg", seen)], RunSpec(labels=labels))
    semantic_png.export(run, semantic_png.Options())
    picture = Image.open(io.BytesIO(run.folder.read_bytes("exports/semantic_png/labels/a.png")))
    np.testing.assert_array_equal(np.array(picture), [[65535, 0, 255], [254, 298, 299]])
    classes = json.loads(_read(run, "exports/semantic_png/classes.json"))
    assert classes == {"classes": list(labels), "ignore": 65535, "bits": 16}
    semantic_png.export(run, semantic_png.Options(background=True))
    report = evaluate(run, f"{run.folder.uri}/exports/semantic_png/labels")
    found = {label.name: label.truth_px for label in report.labels if label.truth_px}
    assert (report.miou, found["word 254"]) == (1.0, 1), "255 is a label here"


@pytest.mark.parametrize(("background", "expected"), [(False, "8"), (True, "16")])
def test_export_keeps_the_highest_value_for_pixels_without_a_label(background, expected, tmp_path):
    labels = tuple(f"word {number}" for number in range(255))
    run = make_run(
        tmp_path, [Scene("a.jpg", np.full((2, 3), 255, np.uint16))], RunSpec(labels=labels)
    )
    semantic_png.export(run, semantic_png.Options(background=background))
    classes = json.loads(_read(run, "exports/semantic_png/classes.json"))
    assert str(classes["bits"]) == expected


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("folder", ["exports/semantic_png", "exports/semantic_png/labels"])
def test_own_export_as_truth_is_perfect(background, folder, tmp_path):
    run = make_run(tmp_path, awkward_scenes())
    semantic_png.export(run, semantic_png.Options(background=background))
    report = evaluate(run, f"{run.folder.uri}/{folder}")
    assert (report.miou, report.num_images) == (1.0, len(awkward_scenes()))
