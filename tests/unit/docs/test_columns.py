"""The page on columns: written from the records, complete."""

import pytest

from docs.columns import PAGE, TABLES, page
from pipeline.evaluation import compare
from schemas import review, tables


def test_the_page_is_what_the_records_say():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m docs.columns"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_every_column_has_a_docstring_of_one_or_two_sentences(table):
    for name, field in table.record.model_fields.items():
        assert field.description, f"{table.record.__name__}.{name} has no docstring"
        assert len(field.description) <= 160, f"{name}: it lies in every file of the table"


def test_the_page_has_every_table_that_a_record_makes():
    records = {record for _, record in tables.TABLES.values()}
    records |= {review.ReviewedMask, review.ReviewedImage, review.ReviewDecision}
    assert {table.record for table in TABLES} == records | {compare.ComparisonRow}
