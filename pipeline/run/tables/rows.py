"""Rows of a table as Python values: column by column, several times as fast as one by one."""

from typing import Any

import pyarrow as pa

Row = dict[str, Any]


def rows_of(table: pa.Table | pa.RecordBatch) -> list[Row]:
    """Return what `table.to_pylist()` returns."""
    names = table.column_names
    columns = [_values(table.column(place)) for place in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: Any) -> list[Any]:
    kind = column.type
    if column.null_count:
        return column.to_pylist()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column.to_numpy().tolist()
    if pa.types.is_dictionary(kind):
        values: list[Any] = []
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            known = chunk.dictionary.to_pylist()
            values += [known[place] for place in chunk.indices.to_numpy().tolist()]
        return values
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        numbers = column.flatten()
        if not numbers.null_count:
            return numbers.to_numpy().reshape(-1, kind.list_size).tolist()
    return column.to_pylist()
