"""`ovseg train-heads` as it is typed: flags over files, mistakes in one line, a run on scenes."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.demo.draw import draw_scenes
from jobs.train_heads import Flags, heads_config
from ovseg_core.backbones.head_file import read_record
from schemas.errors import ConfigError


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_flags_stand_over_the_file_and_overrides_over_both(tmp_path: Path) -> None:
    file = tmp_path / "heads.yaml"
    file.write_text("images: a\nout: b.safetensors\nhead: found\nseed: 3\n")
    config = heads_config(
        str(file), Flags(images="c", steps=7, local=True), ["head.options.steps=9"]
    )
    assert (config.images, config.out, config.seed) == ("c", "b.safetensors", 3)
    assert (config.head.name, config.head.options) == ("found", {"steps": 9})
    assert config.run.local
    assert config.vision_model == "vit_small_patch8_224.dino"
    assert config.clip.model == "ViT-B-16"
    assert config.checkpoint == "b.checkpoint.safetensors"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (Flags(images="a", head="found", out="head.pt"), r"out: .*ends in \.safetensors"),
        (Flags(head="found", out="h.safetensors"), "images: missing"),
        (Flags(images="a", out="h.safetensors"), "head: missing"),
    ],
)
def test_mistakes_are_lines(flags: Flags, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        heads_config("", flags, [])


def test_an_unknown_head_is_refused_with_a_near_name(tmp_path: Path) -> None:
    result = ovseg(
        *("train-heads", "--images", str(tmp_path), "--head", "fuond"),
        *("--out", str(tmp_path / "h.safetensors"), "--local"),
    )
    assert result.exit_code == 1
    assert result.stderr == "error: no 'fuond' among the heads: Did you mean 'found'?\n"


def test_a_head_is_trained_and_annotates(tmp_path: Path) -> None:
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
