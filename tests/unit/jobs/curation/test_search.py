"""`ovseg search`: by words and by images, with the run's own CLIP."""

import json
import shutil
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.demo.scenes import draw_scene
from ovseg_core.embedded import CLIP_FOLDER
from pipeline.run.folder import RunFolder
from pipeline.storage import waiting
from tests.helpers.icc_profiles import SWAPPED
from tests.helpers.tampered_runs import as_version_4


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Sixty scenes of one object each, named by it."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "images").mkdir()
    for seed in range(60):
        scene = draw_scene(seed, num_objects=1)
        name = scene.labels[0].replace(" ", "_") if scene.labels else "nothing"
        Image.fromarray(scene.image).save(folder / "images" / f"{seed:02d}_{name}.png")
    command = ["annotate", "--local", "--images", f"{folder}/images", "--out", f"{folder}/run"]
    options = ["--set", "clip.model=embedded", "--set", "run.device=cpu"]
    result = ovseg(*command, "--labels", "star", *options)
    assert result.exit_code == 0, result.output
    return RunFolder.open(f"{folder}/run")


def test_words_find_the_images_that_show_them(run: RunFolder, tmp_path: Path):
    words_of = {path: path[:-4].split("_") for path in run.manifest()["path"].to_pylist()}
    precisions = []
    assert ovseg("search", run.folder.uri, "background", "--count", "1").exit_code == 0
    for word in ("red", "green", "blue", "star", "heart", "fish"):
        showing = sum(word in words for words in words_of.values())
        out = str(tmp_path / f"{word}.csv")
        result = ovseg(
            "search", run.folder.uri, word, "--count", str(showing), "--json", "--out", out
        )
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["num_images"] == 60
        cosines = [one["cosine"] for one in found["images"]]
        assert cosines == sorted(cosines, reverse=True)
        precisions.append(np.mean([word in words_of[one["path"]] for one in found["images"]]))
    assert np.mean(precisions) > 0.75


def test_what_takes_long_is_said(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waiting, "FIRST_S", 0.0)
    heard, is_over = set(), Event()

    def listen() -> None:
        while not is_over.wait(0.0005):
            heard.add(waiting.current_line())

    listener = Thread(target=listen)
    listener.start()
    try:
        result = ovseg("search", run.folder.uri, "yellow star", "--count", "2")
    finally:
        is_over.set()
        listener.join()
    assert result.exit_code == 0, result.output
    assert any("waiting: load CLIP since" in line for line in heard), heard


def test_image_of_the_run_or_a_file_finds_itself(run: RunFolder, tmp_path: Path):
    path = run.manifest()["path"].to_pylist()[7]
    file = Path(run.folder.uri).parent / "images" / path
    sheet = tmp_path / "found.png"
    for given in (path, str(file)):
        flags = ("--image", given, "--count", "3", "--json", "--sheet", str(sheet))
        result = ovseg("search", run.folder.uri, *flags)
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)["images"]
        assert (found[0]["path"], len(found)) == (path, 3)
        assert found[0]["cosine"] == pytest.approx(1, abs=2e-3)
        with Image.open(sheet) as drawn:
            assert drawn.width > 800
    listed = Path(run.folder.uri, "exports/lists", f"like-{Path(path).stem.replace('_', '-')}.csv")
    assert listed.read_text("utf-8").splitlines()[1].split(",")[1] == path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected words, such as"),
        (["fish", "--image", "x.png"], "expected words, such as"),
        (["   "], "expected words to search for"),
        (["--image", "/nowhere/x.png"], "not_found"),
        (["fish", "--sheet", "x.txt"], "--sheet x.txt: expected a name that ends in"),
        (["fish", "--sheet", "found.gif"], "--sheet found.gif: expected a name that ends in"),
    ],
)
def test_mistakes_are_told(run: RunFolder, flags: list[str], message: str, tmp_path: Path):
    result = ovseg("search", run.folder.uri, *flags, "--out", str(tmp_path / "a.csv"))
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert not (tmp_path / "a.csv").exists(), "it is told before the work"


def test_a_file_is_prepared_as_the_images_of_the_run_were(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for seed in range(4):
        file = tmp_path / "images" / f"{seed}.png"
        Image.fromarray(draw_scene(seed).image).save(file, icc_profile=SWAPPED)
    command = ["annotate", "--local", "--images", f"{tmp_path}/images", "--out", f"{tmp_path}/run"]
    options = ["--set", "clip.model=embedded", "--set", "image.color_profiles=ignore"]
    result = ovseg(*command, "--labels", "star", *options, "--set", "run.device=cpu")
    assert result.exit_code == 0, result.output
    for seed in (1, 3):
        file = str(tmp_path / "images" / f"{seed}.png")
        result = ovseg("search", f"{tmp_path}/run", "--image", file, "--json")
        best = json.loads(result.stdout)["images"][0]
        assert best == {"path": f"{seed}.png", "cosine": pytest.approx(1, abs=1e-3)}


def test_run_of_an_older_ovseg_has_nothing_to_search(run: RunFolder, tmp_path: Path):
    older = tmp_path / "older"
    shutil.copytree(run.folder.uri, older)
    as_version_4(RunFolder.open(str(older)))
    for command in (("search", "star"), ("duplicates",), ("sample", "--by", "outlier")):
        result = ovseg(command[0], str(older), *command[1:])
        assert result.exit_code == 1, result.output
        assert "none of its images has a CLIP vector" in result.stderr
    assert ovseg("sample", str(older), "--count", "3").exit_code == 0


def test_only_the_clip_of_the_run_is_loaded_and_none_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a run that another machine has made, and of weights that are not the run's any more."""
    clip = tmp_path / "clip"
    shutil.copytree(CLIP_FOLDER, clip)
    (tmp_path / "images").mkdir()
    for seed in range(3):
        Image.fromarray(draw_scene(seed).image).save(tmp_path / "images" / f"{seed}.png")
    run, name = f"{tmp_path}/run", f"local-dir:{clip}"
    command = ["annotate", "--local", "--images", f"{tmp_path}/images", "--out", run]
    options = ["--set", f"clip.model={name}", "--set", "vision.model=embedded"]
    result = ovseg(*command, "--labels", "star", *options, "--set", "run.device=cpu")
    assert result.exit_code == 0, result.output
    own = ovseg("search", run, "star")
    assert own.exit_code == 0, own.output
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "other machine"))
    refused = ovseg("search", run, "star")
    assert refused.exit_code == 1
    assert f"add them: ovseg search {run} --weights {name}" in refused.stderr
    assert ovseg("search", run, "star", "--weights", name).exit_code == 0
    assert ovseg("search", run, "--image", "1.png").exit_code == 0, "an image needs no weights"
    (file,) = clip.glob("*.safetensors")
    tensors = load_file(file)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] + 1}, file)
    other = ovseg("search", run, "star", "--weights", name)
    assert other.exit_code == 1
    assert "is not the CLIP that made the vectors" in other.stderr
