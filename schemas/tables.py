"""The Arrow schemas of the tables, derived from their records; records to tables and back."""

from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter
from types import NoneType
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from pydantic.fields import FieldInfo

from schemas.base import Frozen
from schemas.records import Annotation, FeatureRow, ImageRef, ImageResult, ImageVector, ScoreRow

SCHEMA_VERSION = 5
"""Raised with every change of a column; stored in run.yaml and in each done marker."""
READ_VERSIONS = (1, 2, 3, 4, 5)
"""Versions that can be read: `pipeline.run.tables.old_versions` maps the older ones on reading."""
RESUMED_VERSIONS = (4, 5)
"""Versions of runs that images can be added to; shards of today's tables go beside older ones."""


def arrow_schema(record: type[Frozen]) -> pa.Schema:
    """Return the schema of a record's table: one column for each field, in the fields' order.

    A column has the Arrow type that stands in the field's `Annotated`, else that of plain text, and
    the field's docstring as metadata `description`, which goes into the Parquet files. Only fields
    that may be None are nullable.
    """
    return pa.schema(
        [
            pa.field(
                name,
                _arrow_type(name, field),
                NoneType in get_args(field.annotation),
                {"description": field.description} if field.description else None,
            )
            for name, field in record.model_fields.items()
        ]
    )


def _arrow_type(name: str, field: FieldInfo) -> pa.DataType:
    kinds = [kind for kind in field.metadata if isinstance(kind, pa.DataType)]
    if not kinds and field.annotation is str:
        return pa.string()
    if len(kinds) != 1:
        raise TypeError(f"expected one Arrow type in the annotation of field {name}, got {kinds}")
    return kinds[0]


MANIFEST = arrow_schema(ImageRef)
IMAGES = arrow_schema(ImageResult)
SCORES = arrow_schema(ScoreRow)
ANNOTATIONS = arrow_schema(Annotation)
VECTORS = arrow_schema(ImageVector)
FEATURES = arrow_schema(FeatureRow)

TABLES: dict[str, tuple[pa.Schema, type[Frozen]]] = {
    "images": (IMAGES, ImageResult),
    "scores": (SCORES, ScoreRow),
    "annotations": (ANNOTATIONS, Annotation),
    "vectors": (VECTORS, ImageVector),
    "features": (FEATURES, FeatureRow),
    "manifest": (MANIFEST, ImageRef),
}
"""Table name -> (Arrow schema, record type)."""


def to_table(name: str, records: Sequence[Frozen]) -> pa.Table:
    """Return the records as one Arrow table of the named kind; no records give an empty table."""
    schema, _ = TABLES[name]
    columns = zip(*map(attrgetter(*schema.names), records), strict=True)
    values = list(columns) or [()] * len(schema.names)
    arrays = [to_array(column, kind) for column, kind in zip(values, schema.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def to_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return a column's values, None among them, as an Arrow array; equal to `pa.array`'s.

    That one takes longer, and imports pandas where it is installed: half a second at the first
    commit of each worker.

    Args:
        values: of one type.
        kind: a type of the tables: text, repeated text, a number, or a list of so many numbers.

    Raises:
        UnicodeEncodeError: a text that UTF-8 cannot hold.
        OverflowError: a number that the type cannot hold.
    """
    if pa.types.is_dictionary(kind):
        texts = [text for text in dict.fromkeys(values) if text is not None]
        places = {text: place for place, text in enumerate(texts)}
        indices = to_array([places.get(text) for text in values], kind.index_type)
        return pa.DictionaryArray.from_arrays(indices, to_array(texts, kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        flat = list(chain.from_iterable(values))
        return pa.FixedSizeListArray.from_arrays(to_array(flat, kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        ends = to_array(np.cumsum([0, *map(len, values)]).tolist(), pa.int32())
        items = to_array(list(chain.from_iterable(values)), kind.value_type)
        return pa.ListArray.from_arrays(ends, items, type=kind)
    if pa.types.is_large_binary(kind):
        return pa.array(values, kind)
    validity = None
    if None in values:
        bits = np.packbits([value is not None for value in values], bitorder="little")
        empty: Any = "" if pa.types.is_string(kind) else 0
        values = [empty if value is None else value for value in values]
        validity = pa.py_buffer(bits)
    if not pa.types.is_string(kind):
        numbers = np.array(values, kind.to_pandas_dtype())
        return pa.Array.from_buffers(kind, len(numbers), [validity, pa.py_buffer(numbers)])
    parts = [text.encode() for text in values]
    ends = np.cumsum([0, *map(len, parts)])
    if ends[-1] >= 2**31:  # more than one array can hold: parts of it
        return pa.array(values, kind)
    buffers = [validity, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(kind, len(parts), buffers)


def to_records(name: str, table: pa.Table) -> Iterator[Any]:
    """Yield the table's rows as records of the named kind, checked."""
    _, record = TABLES[name]
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            yield record.model_validate(row)
