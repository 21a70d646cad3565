"""`ovseg train-student` as it is typed."""

from pathlib import Path

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


def test_student_of_a_run_annotates(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    draw_scenes(tmp_path / "scenes", 5, seed=5)
    teacher, student = str(tmp_path / "teacher"), str(tmp_path / "student")
    scenes = ("--images", str(tmp_path / "scenes"), "--labels", "red star, blue circle", "--local")
    clip = ("--set", "clip.model=embedded")
    assert ovseg("annotate", *scenes, *clip, "--out", teacher).exit_code == 0
    command = ["train-student", teacher, "--out", student, "--steps", "4", "--batch", "2"]
    for option in ("backbone=test_convnext", "backbone_weights=random", "size_px=64"):
        command += ["--set", f"student.options.{option}"]
    trained = ovseg(*command, "--local")
    assert trained.exit_code == 0, trained.output
    assert "4 learned, 1 kept for validation" in trained.stdout
    assert "4, 4 of them now" in trained.stdout
    weights = f"method.options.weights={student}/student.safetensors"
    assert f"--set {weights}" in trained.stdout
    assert "4, 0 of them now" in ovseg(*command, "--local").stdout
    method = ("--set", "method.name=student", "--set", weights)
    annotated = ovseg("annotate", *scenes, *method, "--out", str(tmp_path / "run"))
    assert annotated.exit_code == 0, annotated.output
    assert RunReader(RunFolder.open(str(tmp_path / "run"))).num_images == 5
