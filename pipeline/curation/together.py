"""What keeps images together in a split beside near-duplicates: their folder, or a column."""

import io
import logging
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray
from pyarrow import csv
from pyarrow import json as json_lines

from pipeline.collection.list_file import unpacked
from pipeline.curation.image_lists import manifest_places
from pipeline.curation.images import AnnotatedImages
from pipeline.storage import parquet, uris
from pipeline.storage.folder import Folder
from schemas.base import counted
from schemas.errors import UserError
from schemas.redact import redact

logger = logging.getLogger(__name__)
compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
_MAX_BYTES = 1 << 30


def groups_by_folder(images: AnnotatedImages) -> NDArray[np.int64]:
    """Return (N,) a number for the folder of each image's path."""
    return _numbers([path.rpartition("/")[0] for path in images.paths.to_pylist()])


def groups_by_column(images: AnnotatedImages, column: str, table: str = "") -> NDArray[np.int64]:
    """Return (N,) a number for the value of each image in a column of a table; -1: it has none.

    Args:
        images: of the run.
        column: its name.
        table: .csv, .tsv, .jsonl or .parquet, also packed (.gz), with a `path` or `uri` for each
            image; empty: the list file that the run's images were listed from.

    Raises:
        UserError: there is no such table or column, it is there twice, or the table names no image
            of the run.
    """
    place = uris.normalise(table or str(images.run.info.job().images))
    shown, rows = redact(place), _read(place, column)
    count = Counter(rows.column_names)
    if repeated := [name for name in ("path", "uri", column) if count[name] > 1]:
        raise UserError(
            f"--group {column}: {shown} has the column `{repeated[0]}` {count[repeated[0]]} times; "
            "expected it once: give the others another name"
        )
    if not count[column] or not count["path"] + count["uri"]:
        raise UserError(
            f"--group {column}: {shown} has the columns {', '.join(rows.column_names)}; expected "
            f"`{column}`, and `path` or `uri`"
        )
    in_manifest = manifest_places(images.run, rows)
    ids = images.run.manifest()["image_id"]
    found = images.places(ids.take(pa.array(np.maximum(in_manifest, 0))))
    found[in_manifest < 0] = -1
    if not (found >= 0).any():
        raise UserError(f"--group {column}: {shown} names no image of {images.run.folder.uri}")
    values: list[Any] = [None] * len(images)
    for where, value in zip(found.tolist(), rows[column].to_pylist(), strict=True):
        if where >= 0:
            values[where] = value
    alone = sum(value in (None, "") for value in values)
    if alone:
        logger.warning("%s without a value in `%s`: each alone", counted(alone, "image"), column)
    return _numbers(values)


def _numbers(values: Sequence[Any]) -> NDArray[np.int64]:
    """Return a number for each different value; -1: there is none."""
    numbers: dict[Any, int] = {}
    return np.array(
        [
            -1 if value is None or value == "" else numbers.setdefault(str(value), len(numbers))
            for value in values
        ],
        np.int64,
    )


def _read(place: str, column: str) -> pa.Table:
    """Return a table of texts, as it lies in a file."""
    shown, plain = redact(place), uris.without_query(place).lower().removesuffix(".gz")
    if not plain.endswith(_ENDINGS):
        raise UserError(
            f"--group {column}: {shown} has no columns; expected `--group folder`, or a table with "
            f"`path` and `{column}` as --table ({', '.join(_ENDINGS)})"
        )
    folder, name = uris.parent_and_name(place)
    try:
        data = Folder(folder).read_bytes(name, _MAX_BYTES)
        if name.lower().endswith(".gz"):
            data = unpacked(data, _MAX_BYTES)
        if plain.endswith(".parquet"):
            return parquet.read_table(data)
        if plain.endswith(".jsonl"):
            return json_lines.read_json(io.BytesIO(data))
        delimiter = "\t" if plain.endswith(".tsv") else ","
        return csv.read_csv(
            io.BytesIO(data),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types={"path": pa.string(), "uri": pa.string(), column: pa.string()}
            ),
        )
    except (OSError, ValueError, pa.ArrowException, EOFError, zlib.error) as error:
        raise UserError(f"{shown} cannot be read as a table: {error}") from error
