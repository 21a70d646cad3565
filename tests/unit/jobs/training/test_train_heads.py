"""`ovseg train-heads` as it is typed."""

from pathlib import Path

from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.demo.draw import draw_scenes
from ovseg_core.backbones.file_formats.head_file import read_record


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_unknown_head_is_refused_with_a_near_name(tmp_path: Path) -> None:
    result = ovseg(
        *("train-heads", "--images", str(tmp_path), "--head", "fuond"),
        *("--out", str(tmp_path / "h.safetensors"), "--local"),
    )
    assert result.exit_code == 1
    assert result.stderr == (
        "error: no 'fuond' among the heads: Did you mean 'found'? All heads: dinoiser, found\n"
    )


def test_trained_head_annotates(tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    draw_scenes(scenes, 4, seed=5)
    out = str(tmp_path / "heads.safetensors")
    command = ["train-heads", "--images", str(scenes), "--head", "dinoiser", "--out", out]
    command += ["--steps", "2", "--batch", "2", "--local", "--set", "clip.model=embedded"]
    trained = ovseg(*command)
    assert trained.exit_code == 0, trained.output
    assert "2, 2 of them now" in trained.stdout
    assert f"--set method.options.heads={out}" in trained.stdout
    assert read_record(out)["kind"] == "dinoiser"
    assert "2, 0 of them now" in ovseg(*command).stdout
    annotated = ovseg(
        *("annotate", "--images", str(scenes), "--labels", "red star", "--local", "--out"),
        *(str(tmp_path / "run"), "--set", "clip.model=embedded"),
        *("--set", "method.name=clip_dinoiser", "--set", f"method.options.heads={out}"),
    )
    assert annotated.exit_code == 0, annotated.output
