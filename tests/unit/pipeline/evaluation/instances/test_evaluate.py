"""A run's segments beside a truth of objects, from the files to the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg_core.rle.coco_segmentation import encode_mask
from pipeline.corrections.log import ReviewLog
from pipeline.evaluation.instances.evaluate import InstanceRules, evaluate_instances
from pipeline.evaluation.instances.report import InstanceReport
from pipeline.evaluation.reference import truth_reference
from pipeline.exporters import coco
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, crowded_run, crowded_scene, make_run
from tests.helpers.instance_pairs import box

SIZE = (30, 44)
CAT, DOG, PLANT = 1, 2, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return crowded_run(tmp_path_factory.mktemp("crowded"), RunSpec(shard_size=2))


def report_of(run: RunFolder, truth: str | Path, **rules: float) -> InstanceReport:
    reference = truth_reference(run, str(truth), "label")
    return evaluate_instances(run, reference, InstanceRules.model_validate(rules))


def own_truth(run: RunFolder, folder: Path, **changes: Any) -> Path:
    """Write the run's own export as a truth, with changed lists."""
    (file, _) = coco.export(run, coco.Options(label_answers=False))
    dataset = json.loads(run.folder.read_bytes(file)) | changes
    path = folder / "truth.json"
    path.write_text(json.dumps(dataset))
    return path


def entry(mask: np.ndarray, category_id: int, **changes: Any) -> dict[str, Any]:
    segmentation = {"size": list(mask.shape), "counts": encode_mask(mask)}
    return {
        "image_id": 1,
        "category_id": category_id,
        "segmentation": segmentation,
        "area": int(mask.sum()),
        **changes,
    }


def test_a_run_beside_its_own_export_is_perfect(run, tmp_path):
    report = report_of(run, own_truth(run, tmp_path))
    figures = report.all_labels
    assert (figures.ap, figures.ar100, figures.pq, figures.pmf1) == (1, 1, 1, 1)
    assert (figures.il_mcc, figures.cgf1) == (1, pytest.approx(100))
    assert figures.ap_large is None, "the truth has no large object"
    assert [(one.name, one.num_true, one.num_found) for one in report.labels] == [
        ("cat", 4, 4),
        ("dog", 2, 2),
        ("potted plant", 2, 2),
    ]
    assert (report.num_images, report.segments) == (3, "instances")
    assert InstanceReport.model_validate_json(report.model_dump_json()) == report


def test_figures_computed_by_hand(run, tmp_path):
    """Of two images the first lacks a cat that was found, and has a dog that was not."""
    dataset = json.loads(own_truth(run, tmp_path).read_text())
    kept = [one for one in dataset["annotations"] if one["id"] not in (2, 3)]
    polygon = [[0, 0, 9, 0, 9, 3, 0, 3]]
    kept += [{"id": 99, "image_id": 3, "category_id": DOG, "segmentation": polygon, "area": 27}]
    report = report_of(run, own_truth(run, tmp_path, annotations=kept))
    cat, dog, plant = (label.figures for label in report.labels)
    # cats by score: right, right, wrong (the second image's left one has the same score), right
    assert cat.pmf1 == pytest.approx(2 * 3 / 7)
    assert cat.pq == cat.rq == pytest.approx(3 / 3.5)
    assert cat.ar1 == pytest.approx(2 / 3)
    assert cat.il_mcc == 1
    # one of two dogs is found; a false one in the first image, none where the second is
    assert (dog.ar100, dog.pq) == (0.5, 0.5)
    assert dog.il_mcc == pytest.approx(-0.5)
    assert dog.cgf1 == pytest.approx(100 * 2 / 3 * -0.5)
    assert plant.ap == 1


def test_segments_under_a_score_are_left_out_and_counted(run, tmp_path):
    truth = own_truth(run, tmp_path)
    report = report_of(run, truth, min_score=0.5)
    # the plants have 0.4, and of proposals of the same quality the dogs 0.49, right cats 0.36
    assert report.num_low_score == 6
    assert [one.num_found for one in report.labels] == [2, 0, 0]
    assert report.labels[1].figures.ap == 0


