"""Other words from stored features: as a direct run, without the images, and after any end."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from jobs.cli import app
from jobs.config import load_config
from jobs.demo.draw import draw_scenes
from jobs.runs.relabel import relabel
from pipeline.exporters import coco
from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from pipeline.run.inspection.check import check_run
from pipeline.run.reader import RunReader
from pipeline.run.vectors import image_vectors
from schemas.config import JobConfig
from schemas.errors import ConfigError, FeaturesError, RunFolderError, UserError

WORDS = "red solid circle,blue striped fish,green checkered mushroom"
OTHERS = "yellow dotted arrow,cyan solid triangle,blue striped fish,purple solid star"
METHODS = {
    "clip_diy": (),
    "naclip": ("method.options.short_side_px=64", "method.options.window_px=32"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    draw_scenes(folder, 6, 3)
    (folder / "scene_003.png").write_bytes(b"not a picture")
    return folder


def annotate(images: Path, out: Path, words: str, keep: str, *sets: str) -> RunFolder:
    flags = {
        "images": str(images), "labels": words, "out": str(out), "clip.model": "embedded",
        "run.local": True, "run.keep_features": keep, "shard_size": 2,
    }  # fmt: skip
    config = load_config(JobConfig, flags=flags, sets=sets)
    job.run(config, Progress())
    return RunFolder.open(str(out))


def relabelled(source: Path, out: Path, words: str = OTHERS, *sets: str) -> RunFolder:
    flags = {"labels": words, "out": str(out), "run.local": True}
    assert relabel(str(source), flags, sets, dry_run=False) == 3  # one image in six has failed
    return RunFolder.open(str(out))


def label_maps(run: RunFolder) -> dict[str, NDArray[np.uint16]]:
    shards = RunReader(run).shards()
    return {row["path"]: labels for shard in shards for row, labels in shard.label_maps()}


def equal_pixels(one: RunFolder, other: RunFolder) -> float:
    ours, theirs = label_maps(one), label_maps(other)
    assert ours.keys() == theirs.keys()
    return float(np.mean(np.concatenate([(ours[k] == theirs[k]).ravel() for k in ours])))


@pytest.fixture(scope="module")
def kept(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kept") / "run"
    annotate(images, out, WORDS, "float16")
    return out


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "kept"))


@pytest.mark.parametrize(("keep", "least"), [("float16", 0.995), ("int8", 0.99)])
@pytest.mark.parametrize("method", METHODS)
def test_other_words_are_decided_as_a_direct_run_decides_them(
    images: Path, tmp_path: Path, method: str, keep: str, least: float
) -> None:
    sets = (f"method.name={method}", *METHODS[method])
    annotate(images, tmp_path / "run", WORDS, keep, *sets)
    direct = annotate(images, tmp_path / "direct", OTHERS, "none", *sets)
    made = relabelled(tmp_path / "run", tmp_path / "made")
    assert len(label_maps(made)) == 5
    assert equal_pixels(made, direct) >= least
    assert check_run(made).is_clean


def test_dry_run_says_what_the_words_are_scored_on(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    given = ["relabel", str(kept), "--labels", OTHERS, "--out", str(out), "--local", "--dry-run"]
    shown = CliRunner().invoke(app, given)
    assert shown.exit_code == 0, shown.output
    said = f"stored in {kept}: no image is read"
    assert said in " ".join(shown.stdout.split())
    assert not out.exists()


def test_the_run_in_the_current_folder_gets_a_new_one_beside_it(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    before = sorted(copied.iterdir())
    assert relabel(".", {"labels": OTHERS, "run.local": True}, (), dry_run=False) == 3
    assert sorted(copied.iterdir()) == before
    made = RunFolder.open(f"{copied}-relabelled")
    assert made.info.job().vocabulary.names == tuple(OTHERS.split(","))


def test_a_relabelled_run_has_the_rows_of_its_images_and_needs_none_of_them(
    images: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(images, tmp_path / "images"))
    source = annotate(place, tmp_path / "run", WORDS, "float16")
    shutil.rmtree(place)
    made = relabelled(tmp_path / "run", tmp_path / "made")
    columns = ["path", "uri", "status", "error_code", "error_message", "height", "width"]
    tables = ([b.to_pylist() for b in it.read_table("images", columns)] for it in (made, source))
    assert next(tables) == next(tables)
    ours, theirs = (list(image_vectors(it)) for it in (made, source))
    assert [it.paths for it in ours] == [it.paths for it in theirs]
    assert all((a.vectors_ND == b.vectors_ND).all() for a, b in zip(ours, theirs, strict=True))
    assert made.info.job().vocabulary.names == tuple(OTHERS.split(","))
    again = relabelled(tmp_path / "run", tmp_path / "made")
    assert again.done() == made.done()


def test_exports_of_a_relabelled_run_have_the_ids_of_the_coco_file(
    images: Path, tmp_path: Path
) -> None:
    ids = {"scene_004.png": 139, "scene_003.png": 5, "scene_000.png": 7, "scene_002.png": 0}
    listed = [{"id": number, "file_name": name} for name, number in ids.items()]
    file = tmp_path / "instances_val.json"
    file.write_text(json.dumps({"images": listed, "annotations": [], "categories": []}))
    annotate(file, tmp_path / "run", WORDS, "float16", f"run.images_roots=[{images}]")
    made = relabelled(tmp_path / "run", tmp_path / "made")
    (exported, *_) = coco.export(made, coco.Options())
    found = json.loads(made.folder.read_bytes(exported))["images"]
    failed = "scene_003.png"
    assert {one["file_name"]: one["id"] for one in found} == {
        name: number for name, number in ids.items() if name != failed
    }


def test_a_run_that_has_grown_gives_its_current_images(images: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(images, tmp_path / "images"))
    annotate(place, tmp_path / "run", WORDS, "float16")
    (place / "scene_000.png").unlink()
    shutil.copy(place / "scene_001.png", place / "new.png")
    annotate(place, tmp_path / "run", WORDS, "float16", "run.update=true")
    made = relabelled(tmp_path / "run", tmp_path / "made")
    maps = label_maps(made)
    assert sorted(maps) == ["new.png", *(f"scene_00{n}.png" for n in (1, 2, 4, 5))]
    assert (maps["new.png"] == maps["scene_001.png"]).all()
    assert made.generations.number == 1


def test_killed_in_the_middle_it_goes_on_where_it_was(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    code = (
        "import os, signal; from pipeline.run.folder import RunFolder; made = RunFolder.commit\n"
        "def commit(run, index, *rest):\n"
        "    if index == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return made(run, index, *rest)\n"
        "RunFolder.commit = commit\n"
        "from jobs.runs.relabel import relabel\n"
        f"relabel({str(kept)!r}, {{'labels': {OTHERS!r}, 'out': {str(out)!r}, "
        "'run.local': True}, (), False)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(RunFolder.open(str(out)).done()) == [0]
    first = RunFolder.open(str(out)).done()[0]
    made = relabelled(kept, out)
    assert made.done()[0] == first
    whole = relabelled(kept, tmp_path / "whole")
    assert equal_pixels(made, whole) == 1


def test_thresholds_may_change_and_what_features_depend_on_may_not(
    kept: Path, tmp_path: Path
) -> None:
    made = relabelled(kept, tmp_path / "made", OTHERS, "masks.min_area_px=400")
    areas = [area for b in made.read_table("annotations", ["area_px"]) for area in b[0].to_pylist()]
    assert min(areas) >= 400
    for change, words in {
        "method.options.stride_divisor=4": r"method\.options\.stride_divisor was 2, now 4",
        "method.name=naclip": r"method\.name was clip_diy, now naclip",
        "image.max_pixels=50": r"image\.max_pixels was",
        "compute.precision=bf16": r"compute\.precision was fp32, now bf16",
    }.items():
        with pytest.raises(ConfigError, match=words):
            relabelled(kept, tmp_path / "other", OTHERS, change)
    with pytest.raises(RunFolderError, match="begun with other settings: the words were"):
        relabelled(kept, tmp_path / "made", WORDS, "masks.min_area_px=400")
    with pytest.raises(ConfigError, match="reads no images"):
        relabelled(kept, tmp_path / "other", OTHERS, "run.update=true")


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (_flip, r"SHA-256 is not that .* delete done/0000\d\.json and give the command"),
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:99]), "damaged"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_features_are_refused_and_can_be_made_anew(
    images: Path, copied: Path, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    file = min((copied / "features").iterdir())
    damage(file)
    assert [finding.kind for finding in check_run(RunFolder.open(str(copied))).findings] == ["file"]
    with pytest.raises(FeaturesError, match=words):
        relabelled(copied, tmp_path / "made")
    (copied / "done" / f"{file.name[:5]}.json").unlink()
    annotate(images, copied, WORDS, "float16")
    assert len(label_maps(relabelled(copied, tmp_path / "made"))) == 5


def test_runs_without_features_and_unfinished_ones_are_refused(
    images: Path, copied: Path, tmp_path: Path
) -> None:
    (copied / "done" / "00001.json").unlink()
    with pytest.raises(UserError, match=r"is not finished, 1 shard"):
        relabelled(copied, tmp_path / "made")
    annotate(images, copied, WORDS, "none")
    with pytest.raises(UserError, match=r"no features of 1 image are stored: .*--keep-features"):
        relabelled(copied, tmp_path / "made")
    shutil.rmtree(copied / "features")
    run = RunFolder.open(str(copied))
    assert len(run.done()) == 3, "features may be deleted"
    with pytest.raises(UserError, match=r"no features of 5 images are stored"):
        relabelled(copied, tmp_path / "made")


def test_features_of_other_weights_are_refused(copied: Path, tmp_path: Path) -> None:
    text = (copied / "run.yaml").read_text()
    digest = RunFolder.open(str(copied)).info.weights["clip"]
    (copied / "run.yaml").write_text(text.replace(f"  clip: {digest}", f"  clip: {'e' * 64}"))
    with pytest.raises(RunFolderError, match=r"other weights: clip was e{16}, is"):
        relabelled(copied, tmp_path / "made")


def test_keep_features_may_stand_without_a_value(images: Path, tmp_path: Path) -> None:
    given = [
        *("annotate", "--images", str(images), "--labels", "cat", "--out", str(tmp_path / "run")),
        *("--set", "clip.model=embedded", "--local", "--dry-run"),
    ]
    runner = CliRunner()
    assert runner.invoke(app, [*given, "--keep-features"]).exit_code == 0
    assert runner.invoke(app, [*given, "--keep-features", "int8"]).exit_code == 0
    assert runner.invoke(app, [*given, "--keep-features", "half"]).exit_code == 1
    looks_again = ("--set", "method.options={proposals: sam, refine_masks: true}")
    assert runner.invoke(app, [*given, *looks_again]).exit_code == 0
    assert runner.invoke(app, [*given, *looks_again, "--keep-features"]).exit_code == 1
