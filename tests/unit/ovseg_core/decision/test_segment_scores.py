"""Scores of segments, summed by blocks of rows."""

from dataclasses import replace

import numpy as np
import pytest

from ovseg_core.decision.decide import Decision
from ovseg_core.decision.segment_scores import segment_scores, visible_decision
from ovseg_core.decision.segments import cut_segments
from schemas.score_columns import SCORE_COLUMNS


def _decision(canvas=(20, 30), cell=4) -> Decision:
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 3, (canvas[0] // cell + 1, canvas[1] // cell + 1))
    labels = np.kron(coarse, np.ones((cell, cell), int))[: canvas[0], : canvas[1]]
    planes = rng.random((4, *canvas), dtype=np.float32)
    return Decision(labels.astype(np.uint16), *planes, rng.random(4), rng.random(4))


@pytest.mark.parametrize("size", [(20, 30), (53, 41), (11, 13)])
def test_scores_do_not_depend_on_the_blocks(size):
    visible = visible_decision(_decision(), size)
    cut = cut_segments(visible.decision.label_map, "components")
    num_segments = len(cut.labels) - 1
    whole = segment_scores(visible, cut)
    blocks = segment_scores(visible, cut, block_pixels=1)
    of_the_mask = {"area_frac", "num_components", "proposal_score"}
    assert set(whole) == set(blocks) == set(SCORE_COLUMNS) - of_the_mask
    for name, values in whole.items():
        assert values.shape == (num_segments + 1,)
        np.testing.assert_allclose(blocks[name], values, rtol=1e-6, err_msg=name)


def test_rows_and_columns_that_a_reduction_skips_are_dropped():
    visible = visible_decision(_decision(), (11, 13))
    assert visible.decision.label_map.shape == (11, 13)
    assert visible.row_counts.sum() == 11
    assert visible.column_counts.sum() == 13


def test_no_segments_have_no_scores():
    empty = replace(_decision(), label_map=np.zeros((20, 30), np.uint16))
    scores = segment_scores(
        visible_decision(empty, (20, 30)), cut_segments(empty.label_map, "class")
    )
    assert all(values.shape == (1,) for values in scores.values())
