"""Tables as Parquet files in memory."""

import pyarrow as pa
import pytest

from pipeline.storage import parquet

TABLE = pa.table(
    {
        "number": [1, 2, 3],
        "word": pa.array(["a", "ü", "a"]).dictionary_encode(),
    }
)


def test_a_table_comes_back() -> None:
    data = parquet.write_table(TABLE, row_group=2)
    assert parquet.read_table(data).to_pylist() == TABLE.to_pylist()
    assert parquet.read_table(data).schema.field("word").type == TABLE.schema.field("word").type
    assert parquet.column_names(data) == ["number", "word"]


def test_some_columns_are_read_alone() -> None:
    data = parquet.write_table(TABLE)
    assert parquet.read_table(data, ["number"]).column_names == ["number"]


def test_equal_tables_give_equal_bytes() -> None:
    assert parquet.write_table(TABLE) == parquet.write_table(TABLE.slice(0))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"nonsense" * 99])
def test_damaged_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises((pa.ArrowInvalid, OSError)):
        parquet.read_table(data)