def test_a_segment_is_ranked_by_its_score_times_that_of_its_proposal(tmp_path):
    """Class masks have no proposal: their rank is their score."""
    scene = crowded_scene("a.png")
    run = make_run(tmp_path, [Scene(f"{c}.png", scene.label_map, c) for c in (0.4, 0.6)])
    report = report_of(run, own_truth(run, tmp_path), min_score=0.5)
    assert (report.segments, report.num_low_score) == ("class", 3)


def test_a_review_is_a_truth(tmp_path):
    run = crowded_run(tmp_path)
    image = {"image_id": "id-a/one.png", "at_s": 1.0}
    decisions = [
        ReviewDecision(action="accept", **image),
        ReviewDecision(action="reject", label="cat", segment_index=1, **image),
    ]
    ReviewLog(run).append(decisions)
    report = report_of(run, "reviewed")
    assert (report.num_images, report.num_without_truth) == (1, 2)
    cat = report.labels[0]
    assert (cat.num_true, cat.num_found) == (1, 2)
    assert cat.figures.pmf1 == pytest.approx(2 / 3)
    assert cat.figures.ap == pytest.approx(1), "the wrong one has the lower score"


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("ignores", [False, True])
def test_a_truth_may_ignore_the_orientation_of_photographs(orientation, ignores, tmp_path):
    names = ("a.png", "b.png")
    scenes = [crowded_scene(name, orientation=orientation) for name in names]
    run = make_run(tmp_path, scenes, RunSpec(masks={"segments": "instances"}))
    images, annotations = [], []
    for number, scene in enumerate(scenes, start=1):
        for label, _, mask in scene.instances or ():
            stored = {3: mask[::-1, ::-1], 6: np.rot90(mask)}[orientation] if ignores else mask
            stored = np.ascontiguousarray(stored)
            annotations.append(entry(stored, label, image_id=number, id=len(annotations) + 1))
            size = {"height": stored.shape[0], "width": stored.shape[1]}
        images.append({"id": number, "file_name": scene.path, **size})
    report = report_of(run, own_truth(run, tmp_path, images=images, annotations=annotations))
    assert (report.num_images, report.all_labels.ap, report.all_labels.pq) == (2, 1, 1)
    assert ("frames" in report.notes) is ignores


def test_labels_and_categories_that_only_one_side_knows_are_named_and_do_not_count(run, tmp_path):
    names = [{"id": 1, "name": "Cat"}, {"id": 2, "name": "wolf"}, {"id": 3, "name": "flower"}]
    report = report_of(run, own_truth(run, tmp_path, categories=names))
    assert [label.name for label in report.labels] == ["cat"]
    assert report.all_labels == report.labels[0].figures
    assert report.unknown_categories == ("flower", "wolf")
    assert report.missing_labels.keys() == {"dog", "potted plant"}
    assert report.num_not_compared == 4


def test_crowd_regions_are_counted(run, tmp_path):
    dataset = json.loads(own_truth(run, tmp_path).read_text())
    crowded = [one | {"iscrowd": int(one["category_id"] == CAT)} for one in dataset["annotations"]]
    report = report_of(run, own_truth(run, tmp_path, annotations=crowded))
    assert report.num_crowds == 4
    cat = report.labels[0]
    assert (cat.num_true, cat.figures.ap, cat.figures.pq, cat.figures.il_mcc) == (0, None, None, 1)


def test_words_without_any_object_have_no_figures(tmp_path):
    labels = (*LABELS, *(f"thing {number}" for number in range(300)))
    run = crowded_run(tmp_path, RunSpec(labels=labels))
    report = report_of(run, own_truth(run, tmp_path))
    assert len(report.labels) == 303
    assert report.labels[-1].figures.ap is None
    assert (report.all_labels.ap, report.all_labels.pq, report.all_labels.il_mcc) == (1, 1, 1)


def test_a_truth_with_boxes_only_is_refused(run, tmp_path):
    boxes = [{"id": 1, "image_id": k, "category_id": 1, "bbox": [1, 1, 9, 9]} for k in (1, 2, 3)]
    with pytest.raises(UserError, match=r"3 have no true masks .*boxes or points only: 3"):
        report_of(run, own_truth(run, tmp_path, annotations=boxes))


