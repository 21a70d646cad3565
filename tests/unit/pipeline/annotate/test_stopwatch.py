import contextlib
import time

from pipeline.annotate.stopwatch import Stopwatch


def test_stopwatch_measures_a_block_that_fails():
    with contextlib.suppress(ValueError), Stopwatch() as watch:
        time.sleep(0.01)
        raise ValueError("no")
    assert watch.seconds >= 0.01


def test_stopwatch_sums_its_blocks():
    watch, outside_s, started = Stopwatch(), 0.05, time.perf_counter()
    for _ in range(3):
        with watch:
            time.sleep(0.005)
    time.sleep(outside_s)
    assert 0.015 <= watch.seconds <= time.perf_counter() - started - outside_s
