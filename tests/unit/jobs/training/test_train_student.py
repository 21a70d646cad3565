"""`ovseg train-student` as it is typed."""

import re
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.demo.draw import draw_scenes
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_wrong_words_are_refused_in_one_line(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "s"), "--local")
    result = ovseg("train-student", "nowhere", "--student", "maskclip_pluss", *out)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no 'maskclip_pluss' among the students: Did you mean")
    result = ovseg("train-student", *out)
    assert result.exit_code == 1
    assert "expected either teacher (a run folder) or protocol (a data set)" in result.stderr
    result = ovseg("train-student", str(tmp_path / "nowhere"), *out)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


SMALL = [
    *("--local", "--steps", "4", "--batch", "2", "--set", "student.options.backbone=test_convnext"),
    *("--set", "student.options.backbone_weights=random", "--set", "student.options.size_px=64"),
]


def job_file(folder: Path, images: Path) -> str:
    job = {"images": str(images), "labels": ["red star", "blue circle"], "method": "maskclip"}
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump({**job, "clip": {"model": "embedded"}}))
    return str(file)


def test_student_of_a_job_annotates(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    draw_scenes(tmp_path / "scenes", 5, seed=5)
    student = str(tmp_path / "student")
    job = job_file(tmp_path, tmp_path / "scenes")
    trained = ovseg("train-student", job, "--out", student, *SMALL, "--set", "validate_every=1")
    assert trained.exit_code == 0, trained.output
    figure = re.search(r"mIoU of validation +([\d.]+) \(of step (\d), which", trained.stdout)
    assert figure is not None, trained.stdout
    card = (tmp_path / "student/MODEL_CARD.md").read_text()
    assert f"| mIoU of validation | {figure[1]} |" in card
    assert f"weights of step {figure[2]} |" in card
    assert "5 of 5 images done" in trained.stdout
    assert "4 learned, 1 kept for validation" in trained.stdout
    assert "4, 4 of them now" in trained.stdout
    weights = f"method.options.weights={student}/student.safetensors"
    assert f"--set {weights}" in trained.stdout
    assert re.search(r"images/s without validations, at most [\d,]+ MiB a worker", trained.stdout)
    # The run of the job file is one like any other.
    teacher = f"{student}/teacher"
    again = ovseg("train-student", teacher, "--out", student, *SMALL, "--set", "validate_every=1")
    assert "4, 0 of them now" in again.stdout
    scenes = ("--images", str(tmp_path / "scenes"), "--labels", "red star, blue circle", "--local")
    method = ("--set", "method.name=student", "--set", weights)
    annotated = ovseg("annotate", *scenes, *method, "--out", str(tmp_path / "run"))
    assert annotated.exit_code == 0, annotated.output
    assert RunReader(RunFolder.open(str(tmp_path / "run"))).num_images == 5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "limit=3"), r"limit is 3, but all images of a job file would be annotated"),
        (("--masks", "reviewed"), r"masks: nobody has reviewed the run"),
        (("--set", "patience=3", "--set", "validation_share=0"), r"patience: needs validation"),
        (("--set", "student.options.stepz=3"), r"student\.options\.stepz: unknown key"),
    ],
)
def test_wrong_settings_are_refused_before_the_teacher_begins(
    more: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    job = job_file(tmp_path, tmp_path)
    result = ovseg("train-student", job, "--out", str(tmp_path / "s"), *SMALL, *more)
    assert result.exit_code == 1
    assert re.match(f"error: {message}", result.stderr)
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_nothing_is_trained_where_the_teacher_could_not_read_the_images(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"no image")
    Image.new("RGB", (40, 30)).save(images / "b.png")
    result = ovseg(
        "train-student", job_file(tmp_path, images), "--out", str(tmp_path / "s"), *SMALL
    )
    assert result.exit_code == 3
    assert f"ovseg train-student {tmp_path}/s/teacher" in result.stdout
    assert not (tmp_path / "s" / "student.safetensors").exists()