def test_an_image_with_a_mask_of_another_size_has_no_truth(run, tmp_path):
    dataset = json.loads(own_truth(run, tmp_path).read_text())
    wrong = entry(box((9, 9), 0, 0, 3, 3), CAT, id=99)
    report = report_of(run, own_truth(run, tmp_path, annotations=[*dataset["annotations"], wrong]))
    assert (report.num_images, report.num_without_truth) == (2, 1)
    assert "image's size [30, 44], got [9, 9]" in report.notes["unreadable"].first[0]


def test_an_image_of_another_size_is_left_out(run, tmp_path, caplog):
    dataset = json.loads(own_truth(run, tmp_path).read_text())
    images = [one | ({"width": 7} if one["id"] == 3 else {}) for one in dataset["images"]]
    report = report_of(run, own_truth(run, tmp_path, images=images))
    assert (report.num_images, report.num_wrong_size) == (2, 1)
    assert "nothing.png left out: 7 x 12 in the truth, 20 x 12 in the run" in caplog.text


def test_masks_without_a_pixel_are_no_objects(run, tmp_path):
    dataset = json.loads(own_truth(run, tmp_path).read_text())
    empty = entry(np.zeros(SIZE, bool), CAT, id=99, area=50)
    report = report_of(run, own_truth(run, tmp_path, annotations=[*dataset["annotations"], empty]))
    assert (report.labels[0].num_true, report.all_labels.ap) == (4, 1)
    assert report.notes["dropped_masks"].count == 1


def test_the_truths_own_area_says_which_objects_are_small(run, tmp_path):
    dataset = json.loads(own_truth(run, tmp_path).read_text())
    large = [one | {"area": 9999.5} for one in dataset["annotations"]]
    report = report_of(run, own_truth(run, tmp_path, annotations=large))
    assert (report.all_labels.ap_small, report.all_labels.ap_large) == (None, 1)
    assert report.all_labels.ap == 1


def test_label_images_hold_no_objects(run, tmp_path):
    Image.fromarray(np.ones((12, 20), np.uint8)).save(tmp_path / "nothing.png")
    with pytest.raises(UserError, match=r"do not tell touching objects apart: .*instances\.json"):
        report_of(run, tmp_path)


def test_a_truth_may_say_for_each_image_which_labels_it_was_checked_for(run, tmp_path):
    """LVIS's lists: of the first image nothing is told of plants, and cats are not all drawn."""
    dataset = json.loads(own_truth(run, tmp_path).read_text())
    without = [one for one in dataset["annotations"] if one["id"] != 4]  # a plant
    lists = [([], [CAT]), ([], []), ([CAT, 77], [])]
    images = [
        image | {"neg_category_ids": negative, "not_exhaustive_category_ids": partial}
        for image, (negative, partial) in zip(dataset["images"], lists, strict=True)
    ]
    report = report_of(run, own_truth(run, tmp_path, images=images, annotations=without))
    assert [(one.name, one.num_true, one.num_found) for one in report.labels] == [
        ("cat", 2, 2),
        ("dog", 2, 2),
        ("potted plant", 1, 1),
    ]
    assert report.num_not_compared == 3
    cat, dog, _ = (label.figures for label in report.labels)
    assert (cat.il_mcc, dog.il_mcc, dog.pmf1) == (1, None, 1), "no image is told to be without dogs"


def test_answers_are_counted_with_what_the_truth_shows(tmp_path):
    """Labels without a segment have the highest probabilities .27 (cat), .43 (dog) and .6."""
    run = crowded_run(tmp_path)
    dataset = json.loads(own_truth(run, tmp_path).read_text())
    dog = {"id": 99, "image_id": 3, "category_id": DOG, "segmentation": [[0, 0, 9, 0, 9, 3, 0, 3]]}
    report = report_of(run, own_truth(run, tmp_path, annotations=[*dataset["annotations"], dog]))
    counts = {answer: (check.num, check.num_shown) for answer, check in report.answers.items()}
    assert counts == {"present": (6, 6), "unsure": (3, 1)}
