"""Filters of the grid by score columns, as the table of score columns lists them."""

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.review.filter import Filter, ScoreFilter, select
from pipeline.review.index import ReviewIndex
from schemas.score_columns import SCORE_COLUMNS
from tests.helpers.drawn_runs import RunSpec, make_run, odd_scenes

FILTERABLE = [column for column in SCORE_COLUMNS.values() if column.filterable]


@pytest.mark.parametrize("column", FILTERABLE, ids=lambda column: column.name)
def test_select_images_with_a_mask_within_the_limits_of_a_column(column, tmp_path):
    index = ReviewIndex(make_run(tmp_path, odd_scenes(), RunSpec()))
    values = index.segments.scores[column.name]
    low, high = np.quantile(values, (0.3, 0.6)).tolist()
    wanted = ScoreFilter.model_validate(
        {f"{column.name}_low": str(low), f"{column.name}_high": str(high)}
    )
    assert wanted.limits() == {column.name: (low, high)}
    rows = select(index, np.zeros(len(index), np.uint8), wanted, index.by_priority)
    within = index.segments.row[(values >= low) & (values <= high)]
    assert sorted(rows) == sorted(set(within.tolist()))
    assert 0 < len(rows) < len(index)


@pytest.mark.parametrize("column", FILTERABLE, ids=lambda column: column.name)
def test_limit_outside_the_range_of_a_column_is_refused(column):
    with pytest.raises(ValidationError, match=f"{column.name}_low"):
        ScoreFilter.model_validate({f"{column.name}_low": column.low - 1})


def test_whole_range_does_not_limit():
    assert Filter().limits() == {}
    assert ScoreFilter.model_validate({"mean_prob_low": 0, "mean_prob_high": 1}).limits() == {}
