"""SA-Co's figures computed by hand, and beside scikit-learn's correlation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef

from pipeline.evaluation.instances.image_pair import ImagePair
from pipeline.evaluation.instances.matching import matchings
from pipeline.evaluation.instances.presence import PresenceCounts, PresenceFigures
from tests.helpers.instance_pairs import box, drawn_pairs, found, true

SIZE = (40, 60)
HERE, THERE = box(SIZE, 2, 3, 10, 20), box(SIZE, 20, 30, 10, 20)


def counts_of(pairs: list[ImagePair], num_labels: int, asked: set[int] | None = None):
    counts = PresenceCounts(num_labels)
    for pair in pairs:
        counts.add(matchings(pair), asked or set(range(1, num_labels + 1)))
    return counts


def test_figures_of_four_images_computed_by_hand():
    part = box(SIZE, 20, 30, 10, 14)  # IoU 0.7 with THERE
    pairs = [
        ImagePair(1, SIZE, [true(1, HERE), true(1, THERE)], [found(1, HERE), found(1, part)]),
        ImagePair(2, SIZE, [true(1, HERE)], []),
        ImagePair(3, SIZE, [], [found(1, HERE), found(1, THERE)]),
        ImagePair(4, SIZE, [], []),
    ]
    [cat] = counts_of(pairs, 1).figures()
    # of 5 masks in the images that show a cat 2 pairs up to IoU 0.7, 1 above
    assert cat.pmf1 == pytest.approx((5 * 4 / 5 + 5 * 2 / 5) / 10)
    assert cat.il_mcc == 0  # a right and a wrong answer of each kind
    assert cat.cgf1 == 0
    better = counts_of([pairs[0], pairs[1], pairs[3], pairs[3]], 1)
    assert better.total().il_mcc == pytest.approx((1 * 2 - 0) / (1 * 2 * 2 * 3) ** 0.5)
    assert better.total().cgf1 == pytest.approx(100 * 0.6 * 2 / 12**0.5)


def test_a_segment_too_many_costs_where_the_label_is_shown_and_only_there():
    twice = [found(1, HERE), found(1, HERE)]
    pairs = [ImagePair(1, SIZE, [true(1, HERE)], twice), ImagePair(2, SIZE, [], twice * 20)]
    [cat] = counts_of(pairs, 1).figures()
    assert cat.pmf1 == pytest.approx(2 / 3)


def test_objects_and_segments_are_assigned_by_the_highest_sum():
    """The best pair would leave nothing for the other object."""
    left, middle, right = (box(SIZE, 0, start, 20, 20) for start in (0, 6, 12))
    pairs = [
        ImagePair(1, SIZE, [true(1, left), true(1, middle)], [found(1, middle), found(1, right)])
    ]
    [cat] = counts_of(pairs, 1).figures()
    # IoUs: middle-left 14/26, middle-middle 1, right-left 8/32, right-middle 14/26
    assert cat.pmf1 == pytest.approx(1 / 2)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 12), st.integers(1, 4))
def test_correlation_is_that_of_scikit_learn(seed, num_images, num_labels):
    pairs = drawn_pairs(seed, num_images, num_labels, most=2)
    asked = range(1, num_labels + 1)
    shown, answered = (
        [
            any(one.label == label for one in side)
            for pair in pairs
            for label in asked
            for side in [kind(pair)]
        ]
        for kind in (lambda pair: pair.truth, lambda pair: pair.found)
    )
    total = counts_of(pairs, num_labels).total()
    if len(set(shown)) == 1:
        assert np.isnan(total.il_mcc)
    else:
        assert total.il_mcc == pytest.approx(matthews_corrcoef(shown, answered), abs=1e-12)


def test_labels_that_are_not_asked_do_not_count():
    pairs = [
        ImagePair(1, SIZE, [true(1, HERE)], [found(1, HERE)]),
        ImagePair(2, SIZE, [], []),
    ]
    counts = counts_of(pairs, 3, asked={1})
    assert counts.total() == PresenceFigures(100, 1, 1)
    assert np.isnan(counts.figures()[2]).all()


def test_a_label_in_every_image_has_no_correlation():
    pairs = [ImagePair(k, SIZE, [true(1, HERE)], [found(1, HERE)]) for k in (1, 2)]
    [cat] = counts_of(pairs, 1).figures()
    assert cat.pmf1 == 1
    assert np.isnan([cat.il_mcc, cat.cgf1]).all()


def test_a_label_that_is_never_shown_has_no_f1():
    pairs = [ImagePair(1, SIZE, [], [found(1, HERE)]), ImagePair(2, SIZE, [], [])]
    assert np.isnan(counts_of(pairs, 1).figures()[0]).all()
    assert np.isnan(counts_of([], 1).total()).all()


def test_the_same_answer_everywhere_is_no_better_than_guessing():
    pairs = [ImagePair(1, SIZE, [true(1, HERE)], []), ImagePair(2, SIZE, [], [])]
    assert counts_of(pairs, 1).total() == PresenceFigures(0, 0, 0)


def test_a_crowd_region_shows_the_label_and_hides_segments_in_it():
    crowd = true(1, box(SIZE, 0, 0, 40, 60), is_crowd=True)
    pairs = [
        ImagePair(1, SIZE, [crowd], [found(1, HERE)]),
        ImagePair(2, SIZE, [crowd, true(1, HERE)], [found(1, HERE), found(1, THERE)]),
        ImagePair(3, SIZE, [], []),
    ]
    assert counts_of(pairs, 1).total() == PresenceFigures(100, 1, 1)
