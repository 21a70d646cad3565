"""Reading run folders of older schema versions.

Such a run opens, exports, evaluates and is reviewed like any other: its tables, markers and job are
given today's names and columns here, as they are read. Shards are added only to one that lacks
no more than a whole table (`schemas.tables.RESUMED_VERSIONS`).

Version 1 had other names for columns, stages and options. Versions 1 and 2 lack three columns of
images; versions 1 to 3 lack two of annotations; versions 1 to 4 lack the table of vectors.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from schemas.base import RENAMED_OPTIONS
from schemas.records import TABLE_NAMES, ShardDone, TableName
from schemas.tables import TABLES, to_array

RENAMED_COLUMNS = {
    "images": {"encode_s": "rle_s"},
    "scores": {},
    "annotations": {"saliency_mean": "objectness_mean"},
}
"""By table: name in version 1 -> name today."""
ADDED_COLUMNS = {
    "images": dict.fromkeys(("num_frames", "value_range", "color_profile"), 3),
    "annotations": dict.fromkeys(("kind", "proposal_score"), 4),
}
"""By table: columns that older versions lack, with the first version that has them."""
ADDED_TABLES: dict[TableName, int] = {"vectors": 5}
"""Tables that shards of older versions lack, with the first version that has them."""
RENAMED_STAGES = {"encode": "rle"}
"""The same of the stages whose seconds a tally sums."""


def tables_of(version: int) -> set[TableName]:
    """Return the tables that a shard of a version has."""
    return {name for name in TABLE_NAMES if version >= ADDED_TABLES.get(name, 1)}


def stored_columns(table_name: str, columns: list[str], version: int) -> list[str]:
    """Return the names that a file of an older version has for today's columns."""
    renamed = RENAMED_COLUMNS[table_name] if version == 1 else {}
    stored = {new: old for old, new in renamed.items()}
    added = _added_columns(table_name, version)
    return [stored.get(name, name) for name in columns if name not in added]


def _added_columns(table_name: str, version: int) -> list[str]:
    added = ADDED_COLUMNS.get(table_name, {})
    return [name for name, first_version in added.items() if version < first_version]


def with_new_columns(
    table_name: str,
    table: pa.Table,
    version: int,
    values: Mapping[str, Any],
    columns: list[str] | None = None,
) -> pa.Table:
    """Return a table of an older version under today's names, with the columns that it lacks.

    Args:
        table_name: `images`, `scores` or `annotations`.
        table: as it is stored.
        version: of the table.
        values: of columns that it lacks, the same for every row; others have the record's default.
        columns: today's names of those that were read; None: all.
    """
    renamed = RENAMED_COLUMNS[table_name]
    table = table.rename_columns([renamed.get(name, name) for name in table.column_names])
    schema, record = TABLES[table_name]
    for name in _added_columns(table_name, version):
        if columns is None or name in columns:
            value = values.get(name, record.model_fields[name].default)
            column = to_array([value] * table.num_rows, schema.field(name).type)
            table = table.append_column(schema.field(name), column)
    return table.select(columns or schema.names)


def with_new_stages(marker: ShardDone) -> ShardDone:
    """Return a marker of version 1 with today's stages; it remains one of version 1."""
    seconds = {RENAMED_STAGES.get(stage, stage): s for stage, s in marker.tally.seconds.items()}
    tally = marker.tally.model_copy(update={"seconds": seconds})
    return marker.model_copy(update={"tally": tally})


def with_new_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the job of an older run with today's names of its method's options."""
    method = config.get("method")
    options = method.get("options") if isinstance(method, dict) else None
    if not isinstance(method, dict) or not isinstance(options, dict):
        return config
    options = dict(options)
    folder = options.pop("region_folder", "")
    renamed = {RENAMED_OPTIONS.get(name, name): value for name, value in options.items()}
    if folder:
        renamed["proposals"] = {"name": "folder", "options": {"folder": folder}}
    return {**config, "method": {**method, "options": renamed}}
