import contextlib
import time

from pipeline.annotate.stopwatch import stopwatch


def test_stopwatch_measures_a_block_that_fails():
    with contextlib.suppress(ValueError), stopwatch() as watch:
        time.sleep(0.01)
        raise ValueError("no")
    assert watch.seconds >= 0.01
