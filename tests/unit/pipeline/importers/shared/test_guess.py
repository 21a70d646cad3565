"""Which tool wrote a file, told by its content."""

import gzip
import io
import zipfile

import pytest

from pipeline.importers.shared.guess import guess_tool

COCO, XML = b'{"images": []}', b"<?xml version='1.0'?><annotations/>"


def packed(*names: str, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as target:
        for name in names:
            target.writestr(name, XML if name.endswith(".xml") else COCO)
    return archive.getvalue()


@pytest.mark.parametrize(
    ("data", "tool"),
    [
        (COCO, "coco"),
        (b'\xef\xbb\xbf\n [{"annotations": []}]', "label_studio"),
        (XML, "cvat"),
        (gzip.compress(COCO), "coco"),
        (packed("annotations.xml", "__MACOSX/._annotations.xml", "images/a.jpg"), "cvat"),
        (packed("annotations/instances_default.json"), "coco"),
    ],
)
def test_content_tells_the_tool(data: bytes, tool: str) -> None:
    assert guess_tool(data) == tool


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x89PNG", gzip.compress(COCO)[:15], packed("a.xml", "b.json"), packed("notes.txt"),
        packed("a.json")[:-30], packed("a.json", compression=zipfile.ZIP_LZMA),
    ],
)  # fmt: skip
def test_content_that_does_not_tell_is_not_guessed(data: bytes) -> None:
    assert guess_tool(data) == ""
