"""Reading run folders of schema version 1, whose columns, stages and options had other names.

Such a run opens, exports, evaluates and is reviewed like any other: its tables, markers and job are
given today's names here, as they are read. Nothing else in it differs. No shard is added to it,
because its tables would then be of two versions.
"""

from typing import Any

import pyarrow as pa

from schemas.records import ShardDone

RENAMED_COLUMNS = {
    "images": {"encode_s": "rle_s"},
    "scores": {},
    "annotations": {"saliency_mean": "objectness_mean"},
}
"""By table: name in version 1 -> name today."""
RENAMED_STAGES = {"encode": "rle"}
"""The same of the stages whose seconds a tally sums."""
RENAMED_OPTIONS = {
    "presence_top": "top_k_labels",
    "recipe": "variant",
    "least_affinity": "gamma",
    "sure": "delta",
    "std_patches": "sigma_patches",
    "min_cosine": "beta",
    "class_weight": "class_token_weight",
    "denoise_below": "prompt_denoising_threshold",
    "smooth_below": "key_smoothing_threshold",
}
"""The same of the options of methods; no method has an option of another's old name."""


def stored_columns(table_name: str, columns: list[str]) -> list[str]:
    """Return the names that a file of version 1 has for today's columns."""
    stored = {new: old for old, new in RENAMED_COLUMNS[table_name].items()}
    return [stored.get(name, name) for name in columns]


def with_new_columns(table_name: str, table: pa.Table) -> pa.Table:
    """Return a table of version 1 under today's names."""
    renamed = RENAMED_COLUMNS[table_name]
    return table.rename_columns([renamed.get(name, name) for name in table.column_names])


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
