"""Masks as outlines, for formats that hold polygons only.

An outline has one contour for each connected component (8-neighbourhood); it cannot have holes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pydantic import Field

from pipeline.exporters.shared.loss_report import LossReport
from pipeline.exporters.shared.segments import Crop
from pipeline.run.reader import Row

Contour = NDArray[np.floating[Any]]
"""(N, 2) corners x, y in pixels; closed."""
Tolerance = Annotated[float, Field(ge=0, le=10_000)]
"""Greatest distance in pixels between an outline and the edge of its mask."""


@dataclass(frozen=True)
class Simplification:
    """How many corners outlines have.

    Attributes:
        tolerance_px: a corner may be left out that is nearer than this to the remaining line.
        min_iou: an outline whose IoU with its mask (without holes) would be lower gets more
            corners.
    """

    tolerance_px: float
    min_iou: float


@dataclass(frozen=True)
class Outline:
    """The outer contours of one mask, and how many holes they fill."""

    contours: list[Contour]
    num_holes: int


@dataclass(frozen=True)
class CocoPolygons:
    """A mask as COCO's polygons, with what pycocotools makes of them.

    Attributes:
        corners: x, y, x, y, ... of each connected component.
        area_px: of the polygons.
        bbox_xywh: of the polygons.
        iou: of the polygons with the mask.
    """

    corners: list[list[float]]
    area_px: int
    bbox_xywh: list[float]
    iou: float


def coco_polygons(
    row: Row, crop: Crop, simplification: Simplification, losses: LossReport
) -> CocoPolygons:
    """Return polygons for COCO along the edges of pixels.

    Args:
        row: of `annotations`.
        crop: its mask.
        simplification: how many corners the polygons have.
        losses: counts the IoU, and masks whose holes are filled.
    """
    exact, left_top = trace(crop.mask, "edges"), (crop.left, crop.top)
    polygons = _simplest(exact, simplification, lambda outline: _draw_coco(row, outline, left_top))
    losses.count_lost("masks with holes filled", int(exact.num_holes > 0))
    losses.count_outline(polygons.iou)
    return polygons


def opencv_contours(
    crop: Crop, simplification: Simplification, losses: LossReport, min_area_px: int = 0
) -> list[Contour]:
    """Return contours through pixel centres, for readers that fill them with `cv2.fillPoly`.

    Args:
        crop: the mask.
        simplification: how many corners the contours have.
        losses: counts the IoU, masks whose holes are filled, and components left out.
        min_area_px: components with fewer pixels, holes included, are left out.
    """
    traced = trace(crop.mask, "centres")
    kept = [contour for contour in traced.contours if _num_pixels(contour) >= min_area_px]
    if len(kept) < len(traced.contours):
        losses.count_lost("regions left out by size", len(traced.contours) - len(kept))
    if not kept:
        return []
    exact = Outline(kept, traced.num_holes)
    drawn = _simplest(exact, simplification, lambda outline: _draw_opencv(outline, crop.mask))
    losses.count_lost("masks with holes filled", int(exact.num_holes > 0))
    losses.count_outline(drawn.iou)
    return [contour + (crop.left, crop.top) for contour in drawn.contours]  # noqa: RUF005 - arrays


def trace(mask: NDArray[np.uint8], along: Literal["edges", "centres"]) -> Outline:
    """Return the exact outline of a mask.

    Args:
        mask: (H, W) of 0 and 1.
        along: `edges` follows the edges of pixels, where pixel i spans i to i + 1, as pycocotools
            fills polygons; `centres` goes through the centres of the outermost pixels, where pixel
            i is at i, as `cv2.fillPoly` does.
    """
    canvas = _draw_corners(mask) if along == "edges" else mask
    contours, tree = cv2.findContours(canvas, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    scale = 0.5 if along == "edges" else 1.0
    outer = [
        contour[:, 0] * scale
        for contour, node in zip(contours, tree[0], strict=True)
        if node[3] < 0  # no parent: not a hole
    ]
    # OpenCV starts at the bottom.
    return Outline(outer[::-1], len(contours) - len(outer))


def _draw_corners(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the mask on the grid of pixel corners at double size, where edges are lines of points.

    Pixel (r, c) covers points 2r to 2r + 2 and 2c to 2c + 2, so a gap of one pixel remains a gap
    of one point, and the contour through the outermost points is the edge itself.
    """
    height, width = mask.shape
    canvas = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    canvas[1::2, 1::2] = mask
    cv2.dilate(canvas, np.ones((3, 3), np.uint8), dst=canvas)
    return canvas


class _HasIou(Protocol):
    @property
    def iou(self) -> float: ...


_Drawing = TypeVar("_Drawing", bound=_HasIou)


def _simplest(
    exact: Outline, simplification: Simplification, draw: Callable[[Outline], _Drawing]
) -> _Drawing:
    """Return the drawing of the simplest outline whose IoU is high enough."""
    tolerance_px, min_iou = simplification.tolerance_px, simplification.min_iou
    simple = draw(_simplify(exact, tolerance_px))
    if simple.iou >= min_iou:
        return simple
    best = draw(exact)  # holes are lost in any case
    if simple.iou >= min_iou * best.iou:
        return simple
    closer = draw(_simplify(exact, tolerance_px / 2))
    return closer if closer.iou >= min_iou * best.iou else best


def _simplify(outline: Outline, tolerance_px: float) -> Outline:
    """Leave out corners; contours that would lose their area stay as they are."""
    contours = []
    for contour in outline.contours:
        corners = contour.astype(np.float32)[:, None]
        simple = cv2.approxPolyDP(corners, tolerance_px, closed=True)[:, 0]
        contours.append(simple.astype(np.float64) if len(simple) >= 3 else contour)
    return Outline(contours, outline.num_holes)


def _draw_coco(row: Row, outline: Outline, left_top: tuple[int, int]) -> CocoPolygons:
    height, width = row["height"], row["width"]
    corners: Any = [(contour + left_top).ravel().tolist() for contour in outline.contours]
    drawn: Any = coco_mask.merge(coco_mask.frPyObjects(corners, height, width))
    mask: Any = {"size": [height, width], "counts": row["rle_counts"].encode("ascii")}
    return CocoPolygons(
        corners=corners,
        area_px=int(coco_mask.area(drawn)),
        bbox_xywh=[float(value) for value in coco_mask.toBbox(drawn)],
        iou=float(np.asarray(coco_mask.iou([drawn], [mask], [False]))[0, 0]),
    )


@dataclass(frozen=True)
class _DrawnContours:
    contours: list[Contour]
    iou: float


def _draw_opencv(outline: Outline, mask: NDArray[np.uint8]) -> _DrawnContours:
    drawn = np.zeros_like(mask)
    for contour in outline.contours:
        cv2.fillPoly(drawn, [contour.astype(np.int32)], (1,))
    iou = np.count_nonzero(drawn & mask) / np.count_nonzero(drawn | mask)
    return _DrawnContours(outline.contours, iou)


def _num_pixels(contour: Contour) -> float:
    """Count the pixels on and inside an exact contour through pixel centres (Pick's theorem)."""
    steps = np.abs(contour - np.roll(contour, 1, axis=0)).max(axis=1).sum()
    return cv2.contourArea(contour.astype(np.float32)) + steps / 2 + 1
