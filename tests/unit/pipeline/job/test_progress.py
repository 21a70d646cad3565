"""Progress: the counts, the lines every 30 seconds, the bar."""

import io
import logging

import pytest

from pipeline.job.progress import BarProgress, LineProgress, Progress, brief, make_progress
from schemas.records import ShardTally


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    return io.StringIO()


def tally(num_images, **errors):
    seconds = {"read": 0.1, "decode": 0.4, "segment": 2.0, "rle": 0.2, "wall": 2.5}
    seconds |= {"write": 0.02, "\x1b[31m": 1.0}
    return ShardTally(num_images=num_images, num_segments=3, errors=errors, seconds=seconds)


def begun(progress, clock):
    progress.start(total=1200, resumed=200)
    clock.now += 7  # the models load; not part of the speed
    progress.begin()
    return progress


def test_first_line_counts_images_of_earlier_runs():
    stream, clock = io.StringIO(), Clock()
    begun(LineProgress(stream, clock), clock)
    assert stream.getvalue() == "200/1,200 images\n"


def test_lines_of_a_job_that_never_began_are_empty():
    stream = io.StringIO()
    progress = LineProgress(stream, Clock())
    progress.start(total=24, resumed=0)
    progress.close()
    assert stream.getvalue() == ""


def test_bar_of_a_job_that_never_began_is_erased(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    progress = BarProgress(stream, Clock())
    progress.start(total=24, resumed=0)
    progress.close()
    wipe_a_line = "\x1b[1A\x1b[2K"
    assert "starting" in stream.getvalue()
    assert stream.getvalue().rpartition("starting")[2].count(wipe_a_line) == 2


def test_lines_come_every_30_seconds_and_at_the_end():
    stream, clock = io.StringIO(), Clock()
    progress = begun(LineProgress(stream, clock), clock)
    for _ in range(10):
        clock.now += 8
        progress.add(tally(20, truncated=1))
        progress.tick()
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 2 + 1
    assert lines[-1] == (
        "400/1,200 images, 2.5 images/s, 5 min 20 s left; "
        "compute busy 79 %; failed images: truncated 10"
    )


def test_times_of_the_stages_are_shown_under_v_only(caplog):
    clock = Clock()
    progress = begun(Progress(clock), clock)
    clock.now += 10
    progress.add(tally(20))
    caplog.set_level(logging.INFO, "pipeline")
    assert "ms/image" not in progress.details()
    caplog.set_level(logging.DEBUG, "pipeline")
    assert "ms/image: read 5, decode 20, segment 100, rle 10, write 1" in progress.details()


def test_images_count_before_their_shard_ends_and_not_twice():
    clock = Clock()
    progress = begun(Progress(clock), clock)
    clock.now += 10
    for _ in range(20):
        progress.add_image()
    assert progress.headline().startswith("220/1,200 images, 2 images/s")
    progress.set_begun(0)
    progress.add(tally(20))
    assert progress.headline().startswith("220/1,200 images, 2 images/s")
    progress.set_begun(3)  # of several workers
    assert progress.headline().startswith("223/1,200 images")
    progress.set_begun(0)  # their shards failed
    assert progress.headline().startswith("220/1,200 images")
    progress.add_image()
    progress.close()  # the shard was broken off
    assert progress.headline().startswith("220/1,200 images")
    assert progress.finished == 20


def test_first_frame_of_the_bar_has_the_true_total(terminal):
    progress = BarProgress(terminal, Clock())
    progress.start(total=24, resumed=0)
    progress.close()
    assert "0/24" in terminal.getvalue()
    assert "/100" not in terminal.getvalue()


@pytest.mark.parametrize("errors", [{}, {"truncated": 2}])
def test_failed_images_are_red_in_the_bar(terminal, errors):
    clock = Clock()
    progress = begun(BarProgress(terminal, clock), clock)
    clock.now += 10
    progress.add(tally(1000, **errors))
    progress.close()
    red = "\x1b[1;31mfailed images: truncated 2"
    assert (red in terminal.getvalue()) == bool(errors)


def test_time_left_ignores_images_of_failed_shards():
    clock = Clock()
    progress = begun(Progress(clock), clock)
    clock.now += 10
    progress.add(tally(500))
    progress.add_failed(500)
    assert progress.headline() == "700/1,200 images, 50 images/s"
    assert "images of failed shards: 500" in progress.failures()


@pytest.mark.parametrize(
    ("value", "shown"), [(0.12345, "0.123"), (71.26, "71.3"), (999.4, "999"), (1136.2, "1,136")]
)
def test_brief_has_no_exponent(value, shown):
    assert brief(value) == shown


@pytest.mark.parametrize(
    ("elapsed", "left"), [(1, "1 s left"), (100, "1 min 40 s left"), (7300, "2 h 1 min left")]
)
def test_time_left_has_two_units(elapsed, left):
    clock = Clock()
    progress = begun(Progress(clock), clock)
    clock.now += elapsed
    progress.add(tally(500))
    assert progress.headline().endswith(left)


def test_bar_shows_counts_and_speed():
    stream, clock = io.StringIO(), Clock()
    progress = begun(BarProgress(stream, clock), clock)
    clock.now += 10
    progress.add(tally(1000, too_large=2))
    progress.close()
    shown = " ".join(stream.getvalue().split())
    assert "1200/1200" in shown
    assert "100 images/s" in shown


def test_stream_that_is_not_a_terminal_gets_lines():
    assert isinstance(make_progress(io.StringIO()), LineProgress)


def test_a_job_that_waits_says_since_when_at_least_once_a_minute():
    stream, clock = io.StringIO(), Clock()
    progress = begun(LineProgress(stream, clock), clock)
    for _ in range(100):
        clock.now += 2
        progress.tick()
    lines = stream.getvalue().splitlines()
    assert len(lines) >= 4
    assert "no image since" in lines[-1]
    assert "no image" not in lines[0]


def test_speed_is_that_of_whole_batches_and_images_are_progress():
    stream, clock = io.StringIO(), Clock()
    progress = LineProgress(stream, clock)
    progress.start(total=24, resumed=0, batch_size=8)
    progress.begin()
    clock.now += 80
    progress.tick()
    assert "(1 min 20 s): up to 8 are computed together" in stream.getvalue()
    stream.seek(0)
    stream.truncate()
    progress.begin()
    for _ in range(3):
        clock.now += 80  # of the network, for all eight
        for _ in range(8):
            progress.add_image()
        progress.tick()
    lines = stream.getvalue().splitlines()
    assert lines[1] == "1/24 images", "no speed yet"
    assert lines[2] == "9/24 images, 0.1 images/s, 2 min 30 s left"
    assert "no image since" not in stream.getvalue()
