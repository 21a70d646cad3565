"""The Arrow schemas of the tables, derived from their records; records to tables and back."""

from collections.abc import Iterable, Iterator
from types import NoneType
from typing import Any, get_args

import pyarrow as pa
from pydantic.fields import FieldInfo

from schemas.base import Frozen
from schemas.records import Annotation, ImageRef, ImageResult, ScoreRow

SCHEMA_VERSION = 3
"""Raised with every change of a column; stored in run.yaml and in each done marker."""
READ_VERSIONS = (1, 2, 3)
"""Versions that can be read: `pipeline.run.tables.old_versions` maps the older ones on reading."""


def arrow_schema(record: type[Frozen]) -> pa.Schema:
    """Return the schema of a record's table: one column for each field, in the fields' order.

    A column has the Arrow type that stands in the field's `Annotated`, else that of plain text.
    Only fields that may be None are nullable.
    """
    return pa.schema(
        [
            pa.field(name, _arrow_type(name, field), NoneType in get_args(field.annotation))
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

TABLES: dict[str, tuple[pa.Schema, type[Frozen]]] = {
    "images": (IMAGES, ImageResult),
    "scores": (SCORES, ScoreRow),
    "annotations": (ANNOTATIONS, Annotation),
    "manifest": (MANIFEST, ImageRef),
}
"""Table name -> (Arrow schema, record type)."""


def to_table(name: str, records: Iterable[Frozen]) -> pa.Table:
    """Return the records as one Arrow table of the named kind; no records give an empty table."""
    schema, _ = TABLES[name]
    rows: list[dict[str, Any]] = [record.model_dump(mode="json") for record in records]
    return pa.Table.from_pylist(rows, schema=schema)


def to_records(name: str, table: pa.Table) -> Iterator[Any]:
    """Yield the table's rows as records of the named kind, checked."""
    _, record = TABLES[name]
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            yield record.model_validate(row)
