"""A run as somebody who shares it could have changed it: fitting sizes, hashes and markers."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.run.folder import RunFolder


def rewrite(
    run: RunFolder,
    place: Path,
    table: str,
    change: Mapping[str, Callable[[Any], Any]],
    content: bytes = b"",
) -> RunFolder:
    """Return a copy of a local run in which a table's columns are mapped through functions.

    Args:
        run: stays as it is.
        place: of the copy, empty.
        table: of the shards.
        change: column -> function of the old value.
        content: of the files; empty: the changed tables.
    """
    shutil.copytree(run.folder.uri, place)
    for marker_file in sorted((place / "done").glob("*.json")):
        marker = json.loads(marker_file.read_text())
        entry = marker["files"][table]
        data = content or _mapped((place / entry["name"]).read_bytes(), change)
        (place / entry["name"]).write_bytes(data)
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        marker_file.write_text(json.dumps(marker))
    return RunFolder.open(str(place))


def _mapped(data: bytes, change: Mapping[str, Callable[[Any], Any]]) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    columns = {
        name: pa.array([change[name](value) for value in table.column(name).to_pylist()])
        if name in change
        else table.column(name)
        for name in table.column_names
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def as_version_4(run: RunFolder) -> RunFolder:
    """Turn a local run into one of schema version 4, which had no vectors, in its place."""
    place = Path(run.folder.uri)
    identity = {**run.info.identity, "schema_version": 4}
    fingerprint = hashlib.sha256(
        json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()
    update = {"schema_version": 4, "identity": identity, "fingerprint": fingerprint}
    (place / "run.yaml").write_bytes(run.info.model_copy(update=update).to_yaml())
    for marker_file in sorted((place / "done").glob("*.json")):
        marker = json.loads(marker_file.read_text()) | {"schema_version": 4}
        (place / marker["files"].pop("vectors")["name"]).unlink()
        marker_file.write_text(json.dumps(marker | {"fingerprint": fingerprint}))
    return RunFolder.open(run.folder.uri)
