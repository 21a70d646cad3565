"""The Arrow schemas, derived from the records."""

import io
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage.parquet import write_table
from schemas.base import Frozen
from schemas.records import REPEATED_TEXT, Annotation, Count
from schemas.review import DECISIONS, REVIEWED_MASKS, ReviewDecision
from schemas.tables import TABLES, arrow_schema, to_table


def test_arrow_schema_has_the_fields_in_order():
    class Thing(Frozen):
        name: str
        kind: Annotated[str | None, REPEATED_TEXT] = None
        count: Count = 0

    assert arrow_schema(Thing) == pa.schema(
        [
            pa.field("name", pa.string(), nullable=False),
            pa.field("kind", REPEATED_TEXT, nullable=True),
            pa.field("count", pa.int32(), nullable=False),
        ]
    )


def test_arrow_schema_refuses_a_field_without_arrow_type():
    class Thing(Frozen):
        count: int

    with pytest.raises(TypeError, match=r"expected one Arrow type .* of field count, got \[\]"):
        arrow_schema(Thing)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_table_columns_are_the_fields_of_its_record(name):
    schema, record = TABLES[name]
    assert schema.names == list(record.model_fields)
    assert to_table(name, []).schema == schema


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_column_is_described_in_its_file(name):
    read = pq.read_schema(io.BytesIO(write_table(to_table(name, []))))
    _, record = TABLES[name]
    assert read.equals(to_table(name, []).schema)
    described = {field.name: field.metadata[b"description"].decode() for field in read}
    assert described == {name: field.description for name, field in record.model_fields.items()}


def test_annotation_columns_keep_their_types():
    types = {field.name: str(field.type) for field in TABLES["annotations"][0]}
    assert types["bbox_xywh"] == "fixed_size_list<item: float>[4]"
    assert types["area_px"] == "int64"
    assert types["mean_prob"] == "float"
    assert types["label"] == "dictionary<values=string, indices=int32, ordered=0>"


def test_reviewed_masks_have_the_mask_columns_of_annotations():
    masks = {field.name: field.type for field in REVIEWED_MASKS}
    annotations = {field.name: field.type for field in TABLES["annotations"][0]}
    assert set(masks) - set(annotations) == {"verdict"}
    assert all(masks[name] == annotations[name] for name in masks if name != "verdict")
    assert [field.name for field in REVIEWED_MASKS if field.nullable] == ["segment_index"]


def test_a_decision_table_names_the_entry_first():
    assert DECISIONS.names == ["entry", *ReviewDecision.model_fields]


def test_a_predicted_segment_has_an_index():
    assert not TABLES["annotations"][0].field("segment_index").nullable
    assert Annotation.model_fields["segment_index"].is_required()
