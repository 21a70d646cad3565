"""Batches of images of one shape, loaded ahead within bounds."""

import threading
import time
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_core.images.decoding.decode import DecodedImage
from pipeline.annotate.image_feed import ImageFeed
from pipeline.annotate.prefetch import LoadedImage
from pipeline.annotate.rows import FailedImage, StageSeconds
from pipeline.annotate.stopwatch import Stopwatch
from schemas.errors import ErrorCode, ImageError
from schemas.records import ImageRef


def refs_of(sizes, first=0):
    """Return a reference per size; its path says the size, `failed` where it is None."""
    names = ("failed" if size is None else f"{size[0]}x{size[1]}" for size in sizes)
    return [
        ImageRef(image_id=f"id{number}", path=f"{number}-{name}", uri="")
        for number, name in zip(count(first), names, strict=False)
    ]


def load(ref):
    name = ref.path.partition("-")[2]
    if name == "failed":
        return FailedImage(ref, StageSeconds(), ImageError(ErrorCode.TRUNCATED, "cut"))
    height, width = map(int, name.split("x"))
    return LoadedImage(
        ref,
        StageSeconds(),
        DecodedImage(np.zeros((height, width, 3), np.uint8), height, width, 1),
        size_bytes=0,
    )


def places_and_shapes(batches):
    def shape(image):
        return image.image.rgb.shape[:2] if isinstance(image, LoadedImage) else None

    return [[(place, shape(image)) for place, image in batch] for batch in batches]


def run(feed, refs, then=()):
    return places_and_shapes(feed.batches(refs, then, Stopwatch()))


@pytest.fixture
def feed():
    feed = ImageFeed(load, threads=3, batch_size=4)
    yield feed
    feed.close()


def test_images_of_one_shape_keep_their_order(feed):
    batches = run(feed, refs_of([(5, 9)] * 10))
    assert [[place for place, _ in batch] for batch in batches] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]
    ]  # fmt: skip


def test_images_of_one_shape_are_put_together(feed):
    wide, tall = (4, 6), (6, 4)
    batches = run(feed, refs_of([wide, tall] * 8))
    assert [{shape for _, shape in batch} for batch in batches] == [{wide}, {tall}] * 2


def test_sixty_four_shapes_make_full_batches(feed):
    batches = run(feed, refs_of([(2 + i, 3 + i) for i in range(64)]))
    assert [len(batch) for batch in batches] == [4] * 16
    assert [place for batch in batches for place, _ in batch] == list(range(64))


sizes = st.lists(st.sampled_from([None, (1, 1), (4, 6), (6, 4), (40, 60)]), max_size=40)


@settings(max_examples=40)
@given(sizes, sizes, st.integers(1, 5), st.sampled_from([1, 80, 20_000, 1 << 30]))
def test_every_image_comes_once_and_the_oldest_is_always_in_the_next_batch(
    first, second, batch_size, max_bytes
):
    feed = ImageFeed(load, threads=2, batch_size=batch_size, max_bytes=max_bytes)
    shards = refs_of(first), refs_of(second, first=100)
    for refs, then in ((shards[0], shards[1][:7]), (shards[1], ())):
        waiting = set(range(len(refs)))
        batches = list(feed.batches(refs, then, Stopwatch()))
        again = run(ImageFeed(load, threads=4, batch_size=batch_size, max_bytes=max_bytes), refs)
        assert places_and_shapes(batches) == again  # whatever the threads have done in time
        for batch in batches:
            assert min(waiting) in {place for place, _ in batch}
            assert all(it.ref == refs[place] for place, it in batch)
            images = sorted((place, it.image) for place, it in batch if isinstance(it, LoadedImage))
            assert len(images) <= batch_size
            assert sum(image.rgb.nbytes for _, image in images[:-1]) < max_bytes
            waiting -= {place for place, _ in batch}
        assert not waiting
    feed.close()


class Census:
    """Loads images and counts those that are alive: not yet done with by the caller."""

    def __init__(self):
        self.lock, self.alive, self.most, self.loaded = threading.Lock(), 0, 0, []

    def __call__(self, ref):
        with self.lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
            self.loaded.append(ref)
        time.sleep(0.002)
        return load(ref)


def test_memory_is_bounded_by_bytes_where_images_are_large():
    census = Census()
    feed = ImageFeed(census, threads=2, batch_size=8, max_bytes=5 * 3 * 100 * 90)
    for batch in feed.batches(refs_of([(100, 90)] * 40), (), Stopwatch()):
        time.sleep(0.01)  # lets the threads run ahead as far as they may
        assert len(batch) <= 5
        census.alive -= len(batch)
    feed.close()
    assert 5 <= census.most <= 5 + 5 + 1  # a batch, and as much ahead


def test_the_next_shard_is_begun_before_this_one_ends():
    census = Census()
    feed = ImageFeed(census, threads=2, batch_size=4)
    first, second = refs_of([(5, 9)] * 6), refs_of([(5, 9)] * 6, first=6)
    run(feed, first, second[:8])
    assert census.loaded[:6] == first
    deadline = time.monotonic() + 10
    while len(census.loaded) < 12 and time.monotonic() < deadline:
        time.sleep(0.005)
    run(feed, second)
    feed.close()
    assert sorted(ref.image_id for ref in census.loaded) == sorted(
        ref.image_id for ref in (*first, *second)
    )  # each once


def test_another_shard_than_the_announced_one_is_loaded_from_its_beginning(feed):
    run(feed, refs_of([(5, 9)] * 3), refs_of([(7, 7)] * 8, first=50))
    other = refs_of([(4, 6)] * 5, first=90)
    assert [len(batch) for batch in run(feed, other)] == [4, 1]


def test_a_feed_whose_reader_stops_can_be_read_again(feed):
    refs = refs_of([(5, 9)] * 30)
    batches = feed.batches(refs, (), Stopwatch())
    next(batches)
    batches.close()
    assert sum(len(batch) for batch in run(feed, refs)) == 30


def test_many_failures_are_met_by_all_threads():
    census = Census()
    running, all_run = 0, threading.Event()

    def slow(ref):
        nonlocal running
        with census.lock:
            running += 1
            if running == 4:
                all_run.set()
        all_run.wait(timeout=0.5)  # until four run at once: a busy machine starts them late
        with census.lock:
            running -= 1
        return load(ref)

    feed = ImageFeed(slow, threads=4, batch_size=2)
    run(feed, refs_of([None] * 40))
    feed.close()
    assert all_run.is_set()
