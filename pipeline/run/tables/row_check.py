"""Whether the rows of a shard can be what ovseg wrote for its images.

A run folder may come from somebody else: that a file has the SHA-256 of its marker says who wrote
both, not what is in it. Columns are checked as a whole, so that no reader has to check rows.
"""

import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from schemas.errors import ErrorCode
from schemas.records import ImageResult, MaskKind
from schemas.tables import TABLES

_OF_THE_MANIFEST = ("image_id", "path", "uri")
_OF_A_MASK = ("segment_index", "height", "width", "area_px", "bbox_xywh")
"""Checked row by row where masks are read: one that is damaged is left out and counted."""
_NORM_TOLERANCE = 0.01
"""Rounding to float16 changes a norm by less than 0.001."""
_TEXTS = {
    "status": frozenset(get_args(ImageResult.model_fields["status"].annotation)),
    "error_code": frozenset(map(str, ErrorCode)),
    "kind": frozenset(get_args(MaskKind)),
}


def checked_rows(name: str, table: pa.Table, refs: pa.Table, labels: Sequence[str]) -> pa.Table:
    """Return the table with the types of its schema.

    Args:
        name: of a table of a shard.
        table: some columns of it, today's names.
        refs: the shard's rows of the manifest.
        labels: of the vocabulary, category 1 first.

    Raises:
        ValueError: says what cannot be ovseg's: a column of another type, numbers out of their
            range, an image, path, address or label that is not the run's.
        pyarrow.ArrowException: a column of another type.
    """
    expected, bounds = _expected(name, tuple(table.column_names))
    if not table.schema.equals(expected) or any(c.null_count for c in _required(table, expected)):
        table = table.cast(expected)
    for column, (low, high) in bounds.items():
        _check_numbers(column, table.column(column), low, high)
    for column in table.column_names:
        values = table.column(column)
        if column in _TEXTS:
            _check_among(column, values, _TEXTS[column])
        if column in _OF_THE_MANIFEST and name == "images":
            if not values.equals(refs.column(column)):
                raise ValueError(f"{column} is not that of {refs.num_rows} images of the manifest")
        elif column == "image_id":
            _check_among(column, values, refs.column(column).to_pylist())
        elif column == "label":
            _check_among(column, values, labels)
    _check_rows(table, labels)
    return table


def _check_rows(table: pa.Table, labels: Sequence[str]) -> None:
    """Check what columns of one table say together."""
    if "category_id" in table.column_names:
        _check_categories(table, labels)
    if "vector" in table.column_names:
        _check_vectors(table.column("vector"))


@lru_cache
def _expected(
    name: str, columns: tuple[str, ...]
) -> tuple[pa.Schema, dict[str, tuple[float, float]]]:
    """Return the schema of some columns, and the lowest and the highest number of each."""
    schema, record = TABLES[name]
    bounds: dict[str, tuple[float, float]] = {}
    for column in columns:
        kind = schema.field(column).type
        is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        if column in _OF_A_MASK or not is_number:
            continue
        low, high = -math.inf, math.inf
        for bound in record.model_fields[column].metadata:
            above = getattr(bound, "gt", None)
            low = max(low, getattr(bound, "ge", low))
            low = low if above is None else max(low, math.nextafter(above, math.inf))
            high = min(high, getattr(bound, "le", high))
        bounds[column] = low, high
    return pa.schema([schema.field(column) for column in columns]), bounds


def _required(table: pa.Table, expected: pa.Schema) -> list[pa.ChunkedArray]:
    return [table.column(field.name) for field in expected if not field.nullable]


def _check_numbers(name: str, column: pa.ChunkedArray, low: float, high: float) -> None:
    """Check a column of numbers against the bounds that its field states."""
    values = (column.drop_null() if column.null_count else column).to_numpy()
    if not len(values):
        return
    lowest, highest = np.minimum.reduce(values), np.maximum.reduce(values)  # NaN if there is one
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ValueError(f"{name} holds numbers that are not finite")
    if lowest < low or highest > high:
        raise ValueError(f"{name} holds numbers from {lowest} to {highest}, out of its range")


def _check_vectors(column: pa.ChunkedArray) -> None:
    """Check that vectors have one length, and norm 1 as far as float16 has it."""
    chunks: list[Any] = column.chunks
    for chunk in filter(len, chunks):
        lengths = np.diff(chunk.offsets.to_numpy())
        if len(set(lengths.tolist())) > 1:
            raise ValueError(f"vector holds from {lengths.min()} to {lengths.max()} numbers")
        numbers = chunk.flatten()
        vectors_ND = numbers.to_numpy(zero_copy_only=False).reshape(len(chunk), -1)
        norms = np.linalg.norm(vectors_ND.astype(np.float32), axis=1)
        if numbers.null_count or not (np.abs(norms - 1) <= _NORM_TOLERANCE).all():
            raise ValueError("vector holds numbers that are no unit vector")


def _check_among(name: str, column: pa.ChunkedArray, known: Collection[object]) -> None:
    """Check a column of texts that are stored in a dictionary."""
    found = {value for chunk in column.chunks for value in chunk.dictionary.to_pylist()}
    unknown = found.difference(known)
    if unknown:
        raise ValueError(f"{name} holds {min(map(repr, unknown))[:80]}, which is none of this run")


def _check_categories(table: pa.Table, labels: Sequence[str]) -> None:
    """Check that each row's category is a label's, and that of its own label."""
    for batch in table.to_batches():
        ids = batch.column("category_id").to_numpy()
        if ids.size and not 1 <= ids.min() <= ids.max() <= len(labels):
            raise ValueError(
                f"category_id holds {ids.min()} to {ids.max()}, not 1 to {len(labels)}"
            )
        if "label" in table.column_names and ids.size:
            names = batch.column("label")
            places = np.array([labels.index(name) + 1 for name in names.dictionary.to_pylist()])
            if (places[names.indices.to_numpy()] != ids).any():
                raise ValueError("category_id is not the place of its label in the vocabulary")
