"""`ovseg annotate` and `ovseg evaluate` on public data sets under each protocol.

The numbers of `ovseg evaluate` are compared with numbers computed here from the pixel values that
the test wrote and the masks of the run.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from tests.helpers import public_datasets as layouts
from tests.helpers.public_datasets import Maps

QUICK = ("--local", "--set", "clip.model=embedded", "--set", "run.device=cpu")
SPLIT, CONTEXT = "ImageSets/Segmentation/val.txt", "ImageSets/SegmentationContext/val.txt"
THINGS = [i for i in range(91) if i not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)]
RAW = (*THINGS, *range(91, 182), 255)


def _reduced(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, -1, values)


def _void(values: np.ndarray) -> np.ndarray:
    return np.where(values == 255, -1, values)


def _from_zero(values: np.ndarray) -> np.ndarray:
    return np.where(values == 255, -1, values + 1)


def _object(values: np.ndarray) -> np.ndarray:
    return np.select([values == thing for thing in THINGS], range(1, 81), 0)


def _stuff(values: np.ndarray) -> np.ndarray:
    numbers = {value: number for number, value in enumerate(RAW, start=1)} | {255: -1}
    return np.vectorize(numbers.get)(values)


Make = Callable[[Path], Maps]
Rule = Callable[[np.ndarray], np.ndarray]
SETS: dict[str, tuple[Make, Rule]] = {
    "voc21": (
        lambda p: layouts.voc(p, SPLIT, "SegmentationClass", (*range(21), 255)),
        _void,
    ),
    "voc20": (
        lambda p: layouts.voc(p, SPLIT, "SegmentationClass", (*range(21), 255)),
        lambda values: _reduced(_void(values)),
    ),
    "context60": (
        lambda p: layouts.voc(p, CONTEXT, "SegmentationClassContext", range(60)),
        _void,
    ),
    "context59": (
        lambda p: layouts.voc(p, CONTEXT, "SegmentationClassContext", range(60)),
        _reduced,
    ),
    "object": (lambda p: layouts.coco(p, "val2017", "stuffthingmaps/val2017*.png", RAW), _object),
    "stuff": (lambda p: layouts.coco(p, "val2017", "stuffthingmaps/val2017*.png", RAW), _stuff),
    "cityscapes": (
        lambda p: layouts.cityscapes(p, "_gtFine_labelTrainIds.png", (*range(19), 255)),
        _from_zero,
    ),
    "ade20k": (
        lambda p: layouts.plain(p, "images/validation*.jpg", "annotations/validation", range(151)),
        _reduced,
    ),
    "camvid": (
        lambda p: layouts.plain(p, "test*.png", "testannot", range(12)),
        lambda values: np.where(values == 11, -1, values + 1),
    ),
}
WITH_BACKGROUND = ("voc21", "context60", "object")


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def annotate(protocol: str, *more: str) -> Result:
    return ovseg("annotate", "--protocol", protocol, "--data", "data", "--out", "run", *more)


def evaluate(protocol: str, *more: str) -> Result:
    return ovseg("evaluate", "run", "--protocol", protocol, "--data", "data", *more)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predictions() -> dict[str, np.ndarray]:
    shards = RunReader(RunFolder.open("run")).shards()
    return {image["path"]: found for shard in shards for image, found in shard.label_maps()}


def expected_ious(truths: dict[str, np.ndarray], num_classes: int) -> list[float | None]:
    """Return the IoU of classes 0 to K over all images; None where a class is in neither."""
    found = predictions()
    assert found.keys() == truths.keys()
    ious: list[float | None] = []
    for label in range(num_classes + 1):
        hit = union = 0
        for path, true_map in truths.items():
            true, predicted = true_map == label, (found[path] == label) & (true_map != -1)
            hit += int((true & predicted).sum())
            union += int((true | predicted).sum())
        ious.append(hit / union if union else None)
    return ious


@pytest.mark.parametrize("protocol", SETS)
def test_annotate_and_evaluate(protocol: str, here: Path) -> None:
    make, rule = SETS[protocol]
    truths = {path: rule(values.astype(int)) for path, values in make(here / "data").items()}
    # Plain names instead of 80 templates: the numbers are compared, not the method.
    bare = ("--set", "method.name=maskclip", "--set", "method.options.templates=plain")
    annotated = annotate(protocol, *QUICK, *bare)
    assert annotated.exit_code == 0, annotated.output
    assert f"ovseg evaluate run --protocol {protocol} --data data" in annotated.stdout
    evaluated = evaluate(protocol, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    report = json.loads(evaluated.stdout)
    ious = expected_ious(truths, len(report["labels"]) - (protocol in WITH_BACKGROUND))
    first = 0 if protocol in WITH_BACKGROUND else 1
    assert [label["iou"] for label in report["labels"]] == pytest.approx(ious[first:], nan_ok=True)
    occurring = [iou for iou in ious[first:] if iou is not None]
    assert report["miou"] == pytest.approx(sum(occurring) / len(occurring))
    right, counted = (
        sum(int(count(path, true).sum()) for path, true in truths.items())
        for count in (lambda path, true: true == predictions()[path], lambda _, true: true != -1)
    )
    assert report["pixel_accuracy"] == pytest.approx(right / counted)
    assert report["num_images"] == len(layouts.SIZES)
    if first:
        assert all(found.min() > 0 for found in predictions().values())
    assert json.loads(Path("run/evaluation.json").read_text(encoding="utf-8")) == report
    with Image.open("run/confusion.png") as picture:
        assert picture.format == "PNG"
        picture.load()


def test_annotate_recipe_is_that_of_the_method_and_options_override_it(here: Path) -> None:
    layouts.voc(here / "data", SPLIT, "SegmentationClass", range(21))
    given = ("--set", "method.name=sclip", "--set", "method.options.logit_scale=33")
    words = ("--set", "vocabulary.background=[nothing]", "--limit", "2")
    assert annotate("voc21", *QUICK, *given, *words).exit_code == 0
    job = RunFolder.open("run").info.job()
    assert job.method.options == {
        "logit_scale": 33,
        "probability_threshold": 0.1,
        "area_threshold": 0.1,
    }
    assert job.vocabulary.background == ("nothing",)
    assert job.vocabulary.names[3] == "ship"
    assert (job.images, job.image.only) == ("data/JPEGImages", f"data/{SPLIT}")
    assert RunFolder.open("run").info.num_images == 2
    shown = evaluate("voc21")
    assert shown.exit_code == 0, shown.output
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "images compared 2 of the protocol's 1,449" in lines
    assert any(line.startswith("as published 59.63 (SCLIP, CLIP ViT-B/16 openai") for line in lines)
    assert "differs CLIP is embedded, not ViT-B-16-quickgelu openai" in lines
    assert "differs method.options.logit_scale is 33.0, not 65.0" in lines
    assert "differs the background phrases are not the protocol's" in lines
    assert lines[-1].endswith("run/confusion.png")


def test_evaluate_shows_published_scores_by_class(here: Path) -> None:
    layouts.plain(here / "data", "test*.png", "testannot", range(12))
    assert annotate("camvid", *QUICK).exit_code == 0
    shown = evaluate("camvid").stdout
    assert "S003" in shown
    assert "91.600" in shown
    assert "no figure (CLIP-DIY" in shown


def test_evaluate_run_with_other_classes_is_refused(here: Path) -> None:
    layouts.voc(here / "data", SPLIT, "SegmentationClass", range(21))
    assert annotate("voc20", *QUICK, "--labels", "cat,dog").exit_code == 0
    refused = evaluate("voc20")
    assert refused.exit_code == 1
    assert "voc20 has 20 classes, the run has 2 labels (cat, dog, ...)" in refused.stderr
    assert not Path("run/evaluation.json").exists()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--protocol", "voc21"], "--protocol NAME and --data FOLDER go together"),
        (["--data", "data"], "--protocol NAME and --data FOLDER go together"),
        (["--protocol", "voc12", "--data", "data"], "there is no protocol 'voc12': Did you mean"),
        (["--protocol", "voc21", "--data", "data"], "expected JPEGImages/*.jpg there"),
    ],
)
def test_annotate_mistake_is_one_line(args: list[str], expected: str, here: Path) -> None:
    (here / "data").mkdir()
    result = ovseg("annotate", *args, "--out", "run", *QUICK)
    assert result.exit_code == 1
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_annotate_split_with_a_missing_image_is_refused(here: Path) -> None:
    layouts.voc(here / "data", SPLIT, "SegmentationClass", range(21))
    (here / "data/JPEGImages/2007_000001.jpg").unlink()
    result = annotate("voc21", *QUICK)
    assert result.exit_code == 1
    assert "names 3 images, of which 1 are not there, for example '2007_000001'" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--protocol", "voc21"],
        ["--data", "data"],
        ["--truth", "t", "--protocol", "voc21", "--data", "d"],
    ],
)
def test_evaluate_needs_a_truth_or_a_protocol(args: list[str], here: Path) -> None:
    result = ovseg("evaluate", "run", *args)
    assert result.exit_code == 2
    assert "--truth" in result.stderr


def test_evaluate_prints_the_report_if_the_run_folder_is_not_writable(here: Path) -> None:
    layouts.plain(here / "data", "test*.png", "testannot", range(12))
    assert annotate("camvid", *QUICK).exit_code == 0
    Path("run/evaluation.json").mkdir()
    result = evaluate("camvid")
    assert result.exit_code == 0, result.output
    assert "not kept in the run folder" in result.stderr
    assert "pixel accuracy" in result.stdout
