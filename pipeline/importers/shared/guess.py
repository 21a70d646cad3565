"""Which tool wrote a file, by its first character: each of the tools' formats has another one."""

import gzip
import io
import re
import zipfile

from pipeline.importers.shared.archives import GZIP, READ_COMPRESSIONS, ZIP_ERRORS

_TOOL_OF = {b"[": "label_studio", b"{": "coco", b"<": "cvat"}
"""A list of tasks, an object with images and annotations, XML."""
_MARK = b"\xef\xbb\xbf"
_START_BYTES = 4096
_KEY = re.compile(rb'"(id|data|annotations|predictions|image_id|category_id)"\s*:')
_OF_RESULTS = (b"image_id", b"category_id")


def guess_tool(data: bytes) -> str:
    """Return the name of the importer for a file; empty: its content does not tell.

    Args:
        data: the file, perhaps packed by gzip, or an archive with one JSON or XML file.
    """
    return _TOOL_OF.get(_start_of(data)[:1], "")


def is_coco_results(data: bytes) -> bool:
    """Return whether a file is COCO's list of results, which has no images and no names of labels.

    Args:
        data: see `guess_tool`.
    """
    start = _start_of(data)
    key = _KEY.search(start)
    is_result = key is not None and key[1] in _OF_RESULTS  # in a task they are below `data`
    return is_result and start.startswith(b"[")


def _start_of(data: bytes) -> bytes:
    return _first_bytes(data).removeprefix(_MARK).lstrip()


def _first_bytes(data: bytes) -> bytes:
    try:
        if data.startswith(GZIP):
            with gzip.open(io.BytesIO(data)) as packed:
                return packed.read(_START_BYTES)
        if not zipfile.is_zipfile(io.BytesIO(data)):
            return data[:_START_BYTES]
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [
                member
                for member in archive.infolist()
                if member.filename.lower().endswith((".json", ".xml"))
                and not member.filename.startswith("__MACOSX/")
            ]
            if len(members) != 1 or members[0].compress_type not in READ_COMPRESSIONS:
                return b""
            with archive.open(members[0]) as file:
                return file.read(_START_BYTES)
    except (*ZIP_ERRORS, OSError):  # the importer says what is wrong with it
        return b""
