"""Changing the tables of a run, as its owner can: hashes and markers fit all the same."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import yaml

from pipeline.storage import parquet

Change = Callable[[int, str], str]


def change_uris(run: Path, change: Change) -> None:
    """Write other URIs into the manifest and the images tables of a run on this disk.

    Args:
        run: the run folder.
        change: gets the row's number in its table and its URI.
    """
    manifest, run_file = run / "manifest.parquet", run / "run.yaml"
    before = hashlib.sha256(manifest.read_bytes()).hexdigest()
    after = _rewrite(manifest, change)["sha256"]
    run_file.write_text(run_file.read_text().replace(before, str(after)))
    for marker in (run / "done").glob("*.json"):
        content = json.loads(marker.read_text())
        entry = content["files"]["images"]
        entry |= _rewrite(run / entry["name"], change)
        marker.write_text(json.dumps(content))
    assert yaml.safe_load(run_file.read_text())["manifest_sha256"] == after


def _rewrite(file: Path, change: Change) -> dict[str, str | int]:
    table = parquet.read_table(file.read_bytes())
    place = table.schema.get_field_index("uri")
    uris = [change(*pair) for pair in enumerate(table.column(place).to_pylist())]
    data = parquet.write_table(table.set_column(place, table.schema.field(place), pa.array(uris)))
    file.write_bytes(data)
    return {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
