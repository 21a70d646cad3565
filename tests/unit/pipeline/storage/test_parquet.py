"""Tables as Parquet files in memory."""

import io
import subprocess
import sys

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


def _saying(data: bytes, said: dict[int, int]) -> bytes:
    """Return a file whose list of columns has other numbers than the ones that it had."""
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    changed = data[footer:]
    for true, lie in said.items():
        numbers = _varint(true), _varint(lie)
        length = len(numbers[0])
        padded = bytes(byte | 128 for byte in numbers[1]).ljust(length - 1, b"\x80")
        padded = padded[: length - 1] + (b"\0" if len(numbers[1]) < length else numbers[1][-1:])
        assert numbers[0] in changed
        changed = changed.replace(numbers[0], padded)
    return data[:footer] + changed


def _varint(number: int) -> bytes:
    number, digits = number << 1, []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


@pytest.mark.parametrize("compression", ["zstd", "gzip", "brotli"])
def test_a_list_of_columns_that_lies_is_not_believed(compression: str) -> None:
    buffer = io.BytesIO()
    table = pa.table({"a": ["x" * 200_000_000]})
    pq.write_table(
        table, buffer, compression=compression, use_dictionary=False, write_statistics=False
    )
    data = buffer.getvalue()
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0)
    lying = _saying(data, {column.total_uncompressed_size: 1000})
    column = pq.ParquetFile(io.BytesIO(lying)).metadata.row_group(0).column(0)
    assert column.total_uncompressed_size == 1000
    before = pa.total_allocated_bytes()
    with pytest.raises(pa.ArrowInvalid, match="unpacks to 200,000,"):
        parquet.read_table(lying)
    assert pa.total_allocated_bytes() - before < 1_000_000


@pytest.mark.parametrize("offset", [-1, 3, 10**9], ids=["before", "no page", "behind"])
def test_a_column_that_lies_elsewhere_is_an_error(offset: int) -> None:
    with pytest.raises(pa.ArrowInvalid):
        parquet.unpacked_bytes(b"PAR1" + b"\xff" * 4000, offset, offset + 100)


def test_headers_of_pages_are_read_from_any_writer() -> None:
    table = pa.table({"a": [f"{n}" * 40 for n in range(9000)], "b": [[n] for n in range(9000)]})
    for settings in ({}, {"data_page_version": "2.0", "data_page_size": 1000}):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="snappy", write_page_index=True, **settings)
        assert parquet.read_table(buffer.getvalue()).to_pylist() == table.to_pylist()


def test_no_byte_of_the_list_of_columns_ends_the_process() -> None:
    """An unknown compression, or counts that do not fit, end pyarrow by an exception of C++."""
    script = """
import sys
import pyarrow as pa
from pipeline.storage import parquet
data = parquet.write_table(pa.table({"a": [[1], [2, 3]], "b": ["x", "y"]}))
begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
refused = 0
for place in range(begin, len(data) - 8):
    for value in (0, 1, 8, 16, 25, 44, 127, 255):
        changed = data[:place] + bytes([value]) + data[place + 1:]
        try:
            parquet.read_table(changed)
        except (pa.ArrowException, OSError, ValueError):
            refused += 1
print(refused)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert int(done.stdout) > 1000
