"""Segments of single images, by way of the manifest."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.run.folder import RunFolder
from pipeline.run.predictions import Predictions, SegmentReader
from pipeline.run.reader import IMAGE_COLUMNS, MASK_COLUMNS, RunReader
from schemas.records import Annotation
from schemas.score_columns import SCORE
from tests.helpers.drawn_runs import make_run, odd_scenes
from tests.helpers.imageless_runs import begin_run, make_rows, make_tally


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("run"), odd_scenes())


def in_order(run: RunFolder) -> dict[str, tuple[dict, list[dict]]]:
    """Return image and segments of each annotated image, read from first to last."""
    found = {}
    for shard in RunReader(run).shards():
        segments = shard.segments_by_image([*MASK_COLUMNS, SCORE])
        for image_id, image in shard.images.items():
            row = {name: image[name] for name in IMAGE_COLUMNS}
            found[image_id] = row, segments.get(image_id, [])
    return found


def test_predictions_are_the_rows_that_are_read_in_order(run: RunFolder) -> None:
    predictions, expected = Predictions(run), in_order(run)
    assert any(not segments for _, segments in expected.values())
    for image_id, (image, segments) in reversed(expected.items()):
        assert predictions.image(image_id) == image
        assert predictions.segments(image_id) == segments
    assert predictions.in_order(reversed(expected)) == list(expected)


def test_unknown_and_failed_images_have_no_predictions(run: RunFolder) -> None:
    predictions = Predictions(run)
    failed = next(
        row["image_id"]
        for batch in run.read_table("images", ["image_id", "status"])
        for row in batch.to_pylist()
        if row["status"] == "error"
    )
    assert predictions.in_order(["nobody", failed]) == [failed]
    for image_id in ("nobody", failed):
        assert predictions.image(image_id) is None
        assert predictions.segments(image_id) == []


def test_images_of_a_shard_without_marker_have_no_predictions(tmp_path: Path) -> None:
    run = make_run(tmp_path, odd_scenes())
    last = list(in_order(run))[-1]
    for marker in Path(tmp_path, "run", "done").iterdir():
        marker.unlink()
    assert Predictions(run).in_order([last]) == [last]
    assert Predictions(run).image(last) is None
    assert Predictions(run).segments(last) == []


@pytest.mark.parametrize("max_bytes", [1 << 20, 0], ids=["kept", "never kept"])
def test_segment_reader_reads_for_many_threads(run: RunFolder, max_bytes: int) -> None:
    shards = {shard.marker.shard: shard for shard in RunReader(run).shards()}
    columns = tuple(Annotation.model_fields)
    reader = SegmentReader(run, columns, lambda marker: shards[marker.shard].images, max_bytes)
    wanted = [
        (shard.marker, image_id, shard.segments_by_image().get(image_id, []))
        for shard in shards.values()
        for image_id in shard.images
    ]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda one: reader.segments(one[0], one[1]), wanted * 3)
        sound = [[{**row, "damage": ""} for row in segments] for _, _, segments in wanted]
        assert list(found) == sound * 3


def test_segment_reader_finds_rows_that_are_not_together(tmp_path: Path) -> None:
    run = begin_run(str(tmp_path / "run"), num_images=4)
    rows = make_rows(run.shards()[0])
    again = tuple(row.model_copy(update={"segment_index": 1}) for row in rows.annotations)
    mixed = rows.model_copy(update={"annotations": (*rows.annotations, *again)})
    marker = run.commit(0, "a", mixed, make_tally(mixed))
    sizes = {row.image_id: row.model_dump() for row in rows.images}
    reader = SegmentReader(run, MASK_COLUMNS, lambda _: sizes)
    for one in rows.annotations:
        found = reader.segments(marker, one.image_id)
        assert [row["segment_index"] for row in found] == [0, 1]
        assert {row["image_id"] for row in found} == {one.image_id}


def test_segment_reader_names_the_damage_of_each_image_of_a_shard(tmp_path: Path) -> None:
    run = begin_run(str(tmp_path / "run"), num_images=4)
    rows = make_rows(run.shards()[0])
    again = [row.model_copy(update={"segment_index": 1}) for row in rows.annotations]
    again[1] = again[1].model_copy(update={"rle_counts": "06"})
    mixed = rows.model_copy(update={"annotations": (*rows.annotations, *again)})
    marker = run.commit(0, "a", mixed, make_tally(mixed))
    sizes = {row.image_id: row.model_dump() for row in rows.images}
    reader = SegmentReader(run, MASK_COLUMNS, lambda _: sizes)
    for place, one in enumerate(rows.annotations):
        first, second = reader.segments(marker, one.image_id)
        assert (first["damage"], first["rle_counts"]) == ("", one.rle_counts)
        assert ("no mask of 30 x 20" in second["damage"]) == (place == 1)
        assert second["rle_counts"] == ("" if place == 1 else one.rle_counts)
