"""Frames that a tool's masks may lie in; how imports choose is in `integration`."""

import numpy as np
import pytest

from ovseg_core.rle.coco_segmentation import encode_mask
from pipeline.corrections.frames import fitting_frame, possible_frames
from pipeline.importers.shared.tool_file import ToolImage, ToolMask


def _image(size_hw: tuple[int, int], is_polygon: bool = False) -> ToolImage:
    pixels = np.zeros(size_hw, bool)
    pixels[1:3, 2:5] = True
    mask = ToolMask("cat", size_hw, encode_mask(pixels), is_polygon=is_polygon)
    return ToolImage(("a.jpg",), size_hw, (mask,))


def _row(orientation: int, size_hw: tuple[int, int] = (12, 16)) -> dict:
    return {"height": size_hw[0], "width": size_hw[1], "exif_orientation": orientation}


@pytest.mark.parametrize(
    ("size_hw", "orientation", "kinds"),
    [
        ((12, 16), 1, ["same"]), ((16, 12), 1, []), ((12, 16), 3, ["same", "ignored"]),
        ((16, 12), 3, []), ((12, 16), 6, ["same"]), ((16, 12), 6, ["ignored", "twice"]),
        ((13, 16), 6, []),
    ],
)  # fmt: skip
def test_possible_frames(size_hw, orientation, kinds):
    frames = possible_frames(_image(size_hw), _row(orientation))
    assert [frame.kind for frame in frames] == kinds
    assert [bool(frame.note) for frame in frames] == [kind != "same" for kind in kinds]


def test_polygons_may_lie_in_the_displayed_frame_under_the_stored_size():
    image, row = _image((16, 12), is_polygon=True), _row(6)
    shown = np.zeros((12, 16), bool)
    shown[1:3, 2:5] = True
    predicted = [{"rle_counts": encode_mask(shown)}]
    frame = fitting_frame(possible_frames(image, row), image.masks, predicted, row)
    assert frame is not None
    assert frame.kind == "drawn"
    assert frame.counts(image.masks[0], (12, 16)) == predicted[0]["rle_counts"]


def test_frame_cannot_be_told_without_predictions_or_from_what_looks_alike():
    image, row = _image((12, 16)), _row(3)
    frames = possible_frames(image, row)
    both = encode_mask(np.ones((12, 16), bool))
    assert fitting_frame(frames, image.masks, [], row) is None
    assert fitting_frame(frames, image.masks, [{"rle_counts": both}], row) is None
    assert fitting_frame(frames[:1], image.masks, [], row) == frames[0]
