"""Configuration and records come back from their files as they went."""

import json
from typing import get_args

import pyarrow as pa
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.parquet import write_table
from schemas.config import JobConfig
from schemas.records import (
    Annotation,
    FeatureRow,
    ImageRef,
    ImageResult,
    ImageVector,
    MaskKind,
    ScoreRow,
)
from schemas.score_columns import SCORE_COLUMNS
from schemas.tables import TABLES, to_records, to_table

words = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12)
words = words.filter(lambda word: word.strip() == word and word != "")
vocabularies = st.lists(words, min_size=1, max_size=5, unique_by=str.casefold)
shares = st.floats(0, 1, width=32)


@given(labels=vocabularies, shard_size=st.integers(1, 10_000), limit=st.integers(0, 10**9))
def test_a_job_comes_back_from_yaml(labels, shard_size, limit):
    job = JobConfig.model_validate(
        {"images": "a", "out": "b", "labels": labels, "shard_size": shard_size}
        | {"image": {"limit": limit}}
    )
    text = yaml.safe_dump(job.model_dump(mode="json"), allow_unicode=True)
    assert JobConfig.model_validate(yaml.safe_load(text)) == job
    assert json.loads(json.dumps(job.output_fields())) == job.output_fields()


records = {
    "manifest": st.builds(
        ImageRef,
        image_id=words,
        path=words,
        uri=words,
        size_bytes=st.none() | st.integers(0, 2**40),
        etag=words,
    ),
    "images": st.builds(
        ImageResult,
        image_id=words,
        path=words,
        uri=words,
        status=st.just("ok"),
        height=st.integers(0, 2**31 - 1),
        review_priority=shares,
        read_s=st.floats(0, 1e6, width=32),
    ),
    "scores": st.builds(
        ScoreRow,
        image_id=words,
        label=words,
        category_id=st.integers(1, 2**31 - 1),
        max_prob=shares,
        mean_prob=shares,
        area_frac=shares,
    ),
    "annotations": st.builds(
        Annotation,
        image_id=words,
        label=words,
        category_id=st.integers(1, 2000),
        segment_index=st.integers(0, 2000),
        kind=st.sampled_from(get_args(MaskKind)),
        height=st.integers(1, 2**31 - 1),
        width=st.integers(1, 2**31 - 1),
        rle_counts=words,
        area_px=st.integers(1, 2**40),
        bbox_xywh=st.tuples(*[st.integers(0, 20_000).map(float)] * 4),
        num_components=st.integers(1, 99),
        **{name: shares for name, column in SCORE_COLUMNS.items() if column.high == 1},
    ),
    "vectors": st.builds(
        ImageVector,
        image_id=words,
        vector=st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=8).map(tuple),
    ),
    "features": st.builds(
        FeatureRow, image_id=words, features=st.text("abc\0", max_size=9).map(str.encode)
    ),
}


def test_every_table_has_a_strategy():
    assert set(records) == set(TABLES)


@given(data=st.data(), name=st.sampled_from(sorted(records)))
def test_records_come_back_from_their_table(data, name):
    rows = data.draw(st.lists(records[name], max_size=5))
    assert list(to_records(name, to_table(name, rows))) == rows


@given(data=st.data(), name=st.sampled_from(sorted(records)))
def test_a_table_built_by_columns_is_the_one_built_row_by_row(data, name):
    rows = data.draw(st.lists(records[name], max_size=20))
    schema, _ = TABLES[name]
    slow = pa.Table.from_pylist([row.model_dump(mode="json") for row in rows], schema=schema)
    table = to_table(name, rows)
    table.validate(full=True)
    assert table.schema == schema
    assert write_table(table, 7) == write_table(slow, 7)
