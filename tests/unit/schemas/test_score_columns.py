"""The table of score columns."""

import json

import pytest
from pydantic.fields import FieldInfo

from schemas.records import Annotation, MaskRow
from schemas.score_columns import SCORE, SCORE_COLUMNS, page_columns


def _bounds(field: FieldInfo) -> tuple[float, float | None]:
    limits = {}
    for constraint in field.metadata:
        for name in ("ge", "gt", "le"):
            limits[name] = getattr(constraint, name, limits.get(name))
    low = limits["ge"] if limits["ge"] is not None else limits["gt"] + 1
    return low, limits["le"]


def test_score_columns_are_what_an_annotation_has_beside_its_mask():
    assert list(SCORE_COLUMNS) == [
        name
        for name in Annotation.model_fields
        if name not in MaskRow.model_fields and name != "kind"
    ]
    assert SCORE in SCORE_COLUMNS


@pytest.mark.parametrize("name", SCORE_COLUMNS)
def test_a_score_column_agrees_with_its_field(name):
    column, field = SCORE_COLUMNS[name], Annotation.model_fields[name]
    assert column.name == name
    assert column.help == " ".join((field.description or "").split()) != ""
    assert (column.low, column.high) == _bounds(field)


def test_page_columns_are_json():
    columns = json.loads(json.dumps(page_columns()))
    assert [column["name"] for column in columns] == list(SCORE_COLUMNS)
    assert columns[0]["help"].startswith("Mean probability of the label over the segment's pixels;")
    assert columns[0]["pages"] == ["viewer", "try"]


def test_a_filterable_column_has_a_range():
    assert all(c.high is not None for c in SCORE_COLUMNS.values() if c.filterable)
