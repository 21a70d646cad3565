"""Reading run folders of older schema versions.

Such a run opens, exports, evaluates and is reviewed like any other: its tables, markers and job are
given today's names and columns here, as they are read. No shard is added to it, because its tables
would then be of two versions.

Version 1 had other names for columns, stages and options. Version 2 lacks three columns of images.
"""

from typing import Any

import pyarrow as pa

from schemas.base import RENAMED_OPTIONS
from schemas.records import ShardDone
from schemas.tables import TABLES

RENAMED_COLUMNS = {
    "images": {"encode_s": "rle_s"},
    "scores": {},
    "annotations": {"saliency_mean": "objectness_mean"},
}
"""By table: name in version 1 -> name today."""
ADDED_COLUMNS = {"images": ("num_frames", "value_range", "color_profile")}
"""By table: columns that versions 1 and 2 lack; they read as the record's defaults."""
RENAMED_STAGES = {"encode": "rle"}
"""The same of the stages whose seconds a tally sums."""


def stored_columns(table_name: str, columns: list[str], version: int) -> list[str]:
    """Return the names that a file of an older version has for today's columns."""
    renamed = RENAMED_COLUMNS[table_name] if version == 1 else {}
    stored = {new: old for old, new in renamed.items()}
    added = ADDED_COLUMNS.get(table_name, ())
    return [stored.get(name, name) for name in columns if name not in added]


def with_new_columns(
    table_name: str, table: pa.Table, columns: list[str] | None = None
) -> pa.Table:
    """Return a table of an older version under today's names, with the columns that it lacks.

    Args:
        table_name: `images`, `scores` or `annotations`.
        table: as it is stored.
        columns: today's names of those that were read; None: all.
    """
    renamed = RENAMED_COLUMNS[table_name]
    table = table.rename_columns([renamed.get(name, name) for name in table.column_names])
    schema, record = TABLES[table_name]
    for name in ADDED_COLUMNS.get(table_name, ()):
        if columns is None or name in columns:
            default = pa.scalar(record.model_fields[name].default, schema.field(name).type)
            table = table.append_column(schema.field(name), pa.repeat(default, table.num_rows))
    return table.select(columns or schema.names)


def with_new_stages(marker: ShardDone) -> ShardDone:
    """Return a marker of version 1 with today's stages; it remains one of version 1."""
    seconds = {RENAMED_STAGES.get(stage, stage): s for stage, s in marker.tally.seconds.items()}
    tally = marker.tally.model_copy(update={"seconds": seconds})
    return marker.model_copy(update={"tally": tally})


def with_new_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the job of a run of version 1 with today's names of its method's options."""
    method = config.get("method")
    options = method.get("options") if isinstance(method, dict) else None
    if not isinstance(method, dict) or not isinstance(options, dict):
        return config
    renamed = {RENAMED_OPTIONS.get(name, name): value for name, value in options.items()}
    return {**config, "method": {**method, "options": renamed}}
