"""What limits a run, told from the seconds of its shards."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.annotate.bottleneck import Bottleneck, bottleneck_of
from schemas.records import STAGES, THREAD_TIMES

BUSY = {"read": 1.0, "decode": 4.0, "segment": 95.0, "rle": 20.0, "wall": 99.0, "write": 1.0}
IDLE = {"read": 5.0, "decode": 160.0, "segment": 34.0, "rle": 9.0, "wall": 98.0, "write": 2.0}


@pytest.mark.parametrize(
    ("changes", "words", "suggestion"),
    [
        (
            {"wait_images": 60.0},
            "compute busy 34 %, decoding is the limit",
            "raise run.cpus_per_worker or run.prefetch_threads",
        ),
        (
            {"wait_images": 60.0, "read": 161.0},
            "compute busy 34 %, reading is the limit",
            "raise run.prefetch_threads",
        ),
        (
            {"wait_masks": 50.0, "wait_images": 10.0},
            "compute busy 34 %, masks are the limit",
            "raise run.cpus_per_worker",
        ),
        (
            {"wall": 50.0, "write": 50.0},
            "compute busy 34 %, writing tables is the limit",
            "a larger shard_size writes less often",
        ),
        (
            {"wall": 38.0, "wait_shard": 60.0},
            "compute busy 34 %, the driver is the limit",
            "a larger shard_size asks the driver less often",
        ),
        ({"wait_images": 20.0, "wait_masks": 20.0}, "compute busy 34 %", ""),  # no one cause
        ({}, "compute busy 34 %", ""),  # an older run, without waits
    ],
)
def test_the_longest_wait_names_the_limit(changes, words, suggestion):
    found = bottleneck_of({**IDLE, **changes}, 1000)
    assert (found.words(), found.suggestion) == (words, suggestion)
    assert found.busy == pytest.approx(0.34)


def test_busy_compute_threads_are_the_limit_and_nothing_is_suggested():
    found = bottleneck_of(BUSY, 1000)
    assert (found.limit, found.words(), found.suggestion) == ("compute", "compute busy 95 %", "")
    assert found.ms_per_image["decode"] == pytest.approx(4.0)
    assert found.images_per_s == pytest.approx(1000 / 100)


def test_of_few_images_the_share_is_told_and_why_no_limit():
    found = bottleneck_of({**IDLE, "wait_images": 60.0}, 10)
    assert (found.words(), found.limit, found.suggestion) == ("compute busy 34 %", "", "")
    assert found.advice() == (
        "compute busy 34 %; too few images to tell what limits it (50 or more)"
    )


def test_where_no_wait_is_the_limit_the_longest_is_named_with_what_to_change():
    found = bottleneck_of({**IDLE, "wait_images": 19.0, "wait_masks": 20.0}, 1000)
    assert (found.limit, found.longest_wait, found.suggestion) == ("", "masks", "")
    assert found.advice() == (
        "compute busy 34 %; the longest wait is for masks: raise run.cpus_per_worker"
    )


@pytest.mark.parametrize(("seconds", "num_images"), [({}, 100), ({"wall": 0.0}, 100), (BUSY, 0)])
def test_nothing_is_said_of_nothing(seconds, num_images):
    found = bottleneck_of(seconds, num_images)
    assert found == Bottleneck()
    assert found.advice() == ""


@given(
    st.dictionaries(st.sampled_from((*STAGES, *THREAD_TIMES)), st.floats(0, 1e13)),
    st.integers(1, 10**9),
)
def test_whatever_a_marker_claims_the_shares_are_shares(seconds, num_images):
    found = bottleneck_of(seconds, num_images)
    assert all(0 <= share <= 1 for share in (found.busy or 0.0, *found.waits.values()))
    assert all(map(math.isfinite, found.ms_per_image.values()))
    assert Bottleneck.model_validate_json(found.model_dump_json()) == found
