"""Rows of a shard: order, error codes, memory, and the image that caused a failure."""

import gc
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.annotate.annotator import Annotator
from pipeline.annotate.prefetch import LoadedImage
from schemas.errors import ErrorCode
from schemas.records import STAGES, ImageRef, Shard
from tests.helpers.colour_segmenter import (
    ColourSegmenter,
    SegmenterFaults,
    colour_config,
    paint_collection,
)

NONE = SegmenterFaults()


def only_shard(config):
    files = sorted(Path(config.images).iterdir())
    refs = (ImageRef(image_id=f"id-{it.stem}", path=it.name, uri=str(it)) for it in files)
    return Shard(index=0, refs=tuple(refs))


def annotate(config, faults=NONE):
    segmenter = ColourSegmenter(faults)
    text = segmenter.text_matrix(config.vocabulary)
    return Annotator(segmenter, text, config).annotate(only_shard(config))


def statuses(rows):
    return {row.path: row.error_code for row in rows.images if row.status == "error"}


@pytest.fixture
def config(tmp_path):
    return colour_config(
        paint_collection(tmp_path / "images", 7, {3: "-odd"}),
        tmp_path / "run",
        run={"batch_size": 4},
    )


def test_rows_are_in_manifest_order_and_consistent(config):
    rows, tally = annotate(config)
    paths = [row.path for row in rows.images]
    assert paths == sorted(paths)
    assert len(paths) == 7
    ids = [row.image_id for row in rows.images]
    # One score row per image and label, in the order of the images.
    assert [row.image_id for row in rows.scores] == [name for name in ids for _ in range(4)]
    found = {row.image_id: row.num_segments for row in rows.images}
    assert sum(found.values()) == len(rows.annotations) == tally.num_segments > 7
    for image in rows.images:
        own = [row for row in rows.annotations if row.image_id == image.image_id]
        assert [row.segment_index for row in own] == list(range(image.num_segments))
        assert all((row.height, row.width) == (image.height, image.width) for row in own)
        assert image.height != image.width


def test_seconds_are_summed_by_stage(config):
    rows, tally = annotate(config)
    assert set(tally.seconds) == {*STAGES, "wall", "wait_images", "wait_masks"}
    assert tally.seconds["decode"] == pytest.approx(sum(row.decode_s for row in rows.images))
    assert all(value > 0 for value in tally.seconds.values())


def test_the_compute_thread_computes_or_waits(config):
    _, tally = annotate(config, SegmenterFaults(seconds_per_image=0.02))
    seconds = tally.seconds
    assert seconds["segment"] >= 0.1  # of seven images
    thread_s = seconds["segment"] + seconds["wait_images"] + seconds["wait_masks"]
    assert 0.5 * seconds["wall"] < thread_s <= seconds["wall"]


def test_broken_file_has_a_row_in_its_place(config, tmp_path):
    images = tmp_path / "images"
    shard = only_shard(config)
    (images / "001.png").write_bytes((images / "001.png").read_bytes()[:60])
    (images / "004.png").write_bytes(b"")
    (images / "005.png").unlink()
    segmenter = ColourSegmenter(SegmenterFaults())
    text = segmenter.text_matrix(config.vocabulary)
    rows, tally = Annotator(segmenter, text, config).annotate(shard)
    assert [row.path for row in rows.images] == [ref.path for ref in shard.refs]
    failed = statuses(rows)
    assert failed["004.png"] is ErrorCode.EMPTY_FILE
    assert failed["005.png"] is ErrorCode.NOT_FOUND
    assert failed["001.png"] in {ErrorCode.TRUNCATED, ErrorCode.UNDECODABLE}
    assert sum(tally.errors.values()) == 3
    assert all(row.error_message for row in rows.images if row.status == "error")


def test_image_that_fails_its_batch_gets_an_error_and_the_others_keep_their_masks(config):
    plain, _ = annotate(config)
    rows, tally = annotate(config, SegmenterFaults(fail_on="odd"))
    assert statuses(rows) == {"003-odd.png": ErrorCode.INTERNAL}
    [row] = [row for row in rows.images if row.status == "error"]
    assert row.error_message == "RuntimeError: the colours ran"
    failed_id = row.image_id
    assert rows.annotations == tuple(r for r in plain.annotations if r.image_id != failed_id)
    assert tally.errors == {"internal": 1}


def test_image_on_which_the_weights_overflow_has_a_code_and_the_others_keep_their_masks(config):
    plain, _ = annotate(config)
    rows, tally = annotate(config, SegmenterFaults(overflow_on="odd"))
    assert statuses(rows) == {"003-odd.png": ErrorCode.NOT_FINITE}
    [failed_id] = [row.image_id for row in rows.images if row.status == "error"]
    assert rows.annotations == tuple(r for r in plain.annotations if r.image_id != failed_id)
    assert tally.errors == {"not_finite": 1}


def test_out_of_memory_halves_the_batch_once(config, caplog):
    segmenter = ColourSegmenter(SegmenterFaults(batch_limit=2))
    annotator = Annotator(segmenter, segmenter.text_matrix(config.vocabulary), config)
    with caplog.at_level(logging.WARNING):
        first, tally = annotator.annotate(only_shard(config))
        second, _ = annotator.annotate(only_shard(config))
    assert not tally.errors
    assert first.annotations == second.annotations
    warnings = [record for record in caplog.records if "out of memory" in record.message]
    assert len(warnings) == 1  # 4 -> 2, remembered by the second shard


def test_image_too_large_for_the_device_has_an_error_row(config):
    rows, _ = annotate(config, SegmenterFaults(out_of_memory_on="odd"))
    assert statuses(rows) == {"003-odd.png": ErrorCode.OUT_OF_MEMORY}


@dataclass(frozen=True)
class CensusSegmenter(ColourSegmenter):
    """Counts the decoded images that are alive whenever it is called."""

    counts: list[int] = field(default_factory=list)

    def encode(self, images):
        time.sleep(0.02)  # lets the threads run ahead as far as they may
        self.counts.append(sum(type(it) is LoadedImage for it in gc.get_objects()))
        return super().encode(images)


def test_at_most_three_batches_of_images_are_in_memory(tmp_path):
    config = colour_config(paint_collection(tmp_path / "images", 40), tmp_path / "run")
    segmenter = CensusSegmenter(SegmenterFaults())
    text = segmenter.text_matrix(config.vocabulary)
    Annotator(segmenter, text, config).annotate(only_shard(config))
    assert len(segmenter.counts) == 20
    assert max(segmenter.counts) <= 3 * config.run.batch_size
