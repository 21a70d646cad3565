"""Which of overlapping masks stay: twelve small cases, 0 of them with a duplicate."""

import torch

from ovseg_core.decision.instances.suppression import kept_masks

Box = tuple[int, int, int, int]
STAR, HOUSE = 1, 2


def kept(*masks: tuple[Box, int, float], max_iou: float = 0.7) -> list[int]:
    """Return the numbers of the masks that stay of boxes (top, left, bottom, right)."""
    drawn = torch.zeros(len(masks), 40, 60, dtype=torch.bool)
    for mask, ((top, left, bottom, right), _, _) in zip(drawn, masks, strict=True):
        mask[top:bottom, left:right] = True
    labels = torch.tensor([label for _, label, _ in masks])
    ranks = torch.tensor([rank for _, _, rank in masks])
    return kept_masks(drawn, labels, ranks, max_iou)


def test_nothing_comes_of_nothing() -> None:
    assert kept_masks(torch.zeros(0, 4, 6).bool(), torch.zeros(0), torch.zeros(0), 0.7) == []
    assert kept(((5, 5, 5, 5), STAR, 0.9)) == []


def test_objects_apart_stay_by_falling_rank() -> None:
    left, right = (0, 0, 20, 20), (10, 30, 30, 50)
    assert kept((left, STAR, 0.5), (right, STAR, 0.9)) == [1, 0]


def test_touching_objects_of_one_label_stay() -> None:
    assert kept(((0, 0, 20, 20), STAR, 0.9), ((0, 20, 20, 40), STAR, 0.8)) == [0, 1]


def test_objects_that_overlap_a_little_stay() -> None:
    assert kept(((0, 0, 20, 20), STAR, 0.9), ((10, 10, 30, 30), STAR, 0.8)) == [0, 1]


def test_the_same_object_twice_is_one() -> None:
    assert kept(((0, 0, 20, 20), STAR, 0.8), ((1, 0, 20, 20), STAR, 0.9)) == [1]


def test_the_same_object_under_two_words_keeps_the_more_likely_one() -> None:
    assert kept(((0, 0, 20, 20), STAR, 0.8), ((0, 0, 20, 19), HOUSE, 0.9)) == [1]


def test_a_part_of_an_object_is_not_a_second_one() -> None:
    assert kept(((0, 0, 20, 20), STAR, 0.9), ((5, 5, 15, 15), STAR, 0.8)) == [0]


def test_the_whole_takes_the_place_of_a_likelier_part() -> None:
    assert kept(((0, 0, 20, 20), STAR, 0.8), ((5, 5, 15, 15), STAR, 0.9)) == [0]


def test_an_object_of_another_label_in_an_object_stays() -> None:
    assert kept(((0, 0, 30, 30), HOUSE, 0.9), ((5, 5, 15, 15), STAR, 0.8)) == [0, 1]
    assert kept(((0, 0, 30, 30), HOUSE, 0.8), ((5, 5, 15, 15), STAR, 0.9)) == [1, 0]


def test_a_group_of_objects_is_not_a_further_one() -> None:
    one, two, both = (0, 0, 20, 20), (0, 20, 20, 40), (0, 0, 20, 40)
    assert kept((one, STAR, 0.9), (two, STAR, 0.8), (both, STAR, 0.7)) == [0, 1]


def test_a_group_of_several_labels_is_left_to_their_ranks() -> None:
    one, two, both = (0, 0, 20, 20), (0, 20, 20, 40), (0, 0, 20, 40)
    assert kept((one, STAR, 0.9), (two, HOUSE, 0.8), (both, STAR, 0.7)) == [1, 2]


def test_the_threshold_is_that_of_the_call() -> None:
    pair = ((0, 0, 20, 20), STAR, 0.9), ((0, 5, 20, 25), HOUSE, 0.8)  # IoU 0.6
    assert kept(*pair) == [0, 1]
    assert kept(*pair, max_iou=0.5) == [0]
