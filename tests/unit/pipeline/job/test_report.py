"""The end of a job: exit codes and closing words."""

import pytest

from pipeline.annotate.bottleneck import bottleneck_of
from pipeline.job.report import RunReport
from schemas.config import ArrayTask


def report(**fields):
    return RunReport(out="run", num_images=200, max_error_share=0.05, **fields)


@pytest.mark.parametrize(
    ("fields", "exit_code"),
    [
        ({"num_done": 200}, 0),
        ({"num_done": 200, "errors": {"truncated": 10}}, 0),  # exactly the accepted share
        ({"num_done": 200, "errors": {"truncated": 6, "too_large": 5}}, 3),
        ({"num_done": 136, "failed_shards": {1: "disk full"}}, 3),
        ({"num_done": 136}, 3),  # hopeless: shards that were never tried
        ({"num_done": 136, "interrupted": True}, 130),
        ({"num_done": 136, "interrupted": True, "terminated": True}, 143),
    ],
)
def test_exit_code(fields, exit_code):
    assert report(**fields).exit_code == exit_code


def test_summary_of_a_complete_run_is_one_line():
    done = report(num_done=200, num_new=200, num_segments=1234, seconds=20.04, images_per_s=12.345)
    assert done.summary() == (
        "200 of 200 images done, 1,234 masks; 12.3 images/s; 20.0 s with loading"
    )
    rest = report(num_done=200, num_new=64, seconds=9.0, images_per_s=12.3)
    assert rest.summary().endswith("; 64 of them now, 12.3 images/s; 9.0 s with loading")
    alone = RunReport("run", num_images=1, max_error_share=0, num_done=1, num_segments=1)
    assert alone.summary() == "1 of 1 image done, 1 mask; nothing was left to do"


def test_summary_says_what_limited_the_run_where_there_is_something_to_change():
    seconds = {"segment": 3.0, "decode": 9.0, "wall": 10.0, "wait_images": 6.5}
    done = report(num_done=200, num_new=200, bottleneck=bottleneck_of(seconds, 200))
    assert done.summary().splitlines()[1] == (
        "compute busy 30 %, decoding is the limit: "
        "raise run.cpus_per_worker or run.prefetch_threads"
    )
    busy = bottleneck_of({"segment": 9.0, "wall": 10.0}, 200)
    assert len(report(num_done=200, num_new=200, bottleneck=busy).summary().splitlines()) == 1


def test_images_that_wait_are_named_and_leave_something_to_do():
    ended = report(num_done=200, errors={"storage_error": 2, "truncated": 1})
    assert ended.exit_code == 0
    assert ended.summary().splitlines() == [
        "200 of 200 images done, 0 masks",
        "3 images failed (1.5 %; 5 % are accepted): storage_error 2, truncated 1",
        "to be tried again by the same command: 2 images (storage_error 2)",
        "once mended: the same command with --retry-errors truncated",
    ]
    passing = report(num_done=200, errors={"not_found": 1})
    assert "--retry-errors" not in passing.summary()


def test_images_of_several_frames_are_said_once():
    [*_, line] = report(num_done=200, num_multi_frame=31).summary().splitlines()
    assert line.startswith("31 images of several frames or pages: the first frame, or the largest")


def test_job_that_stopped_before_its_end_is_incomplete():
    ended = report(num_done=200, stop_reason="the store is away")
    assert ended.exit_code == 3
    assert "stopped: the store is away" in ended.summary()


def test_summary_says_what_is_missing_and_what_to_do():
    shards = {index: f"StorageError: no space {index}" for index in range(5)}
    ended = report(num_done=80, num_new=80, errors={"undecodable": 1}, failed_shards=shards)
    lines = ended.summary().splitlines()
    assert lines[1] == "1 image failed (0.5 %; 5 % are accepted): undecodable 1"
    assert lines[2] == "shard 0 failed: StorageError: no space 0"
    assert lines[-3:] == [
        "2 more shards failed",
        "once mended: the same command with --retry-errors undecodable",
        "the same command goes on from here",
    ]


def test_a_task_reports_its_own_shards_and_what_is_left_of_the_run():
    whole = report(num_done=120, num_segments=300, errors={"truncated": 9})
    ended = RunReport(
        "run", num_images=25, max_error_share=0.05, num_done=25, num_new=25, num_segments=80,
        seconds=8.04, images_per_s=5.0, task=ArrayTask(3, 8), whole=whole,
    )  # fmt: skip
    assert ended.exit_code == 0
    assert ended.summary().splitlines() == [
        "task 3 of 8: 25 of 25 images done, 80 masks; 5 images/s; 8.0 s with loading",
        "whole run: 120 of 200 images done, 300 masks, 9 images failed; 80 images left to "
        "the other tasks",
        "when all tasks have ended: the same command without --shards does what they left, if "
        "anything, and reports the whole run",
    ]


def test_a_task_that_was_stopped_has_one_next_command():
    whole = report(num_done=120)
    stopped = RunReport(
        "run", num_images=25, max_error_share=0, num_done=8, interrupted=True, terminated=True,
        task=ArrayTask(3, 8), whole=whole,
    )  # fmt: skip
    assert (stopped.exit_code, stopped.num_left_to_others) == (143, 63)
    assert stopped.summary().splitlines()[1:] == [
        "the same command goes on from here",
        "whole run: 120 of 200 images done, 0 masks; 63 images left to the other tasks",
    ]


def test_the_last_task_reports_the_whole_run():
    whole = report(num_done=200, num_segments=300)
    ended = RunReport(
        "run", num_images=25, max_error_share=0, num_done=25, task=ArrayTask(8, 8), whole=whole
    )
    assert ended.summary().splitlines()[1:] == ["whole run: 200 of 200 images done, 300 masks"]
