"""Masks -> outlines, for formats that know polygons only.

An outline has one ring for each connected region (8-neighbourhood); holes have no place in it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pydantic import Field

from pipeline.exporters.shared.losses import LossReport
from pipeline.exporters.shared.segments import Crop
from pipeline.run.reader import Row

Ring = NDArray[np.floating[Any]]
"""(N, 2) corners x, y in pixels."""
Tolerance = Annotated[float, Field(ge=0, le=10_000)]
"""Pixels that an outline may be from the rim of its mask."""
Along = Literal["edges", "centres"]


@dataclass(frozen=True)
class Outline:
    """The outer rings of one mask."""

    rings: list[Ring]
    num_holes: int


def trace(mask: NDArray[np.uint8], along: Along) -> Outline:
    """Return the exact outline of a mask.

    Args:
        mask: (H, W) of 0 and 1.
        along: `edges` follows the edges of pixels (pixel i spans i to i + 1; fits readers such as
            pycocotools); `centres` runs through the centres of the rim's pixels, with pixel i at
            i (fits readers that draw with `cv2.fillPoly`).
    """
    drawn = _corners_drawn(mask) if along == "edges" else mask
    contours, tree = cv2.findContours(drawn, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    scale = 0.5 if along == "edges" else 1.0
    outer = [
        ring[:, 0] * scale for ring, node in zip(contours, tree[0], strict=True) if node[3] < 0
    ]
    # OpenCV starts at the bottom.
    return Outline(outer[::-1], len(contours) - len(outer))


def simplify(outline: Outline, tolerance_px: float) -> Outline:
    """Return the outline with fewer corners.

    Args:
        outline: an exact one.
        tolerance_px: a corner may be left out that lies nearer to the remaining line. Rings that
            would lose their area stay as they are.
    """
    return Outline([_simple(ring, tolerance_px) for ring in outline.rings], outline.num_holes)


def _simple(ring: Ring, tolerance_px: float) -> Ring:
    simple = cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance_px, closed=True)[:, 0]
    return simple.astype(np.float64) if len(simple) >= 3 else ring


def _corners_drawn(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the mask on the grid of pixel corners at double size, where edges are lines of points.

    Pixel (r, c) covers points 2r to 2r + 2 and 2c to 2c + 2, so a gap of one pixel remains a gap
    of one point, and the contour through the rim's points is the edge itself.
    """
    height, width = mask.shape
    drawn = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    drawn[1::2, 1::2] = mask
    cv2.dilate(drawn, np.ones((3, 3), np.uint8), dst=drawn)
    return drawn


@dataclass(frozen=True)
class Polygons:
    """A mask as COCO's polygons, and what pycocotools makes of them."""

    corners: list[list[float]]
    """x, y, x, y, ... of each connected region."""
    area_px: int
    bbox_xywh: list[float]
    iou: float
    """With the mask."""


@dataclass(frozen=True)
class Fit:
    """How closely outlines follow their masks."""

    tolerance_px: float
    """A corner may be left out that lies nearer to the remaining line."""
    min_iou: float
    """Outlines that agree less with the mask without its holes get more corners again."""


def coco_polygons(row: Row, crop: Crop, fit: Fit, losses: LossReport) -> Polygons:
    """Draw a row of the annotations table as polygons."""
    exact, left_top = trace(crop.mask, "edges"), (crop.left, crop.top)
    polygons = _closer(exact, fit, lambda outline: _polygons(row, outline, left_top))
    losses.lost("masks with holes filled", int(exact.num_holes > 0))
    losses.outline(polygons.iou)
    return polygons


class _HasIou(Protocol):
    @property
    def iou(self) -> float: ...


_Drawing = TypeVar("_Drawing", bound=_HasIou)


def _closer(exact: Outline, fit: Fit, draw: Callable[[Outline], _Drawing]) -> _Drawing:
    """Return the drawing of the simplest outline that is good enough."""
    first = draw(simplify(exact, fit.tolerance_px))
    if first.iou >= fit.min_iou:
        return first
    best = draw(exact)  # holes are lost in any case
    if first.iou >= fit.min_iou * best.iou:
        return first
    half = draw(simplify(exact, fit.tolerance_px / 2))
    return half if half.iou >= fit.min_iou * best.iou else best


@dataclass(frozen=True)
class _Rings:
    rings: list[Ring]
    iou: float


def drawn_rings(crop: Crop, fit: Fit, losses: LossReport, min_area_px: int = 0) -> list[Ring]:
    """Return rings through pixel centres; they agree with the mask as `cv2.fillPoly` draws them.

    Regions of fewer pixels, with their holes, are left out.
    """
    whole = trace(crop.mask, "centres")
    kept = [ring for ring in whole.rings if _num_pixels(ring) >= min_area_px]
    if len(kept) < len(whole.rings):
        losses.lost("regions left out by size", len(whole.rings) - len(kept))
    if not kept:
        return []
    exact = Outline(kept, whole.num_holes)
    found = _closer(exact, fit, lambda drawn: _Rings(drawn.rings, _drawn_iou(drawn, crop.mask)))
    losses.lost("masks with holes filled", int(exact.num_holes > 0))
    losses.outline(found.iou)
    return [ring + (crop.left, crop.top) for ring in found.rings]  # noqa: RUF005 - an array


def _num_pixels(ring: Ring) -> float:
    """Count the pixels of an exact ring through centres, rim and inside (Pick's theorem)."""
    steps = np.abs(ring - np.roll(ring, 1, axis=0)).max(axis=1).sum()
    return cv2.contourArea(ring.astype(np.float32)) + steps / 2 + 1


def _drawn_iou(outline: Outline, mask: NDArray[np.uint8]) -> float:
    drawn = np.zeros_like(mask)
    for ring in outline.rings:
        cv2.fillPoly(drawn, [ring.astype(np.int32)], (1,))
    return np.count_nonzero(drawn & mask) / np.count_nonzero(drawn | mask)


def _polygons(row: Row, outline: Outline, left_top: tuple[int, int]) -> Polygons:
    height, width = row["height"], row["width"]
    corners: Any = [(ring + left_top).ravel().tolist() for ring in outline.rings]
    drawn: Any = coco_mask.merge(coco_mask.frPyObjects(corners, height, width))
    mask: Any = {"size": [height, width], "counts": row["rle_counts"].encode("ascii")}
    return Polygons(
        corners=corners,
        area_px=int(coco_mask.area(drawn)),
        bbox_xywh=[float(value) for value in coco_mask.toBbox(drawn)],
        iou=float(np.asarray(coco_mask.iou([drawn], [mask], [False]))[0, 0]),
    )
