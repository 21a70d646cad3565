"""A student learns CamVid's classes from the data set's own truth, and is measured with it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from tests.helpers.camvid import SPLITS, write_camvid

LEAST_MIOU = 0.5
"""After 40 steps, a tenth of the training that reaches .9; an untrained network has .05."""
SMALL = {
    "student.options.backbone": "test_efficientnet_gn",
    "student.options.backbone_weights": "random",
    "student.options.finest_px": 4,
    "student.options.width": 64,
    "student.options.heads": 4,
    "student.options.learning_rate": 2e-3,
    "student.options.size_px": 64,
    "student.options.scale": "[0.8, 1.25]",
    "student.options.distort": "false",
    "clip.model": "embedded",
    "run.device": "cpu",
}


def ovseg(*args: object, **fields: object) -> Result:
    sets = [part for key, value in fields.items() for part in ("--set", f"{key}={value}")]
    return CliRunner().invoke(app, [*(str(arg) for arg in args), *sets])


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("data") / "CamVid")


def test_text_fusion_learns_the_classes_of_a_drawn_camvid(camvid: Path, tmp_path: Path) -> None:
    student, run = tmp_path / "student", tmp_path / "run"
    of_data = ("--protocol", "camvid", "--data", camvid)
    trained = ovseg(
        *("train-student", *of_data, "--student", "text_fusion", "--out", student, "--local"),
        *("--steps", 40, "--batch", 4),
        **SMALL,
    )
    assert trained.exit_code == 0, trained.output
    assert f"{SPLITS['train']} learned, {SPLITS['val']} kept for validation" in trained.output
    method = {
        "method.name": "student",
        "method.options.weights": student / "student.safetensors",
        "clip.model": "embedded",
        "run.device": "cpu",
    }
    annotated = ovseg("annotate", *of_data, "--out", run, "--local", **method)
    assert annotated.exit_code == 0, annotated.output
    evaluated = ovseg("evaluate", run, *of_data, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    report = json.loads(evaluated.stdout)
    assert report["num_images"] == SPLITS["test"]
    assert report["miou"] > LEAST_MIOU
    # Background is no class of CamVid, so it has no phrases and wins no pixel.
    assert all("background" not in label["name"] for label in report["labels"])
    assert report["pixel_accuracy"] > 0.8
    assert not any(one["predicted"] == "background" for one in report["confusions"])
