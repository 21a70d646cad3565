"""Panoptic quality beside a plain count of pixels, panopticapi's way, and beside hotcoco."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_core.rle.coco_segmentation import encode_mask
from ovseg_core.rle.encode import decode_rle
from pipeline.evaluation.instances.image_pair import ImagePair, coco_rle
from pipeline.evaluation.instances.panoptic_quality import (
    PanopticFigures,
    PanopticQuality,
    mean_panoptic,
)
from tests.helpers.instance_pairs import box, drawn_pairs, found, true

SIZE = (40, 60)


def quality_of(pairs: list[ImagePair], num_labels: int) -> PanopticQuality:
    quality = PanopticQuality(num_labels)
    for pair in pairs:
        quality.add(pair)
    return quality


def visible(pair: ImagePair) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Return what is to be seen of each true object and of each segment, by its place."""
    truth = sorted(
        range(len(pair.truth)), key=lambda k: (not pair.truth[k].is_crowd, -pair.truth[k].area_px)
    )
    segments = sorted(range(len(pair.found)), key=lambda k: pair.found[k].score)
    sides = []
    for masks, order in ((pair.truth, truth), (pair.found, segments)):
        painted = np.full(pair.size_hw, -1)
        for place in order:
            painted[decode_rle(masks[place].rle_counts, pair.size_hw) > 0] = place
        sides.append({place: painted == place for place in order if (painted == place).any()})
    return sides[0], sides[1]


def counted(pairs: list[ImagePair], num_labels: int) -> list[tuple[float, float, float]]:
    """Return PQ, SQ and RQ of each label, pair by pair of masks, pixel by pixel."""
    iou, hits, false, missed = np.zeros((4, num_labels + 1))
    for pair in pairs:
        truth, segments = visible(pair)
        matched = set()
        for place, mask in truth.items():
            one, best = pair.truth[place], 0.0
            if one.is_crowd:
                continue
            for number, other in segments.items():
                share = (mask & other).sum() / (mask | other).sum()
                if pair.found[number].label == one.label and share > 0.5:
                    best, _ = share, matched.add(number)
            hits[one.label] += best > 0
            iou[one.label] += best
            missed[one.label] += best == 0
        for number, mask in segments.items():
            label = pair.found[number].label
            crowds = [
                m for k, m in truth.items() if pair.truth[k][0] == label and pair.truth[k].is_crowd
            ]
            in_crowd = sum((mask & crowd).sum() for crowd in crowds)
            false[label] += number not in matched and in_crowd <= mask.sum() / 2
    with np.errstate(invalid="ignore"):
        sq, rq = iou / hits, hits / (hits + (false + missed) / 2)
    pq = iou / np.maximum(hits + (false + missed) / 2, 1e-300)
    pq[np.isnan(rq)] = np.nan
    return list(zip(pq[1:], sq[1:], rq[1:], strict=True))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 4))
def test_figures_of_hypothesis_images_are_those_of_a_plain_count(seed, num_images, num_labels):
    pairs = drawn_pairs(seed, num_images, num_labels)
    ours = quality_of(pairs, num_labels).figures()
    np.testing.assert_allclose(ours, counted(pairs, num_labels), rtol=0, atol=1e-12)


def test_figures_of_two_images_computed_by_hand():
    here, there = box(SIZE, 2, 3, 10, 20), box(SIZE, 20, 30, 10, 20)
    most = box(SIZE, 20, 30, 10, 16)  # IoU 0.8 with `there`
    half = box(SIZE, 2, 3, 10, 10)  # IoU 0.5 with `here`: not above it
    pairs = [
        ImagePair(1, SIZE, [true(1, here), true(1, there)], [found(1, most), found(1, half)]),
        ImagePair(2, SIZE, [true(2, here)], [found(2, here), found(1, there)]),
    ]
    cat, dog, bird = quality_of(pairs, 3).figures()
    assert cat == pytest.approx((0.8 / 2.5, 0.8, 1 / 2.5))  # a match, a miss, two false ones
    assert dog == (1, 1, 1)
    assert np.isnan(bird).all()
    means = mean_panoptic([cat, dog, bird])
    assert means == pytest.approx(((0.32 + 1) / 2, 0.9, 0.7))


