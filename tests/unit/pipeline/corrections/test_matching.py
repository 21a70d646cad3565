"""Corrected masks against predicted segments: which mask comes from which segment."""

import numpy as np
import pytest

from ovseg_core.rle.encode import decode_rle, encode_rle
from pipeline.corrections.matching import (
    CorrectedMask,
    best_pairs,
    count_px,
    covered_segments,
    match,
    mean_best_iou,
    merge_by_label,
    overlap,
    restored,
    split_into_components,
)

SIZE_HW = 6, 10
NAMES = ("cat", "dog")
IMAGE = {"image_id": "a", "height": SIZE_HW[0], "width": SIZE_HW[1]}


def _counts(*boxes: tuple[int, int]) -> str:
    """Return the RLE of vertical stripes, each from one column to another."""
    mask = np.zeros(SIZE_HW, np.int64)
    for start, stop in boxes:
        mask[:, start:stop] = 1
    (region,) = encode_rle(mask, SIZE_HW).values() if mask.any() else ()
    return region.counts


def _row(index: int, category_id: int, *boxes: tuple[int, int]) -> dict:
    size = {"height": SIZE_HW[0], "width": SIZE_HW[1]}
    return {
        "segment_index": index,
        "category_id": category_id,
        "rle_counts": _counts(*boxes),
    } | size


def _matched(predicted: list[dict], *corrected: CorrectedMask) -> list[tuple]:
    masks = match(IMAGE, predicted, corrected, NAMES)
    return [(mask.label, mask.segment_index, mask.verdict) for mask in masks]


def test_equal_mask_is_accepted_and_another_outline_is_changed():
    predicted = [_row(0, 1, (0, 4)), _row(5, 2, (4, 8))]
    equal, smaller = CorrectedMask(1, _counts((0, 4))), CorrectedMask(2, _counts((4, 7)))
    assert _matched(predicted, equal, smaller) == [("cat", 0, "accepted"), ("dog", 5, "changed")]


@pytest.mark.parametrize(("stop", "expected"), [(4, (0, "changed")), (1, (None, "added"))])
def test_mask_of_another_label_at_the_same_place_was_relabelled(stop, expected):
    assert _matched([_row(0, 1, (0, 4))], CorrectedMask(2, _counts((0, stop)))) == [
        ("dog", *expected)
    ]


def test_segment_named_by_the_file_goes_before_a_higher_iou():
    predicted = [_row(0, 1, (0, 4)), _row(1, 1, (3, 8))]
    mask = CorrectedMask(1, _counts((2, 8)), segment_index=0)
    assert _matched(predicted, mask) == [("cat", 0, "changed")]


def test_no_two_masks_come_from_one_segment():
    predicted = [_row(0, 1, (0, 6))]
    masks = CorrectedMask(1, _counts((0, 2))), CorrectedMask(1, _counts((2, 6)))
    assert _matched(predicted, *masks) == [("cat", None, "added"), ("cat", 0, "changed")]


def test_merge_by_label_joins_the_masks_of_a_label():
    masks = [CorrectedMask(2, _counts((0, 1))), CorrectedMask(1, _counts((1, 2)))]
    masks.append(CorrectedMask(2, _counts((4, 6)), segment_index=3))
    assert merge_by_label(masks, SIZE_HW) == [
        CorrectedMask(1, _counts((1, 2))),
        CorrectedMask(2, _counts((0, 1), (4, 6)), 3),
    ]


def test_split_into_components_only_masks_over_several_segments():
    both = CorrectedMask(1, _counts((0, 2), (4, 6)))
    predicted = [_row(0, 1, (0, 2)), _row(1, 1, (4, 6))]
    parts = split_into_components([both], predicted, SIZE_HW)
    assert [part.rle_counts for part in parts] == [_counts((0, 2)), _counts((4, 6))]
    assert split_into_components([both], predicted[:1], SIZE_HW) == [both]


