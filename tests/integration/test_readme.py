"""The README is short and its Python runs; the page on methods has their published figures."""

import re
from pathlib import Path

import pytest
from PIL import Image

from jobs.demo.draw import draw_scenes
from ovseg_core import methods
from schemas import plugins

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
        assert f"photo.jpg, {scene.width} x {scene.height}" in capsys.readouterr().out
        with Image.open("masks.png") as masks:
            times = masks.width // scene.width  # a small image is shown larger
            assert masks.size == (times * scene.width, times * scene.height)


def test_the_page_on_methods_shows_the_figures_of_the_cards() -> None:
    page = (ROOT / "docs" / "choosing_a_method.md").read_text(encoding="utf-8")
    [header] = re.findall(r"^\| method \| (VOC21.*) \|$", page, re.MULTILINE)
    benchmarks = header.split(" | ")
    for name in filter(methods.runs_by_name, plugins.names(methods.PACKAGE)):
        card = plugins.load_plugin(methods.PACKAGE, name).CARD
        figures = (card.published.get(benchmark) for benchmark in benchmarks)
        row = " | ".join("–" if figure is None else f"{figure:.1f}" for figure in figures)
        assert f"| `{name}` | {row} |" in page
