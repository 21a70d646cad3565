"""From a folder to a student and back, as docs/students.md tells it, by the commands themselves."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from jobs.demo.draw import draw_scenes
from ovseg_core.training.students.shared.student_file import read_student_record
from pipeline.run.folder import RunFolder
from tests.helpers.review_server import Client, serving

NUM_SCENES, NUM_LABELS = 24, 8
SMALL = {
    "student": {
        "name": "maskclip_plus",
        "options": {
            "backbone": "test_resnet",
            "backbone_weights": "random",
            "channels": 32,
            "steps": 16,
            "batch": 8,
            "size_px": 96,
            "scale": [0.75, 1.5],
            "distort": False,
            "loss_px": 4,
            "optimiser": "adamw",
            "learning_rate": 0.005,
        },
    },
    "ema_decay": 0.9,
    "validate_every": 8,
}
"""The `small.yaml` of the page, with fewer steps."""


def ovseg(*args: object) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's scenes and job file, without its run."""
    folder = tmp_path_factory.mktemp("loop")
    (folder / "scenes").mkdir()
    scenes = draw_scenes(folder / "scenes", NUM_SCENES, seed=0)
    job = {
        "images": f"{folder}/scenes/scene_*.png",
        "labels": list(scenes.labels[:NUM_LABELS]),
        "method": "maskclip",
        "clip": {"model": "embedded"},
        "run": {"device": "cpu"},
    }
    (folder / "demo.yaml").write_text(yaml.safe_dump(job))
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return folder


def review(client: Client) -> tuple[int, int]:
    """Decide about the three most doubtful images; return how many are now reviewed, and partly."""
    worst = client.shown(order="priority")[:3]
    for item in worst[:2]:
        assert client.decide(image_id=item["image_id"], action="accept").status == 200
    segments = client.get("/api/image", id=worst[2]["image_id"]).json["segments"]
    one = {name: segments[0][name] for name in ("label", "segment_index")}
    answer = client.decide(image_id=worst[2]["image_id"], action="reject", **one)
    assert answer.status == 200
    return 2, 1


def test_a_student_learns_a_reviewed_run_and_the_next_review_begins_where_they_disagree(
    demo: Path,
) -> None:
    teacher, student, second = demo / "teacher", demo / "student", demo / "second"
    ovseg("annotate", demo / "demo.yaml", "--out", teacher, "--local")  # 1
    with serving(RunFolder.open(str(teacher))) as client:  # 2
        whole, partly = review(client)
    trained = ovseg(
        *("train-student", teacher, "--out", student, "--local"),
        *("--config", demo / "small.yaml"),
    )  # 3
    assert f"{NUM_SCENES - 2} learned, 2 kept for validation" in trained
    training = read_student_record(student / "student.safetensors").training
    assert (training["masks"], training["reviewed_images"]) == ("merged", whole + partly)
    ovseg(
        *("annotate", demo / "demo.yaml", "--out", second, "--local"),
        *("--set", "method.name=student"),
        *("--set", f"method.options.weights={student}/student.safetensors"),
    )  # 4
    report = json.loads(ovseg("compare", second, teacher, "--json"))  # 5
    assert (report["first"], report["other"]) == ("student", "maskclip")
    assert report["num_images"] == NUM_SCENES
    with serving(RunFolder.open(str(second))) as client:  # 6
        (order,) = client.get("/api/run").json["compared"]
        shown = client.shown(order=order)
        plain = client.shown(order="priority")
    assert len(shown) == NUM_SCENES
    assert Counter(item["image_id"] for item in shown) == Counter(it["image_id"] for it in plain)
    priorities = [item["review_priority"] for item in shown]
    assert priorities == sorted(priorities, reverse=True)
    agreement = [item["agreement"] for item in shown if item["agreement"] is not None]
    half = len(agreement) // 2
    assert sum(agreement[:half]) < sum(agreement[-half:])
    # Back to 3: the student's run, reviewed, teaches the next one.
