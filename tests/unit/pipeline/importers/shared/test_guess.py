"""Which tool wrote a file, told by its content."""

import gzip
import io
import zipfile

import pytest

from pipeline.importers.shared.guess import guess_tool, is_coco_results

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
    assert not is_coco_results(data)


@pytest.mark.parametrize(
    ("data", "is_results"),
    [
        (b'[\n{"image_id": 1, "category_id": 2, "score": 0.5}]', True),
        (gzip.compress(b' [{"score": 1, "category_id": 2, "image_id": 1}]'), True),
        (b'[{"data": {"image": "a.png", "image_id": 1, "category_id": 2}}]', False),
        (b'[{"id": 4, "annotations": [], "image_id": 1}]', False),
        (b"[]", False),
    ],
)
def test_lists_of_results_are_told_from_tasks(data: bytes, is_results: bool) -> None:
    assert is_coco_results(data) == is_results


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x89PNG", gzip.compress(COCO)[:15], packed("a.xml", "b.json"), packed("notes.txt"),
        packed("a.json")[:-30], packed("a.json", compression=zipfile.ZIP_LZMA),
    ],
)  # fmt: skip
def test_content_that_does_not_tell_is_not_guessed(data: bytes) -> None:
    assert guess_tool(data) == ""
