"""The frame of a tool's masks: that of the run, or that of a tool that ignores EXIF orientations.

A tool that ignores the orientation of an image draws its masks in the stored frame. Sides tell that
only where height and width are exchanged; orientations 2 to 4 and square images look alike either
way. So the possible turns are tried, and the one that fits the predictions is taken.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ovseg_core.images.decoding.exif import inverse_orientation, swaps_sides, upright_mask
from ovseg_core.rle.coco_segmentation import encode_mask
from pipeline.corrections.matching import mean_best_iou
from pipeline.importers.shared.tool_file import Mask, ToolImage, ToolMask
from pipeline.run.reader import Row

_CLEARLY = 0.1
"""By how much the masks' mean IoU with predictions must differ to tell one frame from another."""


FrameKind = Literal["same", "ignored", "twice", "drawn"]
"""What a tool does with an orientation: as a person sees it, ignored, applied twice, or applied to
polygons and ignored in the stated size."""


class Frame(NamedTuple):
    """How a tool's masks become masks of the run.

    Attributes:
        turn: EXIF orientation to apply; 1: none.
        kind: what the tool does; one tool does the same to all images.
        note: in words; empty: nothing is to be done.
    """

    turn: int
    kind: FrameKind = "same"
    note: str = ""

    def counts(self, mask: ToolMask, size_hw: tuple[int, int]) -> str:
        """Return a mask's run lengths in the frame of the run."""
        if self.kind == "drawn":
            return encode_mask(_resized(mask.pixels, size_hw))
        if self.turn == 1:
            return mask.rle_counts
        return encode_mask(upright_mask(mask.pixels, self.turn))


SAME = Frame(1)


def possible_frames(image: ToolImage, row: Row) -> list[Frame]:
    """Return the frames that an image's masks may lie in, the likeliest first; none: another size.

    Args:
        image: of the tool's file.
        row: the image's row of the run.
    """
    size_hw = row["height"], row["width"]
    turn = row["exif_orientation"]
    if turn == 1:
        return [SAME] if image.size_hw in (None, size_hw) else []
    ignored = Frame(turn, "ignored", f"the tool ignores its EXIF orientation {turn}")
    inverse = inverse_orientation(turn)
    twice = Frame(inverse, "twice", f"the tool applies its EXIF orientation {turn} twice")
    turned = [ignored] if inverse == turn else [ignored, twice]
    if image.size_hw in (None, size_hw):
        is_square = size_hw[0] == size_hw[1]
        return [SAME, *turned] if is_square or not swaps_sides(turn) else [SAME]
    if image.size_hw != size_hw[::-1] or not swaps_sides(turn):
        return []
    if all(mask.is_polygon for mask in image.masks):
        turned.append(Frame(1, "drawn", "its polygons lie in the turned frame, its size does not"))
    return turned


def fitting_frame(
    frames: Sequence[Frame], masks: Sequence[ToolMask], predicted: Sequence[Row], row: Row
) -> Frame | None:
    """Return the frame in which masks fit the predictions clearly best; None: it cannot be told.

    Args:
        frames: one or more.
        masks: of the tool's file.
        predicted: the image's predicted segments.
        row: the image's row of the run.
    """
    if len(frames) == 1:
        return frames[0]
    if not masks or not predicted:
        return None
    size_hw = row["height"], row["width"]
    rows = [segment["rle_counts"] for segment in predicted]
    ious = []
    for frame in frames:
        ious.append(mean_best_iou([frame.counts(mask, size_hw) for mask in masks], rows, size_hw))
    best, second = sorted(ious, reverse=True)[:2]
    return frames[ious.index(best)] if best >= second + _CLEARLY else None


def _resized(pixels: Mask, size_hw: tuple[int, int]) -> Mask:
    """Return a mask with the same corner at the top left, cut or filled up to a size."""
    found = np.zeros(size_hw, bool)
    height, width = np.minimum(pixels.shape, size_hw)
    found[:height, :width] = pixels[:height, :width]
    return found
