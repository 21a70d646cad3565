"""Which statement on an image counts, and which says nothing."""

import itertools

from pipeline.corrections.statements import best_statement, seconds_of, silence_of
from pipeline.importers.shared.notes import NoteKind
from pipeline.importers.shared.tool_file import ToolImage, ToolMask


def _said(**more) -> ToolImage:
    return ToolImage(("a.png",), (4, 6), **{"masks": (), **more})


MASKS = (ToolMask("cat", (4, 6), "h0"),)


def test_image_without_masks_says_nothing_unless_it_is_marked():
    assert silence_of(_said(masks=MASKS, num_left_out=2), False) is None
    assert silence_of(_said(is_checked=True), False) is None
    assert silence_of(_said(), True) is None
    assert silence_of(_said(), False) is NoteKind.UNANNOTATED
    for image in (_said(num_left_out=1), _said(num_left_out=1, is_checked=True)):
        assert silence_of(image, True) is NoteKind.BOX_ONLY


def test_best_statement_is_the_same_in_any_order():
    ranked = [
        _said(is_ground_truth=True, is_checked=True, told_at_s=1.0),
        _said(masks=MASKS, told_at_s=3.0),
        _said(masks=MASKS, told_at_s=2.0),
        _said(masks=MASKS),
        _said(is_checked=True, told_at_s=9.0),
        _said(),
    ]
    for worse in range(1, len(ranked) + 1):
        for images in itertools.permutations(ranked[worse - 1 :]):
            assert best_statement(images) is ranked[worse - 1]


def test_last_of_equal_statements_counts():
    first, last = _said(masks=MASKS), _said(masks=MASKS)
    assert best_statement([first, last]) is last


def test_seconds_are_those_of_all_statements():
    assert seconds_of([_said(seconds=2.0), _said(), _said(seconds=0.5)]) == 2.5
    assert seconds_of([_said()]) is None
