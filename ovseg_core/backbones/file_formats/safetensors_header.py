"""Check the header of a safetensors file, before the library makes its tensors.

The library checks itself that types, shapes and places fit the file. It sets no limit to their
number, and takes one of two entries of the same name.
"""

import json
from pathlib import Path
from typing import Any

from ovseg_core.backbones.file_formats.limits import check_names, check_shape

MAX_HEADER_BYTES = 8 << 20
LENGTH_BYTES = 8
"""The header's length stands in the first bytes of the file."""
_METADATA = "__metadata__"


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a file: entries by the tensors' names, without its metadata.

    Raises:
        ValueError: it is damaged, or beyond the limits.
    """
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER_BYTES:
            limit = MAX_HEADER_BYTES >> 20
            raise ValueError(f"its header is to have {length:,} bytes, the limit is {limit} MB")
        text = file.read(length)
    if len(start) < LENGTH_BYTES or len(text) < length:
        raise ValueError("it is cut off: fetch it again")
    return check_header(text)


def check_header(text: bytes) -> dict[str, Any]:
    """Return the entries in a header, once its names and shapes are within the limits.

    Raises:
        ValueError: they are not, or it is no header.
    """
    try:
        header = json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("its header is no table of tensors") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no table of tensors")
    header.pop(_METADATA, None)
    check_names(list(header))
    for name, entry in header.items():
        if not isinstance(entry, dict):
            raise ValueError(f"its header has no entry of the tensor {name:.40}")
        check_shape(entry.get("shape"))
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names a tensor twice")
    return found