def test_labels_that_are_as_an_export_has_them_get_the_masks_that_it_was_made_of():
    one, other = CorrectedMask(1, _counts((0, 2)), 0), CorrectedMask(1, _counts((3, 5)), 1)
    dog = CorrectedMask(2, _counts((6, 9)), 2)
    joined = CorrectedMask(1, _counts((0, 2), (3, 5)), 0)
    smaller = CorrectedMask(2, _counts((6, 8)), 2)
    before = [one, other, dog]
    assert restored([joined, dog], before, "class", SIZE_HW) == before
    assert restored([joined, smaller], before, "class", SIZE_HW) == [one, other, smaller]
    larger = CorrectedMask(1, _counts((0, 5)), 0)
    assert restored([larger], before, "class", SIZE_HW) == [larger]
    cut = [CorrectedMask(1, _counts((0, 2)), 0), CorrectedMask(1, _counts((3, 5)))]
    assert restored(cut, [joined], "component", SIZE_HW) == [joined]
    assert restored(cut, [joined], "instance", SIZE_HW) == cut
    assert restored(cut[1:], [joined], "component", SIZE_HW) == cut[1:]


def test_overlap_counts_pixels_of_intersection_and_union():
    one, other = [_counts((0, 2)), _counts((4, 6))], [_counts((1, 5))]
    assert overlap(one, other, SIZE_HW) == (12, 36)
    assert overlap(one, [], SIZE_HW) == (0, int(sum(decode_rle(rle, SIZE_HW).sum() for rle in one)))
    assert overlap([], [], SIZE_HW) == (0, 0)


def test_covered_segments_are_named_or_lie_under_the_masks():
    rows = [_row(0, 1, (0, 4)), _row(1, 2, (4, 8)), _row(2, 1, (8, 10))]
    masks = [CorrectedMask(0, _counts((3, 5))), CorrectedMask(0, _counts((0, 1)), 2)]
    assert covered_segments(rows, masks, 0.5) == {0, 2}
    assert covered_segments(rows, masks, 0.25) == {0, 1, 2}
    assert covered_segments(rows, masks[:1], 0.0) == {0, 1, 2}
    assert covered_segments(rows, [], 0.0) == set()


def test_mean_best_iou_is_that_of_the_first_masks():
    other = [_counts((0, 4)), _counts((6, 10))]
    assert mean_best_iou([_counts((0, 4)), _counts((0, 2))], other, SIZE_HW) == 0.75
    assert mean_best_iou([], other, SIZE_HW) == mean_best_iou(other, [], SIZE_HW) == 0.0
    assert count_px(other[0], SIZE_HW) == 24


def test_overlapping_instances_of_a_label_go_to_the_segments_that_fit_together_best():
    predicted = [_row(0, 1, (0, 6)), _row(1, 1, (2, 10))]
    # The second mask is a little nearer to segment 0 than the first one, which fits nothing else.
    first, second = CorrectedMask(1, _counts((0, 3))), CorrectedMask(1, _counts((1, 7)))
    assert _matched(predicted, first, second) == [("cat", 0, "changed"), ("cat", 1, "changed")]


def test_mask_with_the_very_pixels_of_a_segment_is_accepted_whatever_else_fits():
    predicted = [_row(0, 1, (0, 8)), _row(1, 1, (4, 10))]
    moved, equal = CorrectedMask(1, _counts((1, 8))), CorrectedMask(1, _counts((0, 8)))
    assert _matched(predicted, moved, equal) == [("cat", 1, "changed"), ("cat", 0, "accepted")]


def test_best_pairs_have_the_largest_sum_and_leave_out_what_does_not_touch():
    ious = np.array([[0.6, 0.5, 0], [0.7, 0, 0], [0, 0, 0], [0, 0, 0.2]])
    assert sorted(best_pairs(ious)) == [(0, 1), (1, 0), (3, 2)]
    assert best_pairs(np.zeros((2, 3))) == []
