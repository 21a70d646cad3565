"""Tables as Parquet files in memory."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
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


def _packed(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=True, store_schema=False)
    return buffer.getvalue()


def _one_text_often() -> pa.Table:
    """Return a column of one megabyte, 2,000 times, which is stored once."""
    places = pa.array([0] * 2000, pa.int32())
    return pa.table({"a": pa.DictionaryArray.from_arrays(places, pa.array(["x" * 1_000_000]))})


@pytest.mark.parametrize(
    "table",
    [
        _one_text_often(),
        pa.table({"a": ["x" * 100_000_000]}),
        pa.table({"a": pa.nulls(300_000_000)}),
    ],
    ids=["one text often", "one long text", "nothing often"],
)
def test_a_small_file_that_unpacks_to_much_is_refused_before(table: pa.Table) -> None:
    data = _packed(table)
    assert len(data) < 1_000_000
    with pytest.raises(pa.ArrowInvalid, match="unpack"):
        parquet.read_table(data)


def test_a_dictionary_that_its_reader_would_write_out_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid, match="unpack"):
        parquet.read_table(parquet.write_table(_one_text_often()))


def test_repeated_texts_of_a_foreign_table_are_read_as_they_are() -> None:
    table = pa.table({"a": ["x", None, "x"] * 1000, "b": range(3000)})
    read = parquet.read_table(_packed(table))
    assert read.equals(table)
    assert parquet.read_table(_packed(table.slice(0, 0))).schema == table.schema
