"""What the listing of a collection left out, in numbers; kept with the frozen manifest."""

import json
from collections.abc import Sequence

import pyarrow as pa
from pydantic import PositiveInt, TypeAdapter, ValidationError

from pipeline.collection.manifest import PackedRows
from schemas.base import Frozen

LEFT_OUT_KEY = b"ovseg.left_out"
"""Key of the counts in the metadata of a manifest's schema."""


class LeftOut(Frozen):
    """Files of one kind that were found and not taken."""

    what: str
    """The ending, or why: `without ending`, `dangling link`."""
    count: PositiveInt
    example: str
    """Path of the first of them."""
    hint: str = ""
    """What to do to have them taken; empty: nothing."""


_LIST = TypeAdapter(tuple[LeftOut, ...])


def with_left_out(schema: pa.Schema, left_out: Sequence[LeftOut]) -> pa.Schema:
    """Return a manifest's schema that carries the counts."""
    text = json.dumps([entry.model_dump() for entry in left_out])
    return schema.with_metadata({**(schema.metadata or {}), LEFT_OUT_KEY: text.encode()})


def left_out_of(images: pa.Table | PackedRows) -> tuple[LeftOut, ...]:
    """Return the counts of a manifest; none where it has none that can be read."""
    try:
        return _LIST.validate_json((images.schema.metadata or {}).get(LEFT_OUT_KEY, b"[]"))
    except ValidationError:
        return ()


def describe(left_out: Sequence[LeftOut]) -> str:
    """Return one line for a person; empty where nothing was left out."""
    if not left_out:
        return ""
    parts = [
        f"{entry.count:,} {entry.what}{_plural(entry)}{f' ({entry.hint})' if entry.hint else ''}"
        for entry in left_out
    ]
    return f"left out: {', '.join(parts)}; for example {left_out[0].example}"


def _plural(entry: LeftOut) -> str:
    noun = " file" if entry.what.startswith(".") else ""
    return f"{noun}s" if entry.count > 1 and (noun or entry.what == "dangling link") else noun
