"""Masks that may overlap -> COCO RLE, area and box of each.

Each mask comes as a cut-out of the image, so that the work grows with the masks and not with the
image; runs are found on the masks' device, and only their ends come back. The tests compare with
pycocotools.

Shapes: N masks, r c rows and columns of a cut-out, H W pixels of the image, r W its filled rows.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovseg_core.images.resize.bilinear import bilinear_taps
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.encode import Rle, encode_pieces
from ovseg_core.rle.map_runs import Ints


class CutOut(NamedTuple):
    """The part of a mask that may be inside; all around it is outside.

    Attributes:
        mask_rc: bool.
        top: row of the image where it begins.
        left: column of the image where it begins.
    """

    mask_rc: Tensor
    top: int
    left: int


class Pieces(NamedTuple):
    """Runs of several masks, cut where a column ends; by mask, then by place.

    Attributes:
        start: first pixel of each, column-major.
        stop: the pixel after its last one, in the same column.
        owner: number of its mask.
    """

    start: Ints
    stop: Ints
    owner: Ints


def pieces_of(masks: Iterable[CutOut], size_hw: SizeHW) -> Pieces:
    """Return the runs of masks; an empty mask has none.

    Args:
        masks: one at a time is held.
        size_hw: of the image.
    """
    parts = [_pieces(mask, size_hw[0]) for mask in masks]
    none = np.zeros(0, np.int64)
    owner = np.repeat(np.arange(len(parts)), [len(start) for start, _ in parts])
    start, stop = (np.concatenate([none, *(part[side] for part in parts)]) for side in (0, 1))
    return Pieces(start, stop, owner)


def encode_stack(masks: Iterable[CutOut], size_hw: SizeHW) -> dict[int, Rle]:
    """Return the RLE of each mask by its number; empty ones are left out."""
    pieces = pieces_of(masks, size_hw)
    if not len(pieces.owner):
        return {}
    rles = encode_pieces(*pieces, size_hw)
    return dict(zip(np.unique(pieces.owner).tolist(), rles, strict=True))


def cut_outs(masks_Nhw: Tensor, size_hw: SizeHW) -> Iterator[CutOut]:
    """Yield small masks at the image's size: only the part around its box of each is enlarged.

    Args:
        masks_Nhw: floating point; inside is where the value, enlarged bilinearly (align_corners
            False), is above 0.
        size_hw: of the image.
    """
    height, width = masks_Nhw.shape[1:]
    rows, columns = bilinear_taps(height, size_hw[0]), bilinear_taps(width, size_hw[1])
    for mask_hw in masks_Nhw.float():
        inside = mask_hw > 0
        down, across = inside.any(1).cpu(), inside.any(0).cpu()
        # A pixel between two cells is inside only if one of them is.
        down_px = (down[rows.low] | down[rows.high]).nonzero()[:, 0]
        across_px = (across[columns.low] | across[columns.high]).nonzero()[:, 0]
        if not len(down_px) or not len(across_px):
            yield CutOut(inside[:0, :0], 0, 0)
            continue
        top, left = int(down_px[0]), int(across_px[0])
        source_h, down_matrix = rows.matrix(slice(top, int(down_px[-1]) + 1))
        source_w, across_matrix = columns.matrix(slice(left, int(across_px[-1]) + 1))
        part = mask_hw[source_h, source_w]
        enlarged = down_matrix.to(part.device) @ part @ across_matrix.to(part.device).T
        yield CutOut(enlarged > 0, top, left)


def whole(mask_HW: Tensor) -> CutOut:
    """Return the smallest cut-out of a mask of the whole image."""
    rows = _filled_lines(mask_HW, 1)
    if not len(rows):
        return CutOut(mask_HW[:0, :0], 0, 0)
    top = int(rows[0])
    filled_rW = mask_HW[top : int(rows[-1]) + 1]
    columns = _filled_lines(filled_rW, 0)
    left = int(columns[0])
    return CutOut(filled_rW[:, left : int(columns[-1]) + 1], top, left)


def _filled_lines(mask_HW: Tensor, along: int) -> Ints:
    """Return the lines along an axis that have a pixel inside."""
    if mask_HW.is_cuda:
        return _true_places(mask_HW.any(along))
    return np.flatnonzero(mask_HW.numpy().any(axis=along))  # ten times as fast as torch's


def _pieces(mask: CutOut, height: int) -> tuple[Ints, Ints]:
    inside = mask.mask_rc
    # Where a column begins or ends to be inside; all around the cut-out is outside.
    ends = torch.cat([inside[:1], inside[1:] ^ inside[:-1], inside[-1:]])
    places = _true_places(ends)
    row, column = np.divmod(places, max(inside.shape[1], 1))
    # Each column has as many begins as ends, so that by place they take turns.
    places = np.sort((column + mask.left) * height + row + mask.top)
    return places[::2], places[1::2]


def _true_places(values: Tensor) -> Ints:
    if values.is_cuda:
        return values.flatten().nonzero()[:, 0].cpu().numpy()
    return np.flatnonzero(values.numpy())
