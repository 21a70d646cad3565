"""Runs under a protocol of three classes: what counts, how it is averaged, what differs."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.evaluation.evaluate import EvaluationRules, evaluate_against
from pipeline.evaluation.reference import protocol_reference
from pipeline.evaluation.report import EvaluationReport
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, make_run

TRUTH = {"folder": "truth", "ending": ".png", "values": {"labels": ["0..2"], "ignored": [9]}}
PROTOCOL = {
    "title": "Three things",
    "benchmark": "VOC20",
    "num_images": 2,
    "images": [{"folder": "photos", "ending": ".png"}],
    "truth": [TRUTH],
    "classes": list(LABELS),
}
WITH_BACKGROUND = {
    "benchmark": "VOC21",
    "background": ["background"],
    "truth": [{**TRUTH, "values": {"labels": ["1..3"], "background": [0], "ignored": [9]}}],
}
PREDICTED = np.array([[1, 1, 2, 2, 0, 0], [1, 1, 2, 2, 0, 1]], np.uint16)
TRUE = np.array([[1, 1, 1, 2, 1, 9], [1, 2, 2, 2, 9, 9]], np.uint8)
"""Values, of which 0 is cat, or background; 9 is not counted."""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    blank = np.zeros((3, 5), np.uint16)
    run = make_run(tmp_path, [Scene("a.png", PREDICTED), Scene("b.png", blank)])
    (tmp_path / "truth").mkdir()
    Image.fromarray(TRUE).save(tmp_path / "truth/a.png")
    Image.fromarray(np.full((3, 5), 9, np.uint8)).save(tmp_path / "truth/b.png")
    return run


def measured(
    run: RunFolder, rules: EvaluationRules | None = None, **changes: object
) -> EvaluationReport:
    folder = Path(run.folder.uri).parent
    file = folder / "three.yaml"
    file.write_text(yaml.safe_dump({**PROTOCOL, **changes}))
    under = protocol_reference(run, str(file), str(folder))
    return evaluate_against(run, under, rules or EvaluationRules()).report


def test_background_that_is_not_a_class_is_wrong_and_has_no_row(run: RunFolder) -> None:
    report = measured(run)
    assert [label.name for label in report.labels] == list(LABELS)
    # true dog (1): 5 pixels, found as cat 3, dog 1, background 1; plant (2): 4, as cat 1, dog 3
    assert [label.truth_px for label in report.labels] == [0, 5, 4]
    assert [label.predicted_px for label in report.labels] == [4, 4, 0]
    assert [label.iou for label in report.labels] == [0, 1 / 8, 0]
    assert report.miou == report.label_miou == pytest.approx(1 / 24)
    assert report.pixel_accuracy == pytest.approx(1 / 9)
    assert report.foreground_iou is None
    assert (report.num_images, report.num_expected) == (2, 2)
    assert {(c.truth, c.predicted, c.pixels) for c in report.confusions} == {
        ("dog", "cat", 3),
        ("potted plant", "dog", 3),
        ("potted plant", "cat", 1),
        ("dog", "background", 1),
    }
    assert report.confusions[0].share == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("occurring", (0 + 1 / 8 + 0) / 3), ("in_truth", (1 / 8 + 0) / 2), ("all", 1 / 24)],
)
def test_mean_rule_selects_the_averaged_classes(rule: str, expected: float, run: RunFolder) -> None:
    assert measured(run, counting={"mean": rule}).miou == pytest.approx(expected)
    assert measured(run, EvaluationRules(mean=rule)).miou == pytest.approx(expected)


def test_mean_rule_class_that_does_not_occur(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Scene("a.png", np.full((4, 6), 2, np.uint16))])
    (tmp_path / "truth").mkdir()
    Image.fromarray(np.ones((4, 6), np.uint8)).save(tmp_path / "truth/a.png")
    assert measured(run).miou == 1
    assert measured(run, EvaluationRules(mean="in_truth")).miou == 1
    assert measured(run, EvaluationRules(mean="all")).miou == pytest.approx(1 / 3)


def test_background_that_is_a_class_counts(run: RunFolder) -> None:
    report = measured(run, **WITH_BACKGROUND)
    ious = {label.name: label.iou for label in report.labels}
    # true cat (1): 5 pixels, 3 of them found; dog (2): 4, 3 of them found; of either 4 are found
    assert ious == {"background": 0, "cat": 3 / 6, "dog": 3 / 5, "potted plant": None}
    assert report.miou == pytest.approx((3 / 6 + 3 / 5) / 3)
    assert report.label_miou == pytest.approx((3 / 6 + 3 / 5) / 2)
    assert report.foreground_iou == pytest.approx(8 / 9)


def test_min_foreground_px_leaves_images_out(run: RunFolder) -> None:
    report = measured(run, counting={"min_foreground_px": 9})
    assert (report.num_images, report.num_left_out) == (1, 1)
    assert measured(run, EvaluationRules(min_foreground_px=0)).num_images == 2
    with pytest.raises(UserError, match="nothing to compare"):
        measured(run, EvaluationRules(min_foreground_px=10))


def test_recipe_with_its_own_truth_and_counting(run: RunFolder) -> None:
    """CLIP-DIY on COCO: instances, the first painter wins, small images left out."""
    folder = Path(run.folder.uri).parent
    whole, left = np.ones((2, 6), np.uint8), np.zeros((2, 6), np.uint8)
    left[:, :3] = 1
    masks = [(left, 17), (whole, 18)]
    dataset = {
        "images": [{"id": 1, "file_name": "a.png", "height": 2, "width": 6}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": category, "iscrowd": 0, "segmentation": _rle(mask)}
            for mask, category in masks
        ],
    }
    (folder / "instances.json").write_text(json.dumps(dataset))
    recipe = {
        "methods": ["clip_diy"],
        "truth": [{"instances": "instances.json"}],
        "counting": {"mean": "all"},
    }
    report = measured(run, **WITH_BACKGROUND, recipes=[recipe])
    # cat: left half, found on its first two columns and once on the right; dog: the right half
    assert [label.truth_px for label in report.labels] == [0, 6, 6, 0]
    assert [label.iou for label in report.labels][1:] == [4 / 7, 2 / 8, None]
    assert report.miou == pytest.approx((4 / 7 + 2 / 8) / 4)
    assert report.mean == "all"
    other = {**recipe, "methods": ["naclip"]}
    assert measured(run, **WITH_BACKGROUND, recipes=[other]).mean == "occurring"


def _rle(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def test_protocol_reference_published_scores_and_differences(run: RunFolder) -> None:
    recipe = {
        "methods": ["clip_diy"],
        "note": "Published by others.",
        "options": {"side_px": 128, "scales": [128], "stride_divisor": 2},
        "words": {"dog": "hound"},
    }
    figures = [{"source": "S", "iou": {"dog": 50.0}}]
    report = measured(run, **WITH_BACKGROUND, recipes=[recipe], figures=figures)
    assert report.published is not None
    assert report.published.miou == 59.9
    assert report.published.method == "CLIP-DIY"
    assert report.published.classes[0].iou == {"dog": 50.0}
    assert report.differences[0] == "Published by others."
    assert "method.options.side_px is 256, not 128" in report.differences
    assert "the labels' phrases are not the protocol's" in report.differences
    assert not any("stride_divisor" in line or "background" in line for line in report.differences)
    assert measured(run).published.miou == 79.7


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "dog"], r"has 2 classes, the run has 3 labels \(cat, dog, potted plant, ...\)"),
        (["dog", "CAT", "x"], r"label 1 of the run is 'cat', class 1 of .* is 'dog': labels must"),
        (["cat", "pottedplant", "dog"], r"label 2 of the run is 'dog'"),
    ],
)
def test_protocol_reference_run_with_other_classes_is_refused(
    classes: list, message: str, run: RunFolder
) -> None:
    values = {"labels": [f"0..{len(classes) - 1}"], "ignored": [9]}
    with pytest.raises(UserError, match=message):
        measured(run, classes=classes, truth=[{**TRUTH, "values": values}])


def test_protocol_reference_accepts_other_names_in_the_right_order(
    tmp_path: Path, run: RunFolder
) -> None:
    report = measured(run, classes=["kitten", "hound", "pottedplant"])
    assert [label.name for label in report.labels] == ["kitten", "hound", "pottedplant"]
    labels = ("cat", "dog", "fern")
    other = make_run(tmp_path / "b", [Scene("a.png", PREDICTED)], RunSpec(labels=labels))
    (tmp_path / "b/truth").symlink_to(tmp_path / "truth")
    (tmp_path / "b/photos/a.png").touch()
    assert measured(other).miou == report.miou
