"""The CVAT importer on XML written by hand; its exporter's files are in the exporter's tests."""

import numpy as np
import pytest

from pipeline.importers import cvat
from pipeline.importers.shared.notes import NoteKind, Notes
from schemas.errors import UserError


def _xml(body: str) -> bytes:
    image = f'<image id="0" name="a.png" width="6" height="4">{body}</image>'
    return f"<annotations><version>1.1</version>{image}</annotations>".encode()


def test_read_mask_polygon_and_box():
    body = (
        '<mask label="cat" rle="0, 1, 2, 1" left="1" top="2" width="2" height="2" z_order="0"/>'
        '<polygon label="dog" points="0.0,0.0;3.0,0.0;3.0,2.0;0.0,2.0"/>'
        '<box label="dog" xtl="0" ytl="0" xbr="1" ybr="1"/>'
    )
    (image,) = cvat.read(_xml(body), Notes())
    mask, polygon = image.masks
    expected = np.zeros((4, 6), bool)
    expected[2, 1] = expected[3, 2] = True
    np.testing.assert_array_equal(mask.pixels, expected)
    assert polygon.pixels[:2, :3].all()
    assert polygon.pixels.sum() == 6
    assert (image.num_left_out, image.size_hw, mask.segment_index) == (1, (4, 6), None)


@pytest.mark.parametrize(
    "body",
    [
        '<mask label="cat" rle="0, 3" left="1" top="2" width="2" height="2"/>',
        '<mask label="cat" rle="0, 4" left="5" top="2" width="2" height="2"/>',
        '<mask label="cat" rle="-1, 5" left="1" top="2" width="2" height="2"/>',
        f'<mask label="cat" rle="{2**62},{2**62},{2**62},{2**62},4" left="1" top="2" width="2" '
        'height="2"/>',
        f'<mask label="cat" rle="{2**64},4" left="1" top="2" width="2" height="2"/>',
        '<mask label="cat" rle="0, 4" left="1" top="2" width="-2" height="-2"/>',
        '<mask label="cat" rle="x" left="1" top="2" width="2" height="2"/>',
        '<mask rle="0, 4" left="1" top="2" width="2" height="2"/>',
        '<polygon label="cat" points="1,2;3,4"/>',
        '<polygon label="cat" points="1,2;3,4;90,90"/>',
        '<polygon label="cat" points=""/>',
    ],
)
def test_read_image_with_a_damaged_shape_is_noted(body):
    good = '<image name="b.png" width="6" height="4"><tag label="Checked"/></image>'
    data = _xml(body).replace(b"</annotations>", f"{good}</annotations>".encode())
    notes = Notes()
    (image,) = cvat.read(data, notes)
    assert (image.names, image.is_checked) == (("b.png",), True)
    (problem,) = notes.report()[NoteKind.UNREADABLE].first
    assert problem.startswith("a.png: ")


@pytest.mark.parametrize("size", ['width="6"', 'width="6" height=""', 'width="6" height="None"'])
def test_read_image_without_a_size_is_noted(size):
    notes = Notes()
    data = f'<annotations><image name="a.png" {size}/></annotations>'.encode()
    assert list(cvat.read(data, notes)) == []
    assert notes[NoteKind.UNREADABLE] == 1


@pytest.mark.parametrize("data", [b"", b"<a", b"<annotations/>", b'{"images": []}', b"PK\x03\x04x"])
def test_read_other_file_is_refused(data):
    with pytest.raises(UserError):
        list(cvat.read(data, Notes()))


@pytest.mark.parametrize("encoding", ["gbk", "none"])
def test_read_unknown_encoding_is_refused(encoding):
    data = f'<?xml version="1.0" encoding="{encoding}"?><annotations/>'.encode()
    with pytest.raises(UserError, match="not XML"):
        list(cvat.read(data, Notes()))
