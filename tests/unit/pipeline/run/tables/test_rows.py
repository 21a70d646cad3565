"""Rows of tables as Python values."""

import pyarrow as pa
import pytest

from pipeline.run.tables.rows import rows_of

BOXES = pa.list_(pa.float32(), 4)
TABLE = pa.table(
    {
        "id": pa.array(["b", "a", "b"]).dictionary_encode(),
        "text": ["x", "", "ü"],
        "maybe": pa.array([None, "e", None]).dictionary_encode(),
        "count": pa.array([1, 2**31 - 1, 0], pa.int32()),
        "gap": pa.array([1, None, 3], pa.int32()),
        "share": pa.array([0.1, 1.0, 0.0], pa.float32()),
        "box": pa.array([[1, 2, 3.5, 4], [0, 0, 1, 1], [5, 6, 7, 8]], BOXES),
        "no box": pa.array([None, [0, 0, 1, 1], [5, 6, 7, None]], BOXES),
    }
)


@pytest.mark.parametrize(
    "table",
    [TABLE, TABLE.slice(1, 2), TABLE.slice(1, 0), pa.concat_tables([TABLE, TABLE.slice(2)])],
    ids=["whole", "a part", "nothing", "of two pieces"],
)
def test_rows_are_those_of_the_table(table: pa.Table) -> None:
    assert rows_of(table) == table.to_pylist()
    assert [row for batch in table.to_batches() for row in rows_of(batch)] == table.to_pylist()
    values = rows_of(table)[:1]
    assert all(type(row["share"]) is float and type(row["count"]) is int for row in values)
