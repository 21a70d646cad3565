"""Croissant's own library accepts an export, and finds every row and the masks in it.

Opt-in, `make test-readers`, as `test_readers.py`.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipeline.exporters.croissant import Options, export
from pipeline.run.reader import RunReader
from tests.helpers.drawn_runs import RunSpec, make_run, odd_scenes

WANTED = os.environ.get("OVSEG_READERS", "")
SCRIPT = Path(__file__).with_name("read_croissant.py")
pytestmark = [
    pytest.mark.skipif(not WANTED, reason="opt-in, takes 0.9 GB: make test-readers"),
    pytest.mark.timeout(300),
]


def read(folder: Path) -> dict[str, list]:
    surroundings = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = [WANTED, str(SCRIPT), str(folder)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_croissant_is_valid_and_its_records_are_the_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path, odd_scenes(), RunSpec(job={"clip": "embedded"}))
    options = {"licence": "cc-by-4.0", "creator": "A & B", "date": "2026-11-29"}
    export(run, Options.model_validate(options))
    found = read(Path(run.folder.uri, "exports/croissant"))
    assert found["errors"] == []
    shards = list(RunReader(run).shards())
    paths = [image["path"] for shard in shards for image in shard.images.values()]
    assert [row["images/path"] for row in found["images"]] == paths
    masks = [row for shard in shards for row in shard.segments()]
    assert len(found["annotations"]) == len(masks)
    for row, mask in zip(found["annotations"], masks, strict=True):
        assert row["annotations/rle_counts"] == mask["rle_counts"]
        assert row["annotations/image_id"] == mask["image_id"]
        assert row["annotations/bbox_xywh"] == list(mask["bbox_xywh"])
    only_to_cite = [text for text in found["warnings"] if "citeAs" in text or "url" in text]
    assert found["warnings"] == only_to_cite


def test_croissant_without_what_only_its_owner_knows_is_valid(tmp_path: Path) -> None:
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(0, 2)))
    export(run, Options())
    assert read(Path(run.folder.uri, "exports/croissant"))["errors"] == []
