"""COCO's figures, grown image by image, beside COCOeval over all images at once."""

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovseg_core.rle.encode import coco_rle
from pipeline.evaluation.instances.average_precision import (
    AveragePrecision,
    CocoFigures,
    mean_figures,
)
from pipeline.evaluation.instances.image_pair import ImagePair
from tests.helpers.instance_pairs import box, drawn_pairs, found, true

SIZE = (40, 60)


def figures_of(pairs: list[ImagePair], num_labels: int) -> list[CocoFigures]:
    precision = AveragePrecision(num_labels)
    for pair in pairs:
        precision.add(pair)
    return precision.figures()


def coco_datasets(pairs: list[ImagePair], num_labels: int) -> tuple[dict, dict]:
    images = [
        {"id": pair.number, "height": pair.size_hw[0], "width": pair.size_hw[1]} for pair in pairs
    ]
    categories = [{"id": k, "name": str(k)} for k in range(1, num_labels + 1)]
    truth = [
        {
            "image_id": pair.number,
            "category_id": one.label,
            "segmentation": coco_rle(one.rle_counts, pair.size_hw),
            "area": one.area_px,
            "iscrowd": int(one.is_crowd),
        }
        for pair in pairs
        for one in pair.truth
    ]
    results = [
        {
            "image_id": pair.number,
            "category_id": one.label,
            "segmentation": coco_rle(one.rle_counts, pair.size_hw),
            "area": one.area_px,
            "score": one.score,
        }
        for pair in pairs
        for one in pair.found
    ]
    for entries in (truth, results):
        for number, entry in enumerate(entries, start=1):
            entry["id"] = number
    head = {"images": images, "categories": categories}
    return {**head, "annotations": truth}, {**head, "annotations": results}


def coco_eval(pairs: list[ImagePair], num_labels: int) -> COCOeval:
    """Return pycocotools' own evaluation of all images."""
    sides = []
    with redirect_stdout(io.StringIO()):
        for dataset in coco_datasets(pairs, num_labels):
            side = COCO()
            side.dataset = dataset
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal_to_pycocotools(pairs: list[ImagePair], num_labels: int) -> None:
    ours, theirs = figures_of(pairs, num_labels), coco_eval(pairs, num_labels)
    precision, recall = theirs.eval["precision"], theirs.eval["recall"]
    for place, figures in enumerate(ours):
        expected = [
            *(precision[:, :, place, 0, 2].mean(), *precision[[0, 5], :, place, 0, 2].mean(axis=1)),
            *precision[:, :, place, 1:, 2].mean(axis=(0, 1)),
            *recall[:, place, 0, :].mean(axis=0),
        ]
        expected = [np.nan if value < 0 else value for value in expected]
        np.testing.assert_allclose(figures, expected, rtol=0, atol=1e-9)
    means = [np.nan if value < 0 else value for value in theirs.stats[:9]]
    np.testing.assert_allclose(mean_figures(ours), means, rtol=0, atol=1e-9)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7), st.integers(1, 4))
def test_figures_of_hypothesis_images_are_those_of_pycocotools(seed, num_images, num_labels):
    assert_equal_to_pycocotools(drawn_pairs(seed, num_images, num_labels), num_labels)


def test_figures_of_images_with_objects_of_all_sizes_are_those_of_pycocotools():
    assert_equal_to_pycocotools(drawn_pairs(7, 20, 4, most=12, side=220), 4)


def test_more_than_a_hundred_segments_of_a_label_are_cut_as_pycocotools_does():
    rng = np.random.default_rng(3)
    masks = [box(SIZE, *rng.integers(0, 30, 2), *rng.integers(2, 10, 2)) for _ in range(130)]
    segments = [found(1, mask, float(rng.integers(0, 20))) for mask in masks]
    pairs = [
        ImagePair(2, SIZE, [true(1, mask) for mask in masks[::2]], segments),
        ImagePair(5, SIZE, [true(1, masks[0])], segments[:3]),
    ]
    assert_equal_to_pycocotools(pairs, 2)


def test_figures_of_two_images_computed_by_hand():
    here, there = box(SIZE, 2, 3, 10, 20), box(SIZE, 20, 30, 10, 20)
    half = box(SIZE, 20, 30, 10, 12)  # IoU 0.6 with `there`
    first = ImagePair(1, SIZE, [true(1, here), true(1, there)], [found(1, here, 0.9)])
    second = ImagePair(2, SIZE, [true(1, there)], [found(1, half, 0.8), found(2, here, 0.7)])
    cat, dog = figures_of([first, second], 2)
    at_recalls = 67 / 101  # the recalls 0, 0.01, ... 0.66 are reached, with precision 1
    assert cat.ap50 == pytest.approx(at_recalls)
    assert cat.ap75 == pytest.approx(34 / 101)  # the second match is none, so 1 of 3
    assert cat.ap == pytest.approx((3 * at_recalls + 7 * 34 / 101) / 10)
    assert cat.ar1 == cat.ar100 == pytest.approx((3 * 2 / 3 + 7 * 1 / 3) / 10)
    assert np.isnan(dog).all(), "no true dog, so there is nothing to reach"
    np.testing.assert_allclose(mean_figures([cat, dog]), cat)


def test_a_crowd_region_makes_segments_in_it_neither_right_nor_wrong():
    crowd, one = box(SIZE, 0, 0, 20, 60), box(SIZE, 25, 5, 10, 10)
    inside = [found(1, box(SIZE, 2, 4 * k, 8, 3), 0.9) for k in range(3)]
    truth = [true(1, crowd, is_crowd=True), true(1, one)]
    pairs = [ImagePair(1, SIZE, truth, [*inside, found(1, one, 0.5)]), ImagePair(2, SIZE, [], [])]
    assert figures_of(pairs, 1)[0].ap == pytest.approx(1)


def test_a_label_that_is_never_found_has_zero_and_one_that_is_not_there_has_none():
    pairs = [ImagePair(1, SIZE, [true(1, box(SIZE, 0, 0, 40, 50))], []), ImagePair(2, SIZE, [], [])]
    cat, dog = figures_of(pairs, 2)
    assert (cat.ap, cat.ap_medium, cat.ar100) == (0, 0, 0)
    assert np.isnan([cat.ap_small, cat.ap_large, dog.ap]).all()


def test_nothing_anywhere_has_no_figures():
    assert np.isnan(mean_figures(figures_of([], 3))).all()
    assert np.isnan(mean_figures([])).all()


def test_figures_are_those_of_hotcoco():
    hotcoco = pytest.importorskip("hotcoco", reason="the second oracle is not installed")
    pairs = drawn_pairs(11, 15, 4, most=12, side=220)
    evaluation = hotcoco.COCOeval(*map(hotcoco.COCO, coco_datasets(pairs, 4)), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    with redirect_stdout(io.StringIO()):
        evaluation.summarize()
    ours = mean_figures(figures_of(pairs, 4))
    np.testing.assert_allclose(ours, evaluation.stats[:9], rtol=0, atol=1e-9)