def test_of_segments_that_overlap_the_best_is_on_top_and_hidden_ones_are_counted():
    whole, part = box(SIZE, 0, 0, 20, 30), box(SIZE, 5, 5, 5, 5)
    truth = [true(1, whole), true(2, part)]
    quality = quality_of(
        [
            ImagePair(1, SIZE, truth, [found(1, whole, 0.4), found(2, part, 0.8)]),
            ImagePair(2, SIZE, truth, [found(1, whole, 0.8), found(2, part, 0.4)]),
        ],
        2,
    )
    assert (quality.num_hidden_found, quality.num_hidden_true) == (1, 0)
    cat, dog = quality.figures()
    assert cat.pq == pytest.approx((1 + 575 / 600) / 2)
    assert dog == pytest.approx((1 / 1.5, 1, 1 / 1.5))


def test_objects_of_one_outline_hide_each_other():
    same = box(SIZE, 4, 4, 9, 9)
    pairs = [ImagePair(k, SIZE, [true(1, same), true(2, same)], []) for k in (1, 2)]
    assert quality_of(pairs, 2).num_hidden_true == 2


def test_segments_in_a_crowd_region_are_no_false_positives():
    crowd = box(SIZE, 0, 0, 20, 60)
    inside, edge = box(SIZE, 2, 4, 8, 8), box(SIZE, 16, 4, 8, 8)  # half of it
    truth = [true(1, crowd, is_crowd=True), true(1, box(SIZE, 30, 0, 5, 5))]
    segments = [found(1, inside), found(2, box(SIZE, 2, 20, 8, 8)), found(1, edge)]
    pairs = [ImagePair(1, SIZE, truth, segments), ImagePair(2, SIZE, [], [])]
    cat, dog = quality_of(pairs, 2).figures()
    assert cat == pytest.approx((0, np.nan, 0), nan_ok=True)
    assert dog.pq == 0
    pairs[0] = ImagePair(1, SIZE, truth, [*segments[:1], found(1, box(SIZE, 30, 0, 5, 5))])
    assert quality_of(pairs, 2).figures()[0] == (1, 1, 1)


def test_no_image_has_no_figures():
    assert np.isnan(mean_panoptic(quality_of([], 2).figures())).all()


def _hotcoco_datasets(pairs: list[ImagePair], num_labels: int) -> tuple[dict, dict]:
    """Return masks that do not overlap; where the truth has none there is a stuff segment."""
    sides: tuple[list, list] = [], []
    for pair in pairs:
        for side, masks, segments in zip(
            sides, (pair.truth, pair.found), visible(pair), strict=True
        ):
            rest = np.ones(pair.size_hw, bool)
            entries = [
                (masks[k].label, mask, getattr(masks[k], "is_crowd", False))
                for k, mask in segments.items()
            ]
            for _, mask, _ in entries:
                rest &= ~mask
            if rest.any():
                entries.append((num_labels + 1, rest, False))
            for label, mask, is_crowd in entries:
                side.append(
                    {
                        "id": len(side) + 1,
                        "image_id": pair.number,
                        "category_id": label,
                        "segmentation": coco_rle(encode_mask(mask), pair.size_hw),
                        "area": int(mask.sum()),
                        "bbox": [0, 0, 1, 1],
                        "iscrowd": int(is_crowd),
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
    pairs = []
    for pair in drawn_pairs(5, 30, 4, most=6, side=90):  # panopticapi knows one crowd of a label
        crowds = {one.label: one for one in pair.truth if one.is_crowd}
        truth = [one for one in pair.truth if not one.is_crowd or crowds[one.label] is one]
        pairs.append(ImagePair(pair.number, pair.size_hw, truth, pair.found))
    evaluation = panoptic.PanopticEval(*_hotcoco_datasets(pairs, 4))
    evaluation.evaluate()
    theirs = evaluation.results()["per_class"]
    expected = [[theirs[k][name] for name in PanopticFigures._fields] for k in range(1, 5)]
    ours = quality_of(pairs, 4).figures()
    np.testing.assert_allclose(np.nan_to_num(ours), expected, rtol=0, atol=1e-9)
