"""A few trials of `tests.fault.fuzz`, which runs thousands by hand."""

import pytest

from tests.fault.fuzz import fuzz

NUM_TRIALS = 48


@pytest.mark.timeout(300)
def test_commands_end_in_their_result_or_in_one_clear_line():
    trials = fuzz(NUM_TRIALS, seed=5)
    assert [trial for trial in trials if trial.problem] == []
    assert {trial.exit_code for trial in trials} == {0, 1}
