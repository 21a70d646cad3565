"""The README: short, and its Python runs."""

import re
from pathlib import Path

import pytest
from PIL import Image

from jobs.demo.draw import draw_scenes

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert README.count("\n") < 150


def test_its_python_runs_offline_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    [(online, offline)] = re.findall(r"(ov\.load\(.*?\)) +# offline.*: (ov\.load\(.*?\))\n", block)
    monkeypatch.chdir(tmp_path)
    draw_scenes(tmp_path, 2, seed=0)
    with Image.open("scene_000.png") as scene:
        scene.save("photo.jpg")
        exec(block.replace(online, offline, 1), {})
        assert f"({scene.height}, {scene.width})" in capsys.readouterr().out
        with Image.open("masks.png") as masks:
            assert masks.size == scene.size
