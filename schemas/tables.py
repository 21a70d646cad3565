"""The Arrow schemas of the three tables and the manifest; records to tables and back."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from schemas.base import Frozen
from schemas.records import Annotation, ImageRef, ImageResult, ScoreRow

SCHEMA_VERSION = 1
"""Raised with every change of a column; stored in each done marker."""

WORD = pa.dictionary(pa.int32(), pa.string())
"""Type of columns with few different values."""


def table_schema(types: dict[str, pa.DataType], nullable: tuple[str, ...] = ()) -> pa.Schema:
    """Return a table's schema; only the columns named are nullable."""
    return pa.schema(
        [pa.field(name, kind, nullable=name in nullable) for name, kind in types.items()]
    )


MANIFEST = table_schema(
    {
        "image_id": pa.string(),
        "path": pa.string(),
        "uri": pa.string(),
        "size_bytes": pa.int64(),
        "etag": pa.string(),
    },
    nullable=("size_bytes",),
)
IMAGES = table_schema(
    {
        "image_id": pa.string(),
        "path": pa.string(),
        "uri": pa.string(),
        "status": WORD,
        "error_code": WORD,
        "error_message": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "exif_orientation": pa.int8(),
        "num_segments": pa.int32(),
        "review_priority": pa.float32(),
        "read_s": pa.float32(),
        "decode_s": pa.float32(),
        "segment_s": pa.float32(),
        "encode_s": pa.float32(),
    },
    nullable=("error_code",),
)
SCORES = table_schema(
    {
        "image_id": WORD,
        "label": WORD,
        "category_id": pa.int32(),
        "max_prob": pa.float32(),
        "mean_prob": pa.float32(),
        "area_frac": pa.float32(),
    }
)
ANNOTATIONS = table_schema(
    {
        "image_id": WORD,
        "label": WORD,
        "category_id": pa.int32(),
        "segment_index": pa.int32(),
        "height": pa.int32(),
        "width": pa.int32(),
        "rle_counts": pa.string(),
        "area_px": pa.int64(),
        "bbox_xywh": pa.list_(pa.float32(), 4),
        "mean_prob": pa.float32(),
        "margin_mean": pa.float32(),
        "margin_p10": pa.float32(),
        "entropy_mean": pa.float32(),
        "saliency_mean": pa.float32(),
        "boundary_uncertainty": pa.float32(),
        "area_frac": pa.float32(),
        "num_components": pa.int32(),
    }
)

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
