"""A run folder of somebody else: damaged rows are left out, counted and named, and nothing more."""

import io
import json
import logging
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ovseg_core.rle.runs import run_lengths
from pipeline.corrections.layer import SKIPPED, ReviewedLayer
from pipeline.corrections.log import FOLDER
from pipeline.evaluation.compare import compare
from pipeline.evaluation.evaluate import evaluate
from pipeline.run.folder import RunFolder
from pipeline.run.predictions import Predictions
from pipeline.run.reader import RunReader
from pipeline.run.tables.damaged import DAMAGED_IMAGES, DAMAGED_MASKS, Damage, DamagedRows
from tests.helpers.drawn_runs import RunSpec, make_run, odd_scenes
from tests.unit.ovseg_core.rle.test_check import packed

Change = Callable[[Any], Any]
HUGE = 2**31 - 1


def tampered(run: RunFolder, table: str, changes: dict[str, Change]) -> RunFolder:
    """Change columns of the first row of a table, with hashes that fit, as an owner could."""
    folder = Path(run.folder.uri)
    marker_file = folder / "done" / "00000.json"
    marker = json.loads(marker_file.read_text())
    entry = marker["files"][table]
    rows = pq.ParquetFile(folder / entry["name"]).read()
    for name, change in changes.items():
        number = rows.schema.get_field_index(name)
        field = rows.schema.field(number)
        values = rows.column(number).to_pylist()
        values[0] = change(values[0])
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        column = pa.array(values, kind)
        if kind != field.type:
            column = column.dictionary_encode().cast(field.type)
        rows = rows.set_column(number, field.with_nullable(True), column)
    buffer = io.BytesIO()
    pq.write_table(rows, buffer)
    data = buffer.getvalue()
    (folder / entry["name"]).write_bytes(data)
    marker["files"][table] |= {"sha256": sha256(data).hexdigest(), "size_bytes": len(data)}
    marker_file.write_text(json.dumps(marker))
    return RunFolder.open(run.folder.uri)


def always(value: Any) -> Change:
    return lambda _: value


MASKS: dict[str, dict[str, Change]] = {
    "counts that end early": {"rle_counts": always("11")},
    "counts inside a number": {"rle_counts": lambda text: text[:-1] + "o"},
    "a negative length": {"rle_counts": always("K`V2")},
    "a number of many groups": {"rle_counts": always("o" * 40 + "0")},
    "other letters": {"rle_counts": always("é\x00")},
    "no letters": {"rle_counts": always("")},
    "no pixel": {"rle_counts": always("PV2"), "area_px": always(0)},
    "another size": {"height": always(41)},
    "a huge size": {"height": always(HUGE), "width": always(HUGE)},
    "another area": {"area_px": always(1)},
    "another box": {"bbox_xywh": always([-5.0, 1e9, 3.0, float("nan")])},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("runs"), odd_scenes())


@pytest.fixture
def copy(run: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(run.folder.uri, tmp_path / "run")
    return RunFolder.open(str(tmp_path / "run"))


def segments(reader: RunReader) -> list[dict[str, Any]]:
    return [row for shard in reader.shards() for row in shard.segments()]


@pytest.mark.parametrize("changes", MASKS.values(), ids=MASKS)
def test_damaged_mask_is_left_out_and_named_and_all_others_stay(copy, run, changes, caplog):
    reader = RunReader(tampered(copy, "annotations", changes))
    with caplog.at_level(logging.WARNING):
        assert segments(reader) == segments(RunReader(run))[1:]
    assert reader.damaged.counts == {DAMAGED_MASKS: 1}
    ((name,),) = reader.damaged.first.values()
    assert name.startswith("plain.jpg, segment 0: its ")
    assert caplog.messages == [f"left out, {DAMAGED_MASKS}: {name}"]
    segments(reader)
    assert reader.damaged.counts == {DAMAGED_MASKS: 1}
    predictions = Predictions(reader.run)
    assert predictions.segments("id-plain.jpg") == Predictions(run).segments("id-plain.jpg")[1:]
    assert predictions.damaged.counts == {DAMAGED_MASKS: 1}


@pytest.mark.parametrize("sides", [(HUGE, HUGE), (0, 56)])
def test_image_of_a_size_that_no_image_has_is_left_out(copy, run, sides):
    height, width = sides
    changed = tampered(copy, "images", {"height": always(height), "width": always(width)})
    reader = RunReader(changed)
    others = [row for row in segments(RunReader(run)) if row["image_id"] != "id-plain.jpg"]
    assert segments(reader) == others
    assert reader.damaged.counts == {DAMAGED_IMAGES: 1}
    predictions = Predictions(changed)
    assert predictions.image("id-plain.jpg") is None
    assert predictions.segments("id-plain.jpg") == []


def test_runs_that_an_empty_run_divides_are_joined(copy, run):
    first = segments(RunReader(run))[0]

    def divided(text: str) -> str:
        first, second, *others = run_lengths(text).tolist()
        lengths = [first, second - 1, 0, 1, *others]
        return packed(lengths[:3] + [b - a for a, b in zip(lengths[1:], lengths[3:], strict=False)])

    changed = tampered(copy, "annotations", {"rle_counts": divided})
    rows = segments(RunReader(changed))
    assert rows[0] == first


def test_damaged_rows_of_an_image_count_once_and_ten_are_named():
    damaged = DamagedRows()
    for _ in range(2):
        damaged.add(DAMAGED_MASKS, {"a": [f"{n}" for n in range(8)], "b": ["x"] * 5, "c": []})
    assert damaged.counts == {DAMAGED_MASKS: 13}
    assert len(damaged.first[DAMAGED_MASKS]) == 10


def truth_of(run: RunFolder, folder: Path) -> str:
    """Write a run's own label maps as a truth."""
    for shard in RunReader(run).shards():
        for image, labels in shard.label_maps():
            file = (folder / image["path"]).with_suffix(".png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels.astype(np.uint8)).save(file)
    return str(folder)


def test_reports_count_and_name_damaged_masks(copy, run, tmp_path):
    changed = tampered(copy, "annotations", {"rle_counts": always("11")})
    other = make_run(tmp_path / "other", odd_scenes()[:2], RunSpec(shard_size=1))
    name = "plain.jpg, segment 0: its run lengths are no mask of 56 x 40 pixels"
    expected = {DAMAGED_MASKS: Damage(count=1, first=(name,))}
    compared = compare(changed, other), compare(other, changed)
    assert (compared[0].damaged, compared[0].other_damaged) == (expected, {})
    assert (compared[1].damaged, compared[1].other_damaged) == ({}, expected)
    truth = truth_of(run, tmp_path / "truth")
    assert evaluate(changed, truth).damaged == expected
    assert evaluate(run, truth).damaged == {}


def test_entries_of_the_review_that_do_not_count_are_in_its_state(copy):
    log = Path(copy.folder.uri, FOLDER)
    log.mkdir(parents=True)
    (log / f"{'9' * 19}-00000000.json").write_text("{}")
    left_out = ReviewedLayer(copy).state().left_out
    assert left_out[SKIPPED].count == 1
    assert "ahead of the clock" in left_out[SKIPPED].first[0]
