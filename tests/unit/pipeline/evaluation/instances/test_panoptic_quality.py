"""Panoptic quality beside a plain count of pixels, panopticapi's way, and beside hotcoco."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_core.rle.coco_segmentation import encode_mask
from ovseg_core.rle.encode import coco_rle, decode_rle
from pipeline.evaluation.instances.image_pair import ImagePair
from pipeline.evaluation.instances.matching import matchings
from pipeline.evaluation.instances.panoptic_quality import (
    PanopticFigures,
    PanopticQuality,
    mean_panoptic,
)
from tests.helpers.instance_pairs import box, drawn_pairs, found, true

SIZE = (40, 60)


def figures_of(pairs: list[ImagePair], num_labels: int) -> list[PanopticFigures]:
    quality = PanopticQuality(num_labels)
    for pair in pairs:
        quality.add(matchings(pair))
    return quality.figures()


def without_overlaps(pair: ImagePair) -> ImagePair:
    """Return an image as panopticapi takes it: later masks over earlier ones, one crowd a label."""
    crowds = {one.label: one for one in pair.truth if one.is_crowd}
    sides = []
    for masks in ([*crowds.values(), *(t for t in pair.truth if not t.is_crowd)], pair.found):
        painted = np.full(pair.size_hw, -1)
        for place, one in enumerate(masks):
            painted[decode_rle(one.rle_counts, pair.size_hw) > 0] = place
        seen = [(one, painted == place) for place, one in enumerate(masks)]
        sides.append(
            [
                one._replace(rle_counts=encode_mask(mask), area_px=int(mask.sum()))
                for one, mask in seen
                if mask.any()
            ]
        )
    return ImagePair(pair.number, pair.size_hw, *sides)


def counted(pairs: list[ImagePair], num_labels: int) -> list[tuple[float, float, float]]:
    """Return PQ, SQ and RQ of each label, pair by pair of masks, pixel by pixel."""
    iou, hits, false, missed = np.zeros((4, num_labels + 1))
    for pair in pairs:
        truth, segments = (
            [(one, decode_rle(one.rle_counts, pair.size_hw) > 0) for one in side]
            for side in (pair.truth, pair.found)
        )
        matched = set()
        for one, mask in truth:
            best = 0.0
            if one.is_crowd:
                continue
            for number, (other, pixels) in enumerate(segments):
                share = (mask & pixels).sum() / (mask | pixels).sum()
                if other.label == one.label and share > 0.5:
                    best, _ = share, matched.add(number)
            hits[one.label] += best > 0
            iou[one.label] += best
            missed[one.label] += best == 0
        for number, (other, pixels) in enumerate(segments):
            in_crowd = sum(
                (pixels & mask).sum()
                for one, mask in truth
                if one.is_crowd and one.label == other.label
            )
            false[other.label] += number not in matched and in_crowd <= pixels.sum() / 2
    with np.errstate(invalid="ignore"):
        sq, rq = iou / hits, hits / (hits + (false + missed) / 2)
    pq = iou / np.maximum(hits + (false + missed) / 2, 1e-300)
    pq[np.isnan(rq)] = np.nan
    return list(zip(pq[1:], sq[1:], rq[1:], strict=True))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 4))
def test_figures_of_hypothesis_images_are_those_of_a_plain_count(seed, num_images, num_labels):
    pairs = [without_overlaps(pair) for pair in drawn_pairs(seed, num_images, num_labels)]
    ours = figures_of(pairs, num_labels)
    np.testing.assert_allclose(ours, counted(pairs, num_labels), rtol=0, atol=1e-12)


def test_figures_of_two_images_computed_by_hand():
    here, there = box(SIZE, 2, 3, 10, 20), box(SIZE, 20, 30, 10, 20)
    most = box(SIZE, 20, 30, 10, 16)  # IoU 0.8 with `there`
    half = box(SIZE, 2, 3, 10, 10)  # IoU 0.5 with `here`: not above it
    pairs = [
        ImagePair(1, SIZE, [true(1, here), true(1, there)], [found(1, most), found(1, half)]),
        ImagePair(2, SIZE, [true(2, here)], [found(2, here), found(1, there)]),
    ]
    cat, dog, bird = figures_of(pairs, 3)
    assert cat == pytest.approx((0.8 / 2.5, 0.8, 1 / 2.5))  # a match, a miss, two false ones
    assert dog == (1, 1, 1)
    assert np.isnan(bird).all()
    means = mean_panoptic([cat, dog, bird])
    assert means == pytest.approx(((0.32 + 1) / 2, 0.9, 0.7))


def test_masks_that_overlap_are_matched_one_to_one():
    whole, part = box(SIZE, 0, 0, 20, 30), box(SIZE, 5, 5, 15, 24)  # IoU 0.6
    truth = [true(1, whole), true(1, part), true(2, part)]
    perfect = [found(1, part), found(1, whole), found(2, part)]
    pairs = [ImagePair(k, SIZE, truth, perfect) for k in (1, 2)]
    assert figures_of(pairs, 2) == [(1, 1, 1), (1, 1, 1)]
    twice = [found(1, whole), found(1, whole), found(2, part), found(2, whole)]
    cat, dog = figures_of([ImagePair(1, SIZE, truth, twice), ImagePair(2, SIZE, [], [])], 2)
    assert cat == pytest.approx((0.8, 0.8, 1))  # the second one fits the smaller cat by 0.6
    assert dog == pytest.approx((1 / 1.5, 1, 1 / 1.5))


def test_segments_in_a_crowd_region_are_no_false_positives():
    crowd = box(SIZE, 0, 0, 20, 60)
    inside, edge = box(SIZE, 2, 4, 8, 8), box(SIZE, 16, 4, 8, 8)  # half of it
    truth = [true(1, crowd, is_crowd=True), true(1, box(SIZE, 30, 0, 5, 5))]
    segments = [found(1, inside), found(2, box(SIZE, 2, 20, 8, 8)), found(1, edge)]
    pairs = [ImagePair(1, SIZE, truth, segments), ImagePair(2, SIZE, [], [])]
    cat, dog = figures_of(pairs, 2)
    assert cat == pytest.approx((0, np.nan, 0), nan_ok=True)
    assert dog.pq == 0
    pairs[0] = ImagePair(1, SIZE, truth, [*segments[:1], found(1, box(SIZE, 30, 0, 5, 5))])
    assert figures_of(pairs, 2)[0] == (1, 1, 1)


def test_no_image_has_no_figures():
    assert np.isnan(mean_panoptic(figures_of([], 2))).all()


def _hotcoco_datasets(pairs: list[ImagePair], num_labels: int) -> tuple[dict, dict]:
    """Return the masks; where a side has none there is a segment of stuff, so nothing is void."""
    sides: tuple[list, list] = [], []
    for pair in pairs:
        for side, masks in zip(sides, (pair.truth, pair.found), strict=True):
            rest = np.ones(pair.size_hw, bool)
            for one in masks:
                rest &= decode_rle(one.rle_counts, pair.size_hw) == 0
            for one in (*masks, *([true(num_labels + 1, rest)] if rest.any() else ())):
                side.append(
                    {
                        "id": len(side) + 1,
                        "image_id": pair.number,
                        "category_id": one.label,
                        "segmentation": coco_rle(one.rle_counts, pair.size_hw),
                        "area": one.area_px,
                        "bbox": [0, 0, 1, 1],
                        "iscrowd": int(getattr(one, "is_crowd", False)),
                        "score": 1.0,
                    }
                )
    images = [{"id": p.number, "height": p.size_hw[0], "width": p.size_hw[1]} for p in pairs]
    categories = [
        {"id": k, "name": str(k), "isthing": int(k <= num_labels)} for k in range(1, num_labels + 2)
    ]
    head = {"images": images, "categories": categories}
    return {**head, "annotations": sides[0]}, {**head, "annotations": sides[1]}


def test_figures_are_those_of_hotcoco():
    panoptic = pytest.importorskip("hotcoco.panoptic", reason="the second oracle is not installed")
    pairs = [without_overlaps(pair) for pair in drawn_pairs(5, 30, 4, most=6, side=90)]
    evaluation = panoptic.PanopticEval(*_hotcoco_datasets(pairs, 4))
    evaluation.evaluate()
    theirs = evaluation.results()["per_class"]
    expected = [[theirs[k][name] for name in ("pq", "sq", "rq")] for k in range(1, 5)]
    np.testing.assert_allclose(np.nan_to_num(figures_of(pairs, 4)), expected, rtol=0, atol=1e-9)
