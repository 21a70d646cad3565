"""The masks of some words on one image."""

import io
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg_core.decision.image_rows import ImageMasks
from ovseg_core.images.overlay import overlay
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.encode import decode_rle
from ovseg_core.rle.label_map import paint_label_map
from schemas.records import Annotation, MaskKind
from schemas.score_columns import SCORE, SCORE_COLUMNS

_NOTEBOOK_PX = 1024
"""Longest side of the image that a notebook shows."""
_SMALL_PX = 640
"""An image whose longer side is at most half of this is drawn at a multiple of its size."""


@dataclass(frozen=True)
class Segment:
    """The mask of one label in one image, of one of its connected components or of one object.

    Attributes:
        label: name of the label.
        kind: what the mask is; only instances may overlap.
        category_id: its number, from 1 in vocabulary order.
        score: mean probability of the label under the mask, 0 to 1.
        bbox_xywh: tight box of the mask: left, top, width, height in pixels.
        area_px: pixels in the mask.
        rle: the mask as COCO's compressed run lengths: `size` [height, width] and text `counts`.
        columns: all score columns by name; their meaning: `schemas.records.Annotation`.
    """

    label: str
    kind: MaskKind
    category_id: int
    score: float
    bbox_xywh: tuple[float, float, float, float]
    area_px: int
    rle: dict[str, Any] = field(repr=False)
    columns: dict[str, float] = field(repr=False)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask, (H, W)."""
        height, width = self.rle["size"]
        return decode_rle(self.rle["counts"], (height, width)).astype(bool)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The masks of some words on one image.

    Attributes:
        path: of the image; empty where it was not a file.
        labels: names in vocabulary order; label k has the number k + 1.
        size_hw: pixels of the image, in the frame that a person sees.
        image_masks: the rows of the image as a job stores them.
        pixels: uint8 (h, w, 3), perhaps reduced, on which `plot` draws.
    """

    path: str
    labels: tuple[str, ...]
    size_hw: SizeHW
    image_masks: ImageMasks
    pixels: NDArray[np.uint8]

    def __repr__(self) -> str:
        height, width = self.size_hw
        found = ", ".join(f"{one.label} {one.score:.2f}" for one in self.segments) or "no masks"
        return f"Prediction({self.path or 'image'}, {width} x {height}: {found})"

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """One for each mask, by label."""
        return tuple(map(_segment, self.image_masks.segments))

    @property
    def scores(self) -> dict[str, float]:
        """By label, found or not, its highest probability over the image."""
        return {row.label: row.max_prob for row in self.image_masks.label_scores}

    @property
    def review_priority(self) -> float:
        """1: a person should look at this image first; 0: last."""
        return self.image_masks.review_priority

    @cached_property
    def label_map(self) -> NDArray[np.uint16]:
        """(H, W): 0 is background, k the label `labels[k - 1]`; the highest score is on top."""
        numbers = [row.category_id for row in self.image_masks.segments]
        return np.array([0, *numbers], np.uint16)[self._places]

    @cached_property
    def _places(self) -> NDArray[np.uint32]:
        """(H, W): the place of each pixel's segment from 1; 0: none."""
        rows = self.image_masks.segments
        order = sorted(range(len(rows)), key=lambda k: (getattr(rows[k], SCORE), -rows[k].area_px))
        counts = [rows[k].rle_counts for k in order]
        return paint_label_map(counts, [k + 1 for k in order], self.size_hw, np.uint32)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(N, H, W), one for each segment in the order of `segments`."""
        masks = [segment.mask for segment in self.segments]
        return np.stack(masks) if masks else np.zeros((0, *self.size_hw), bool)

    def to_coco(self, image_id: int = 1) -> dict[str, Any]:
        """Return a COCO data set of this image, as `json.dump` takes it.

        Args:
            image_id: number of the image; those of its annotations count from 1.
        """
        height, width = self.size_hw
        thing = {"isthing": 1} if self._are_instances else {}
        return {
            "images": [{"id": image_id, "file_name": self.path, "width": width, "height": height}],
            "categories": [
                {"id": number, "name": name, "supercategory": "", **thing}
                for number, name in enumerate(self.labels, start=1)
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": image_id,
                    "category_id": segment.category_id,
                    "segmentation": segment.rle,
                    "area": segment.area_px,
                    "bbox": list(segment.bbox_xywh),
                    "iscrowd": 0,
                    "score": segment.score,
                }
                for number, segment in enumerate(self.segments, start=1)
            ],
        }

    def plot(self, max_side_px: int = 0) -> Image.Image:
        """Return the image with its masks, each with the name of its label.

        A small image is drawn larger, so that names can be read; names for which there is no room
        on their masks stand below the image.

        Args:
            max_side_px: longest side of the image in the picture; 0: that of the decoded image, of
                a small one a multiple of it.
        """
        height, width = self.pixels.shape[:2]
        longest = max(height, width)
        wanted = longest * max(1, _SMALL_PX // longest)
        if max_side_px:
            wanted = min(wanted, max_side_px)
        size = (max(1, width * wanted // longest), max(1, height * wanted // longest))
        scaled = Image.fromarray(self.pixels).resize(size, Image.Resampling.BILINEAR)
        outlined = self._places if self._are_instances else None
        return overlay(
            np.asarray(scaled), self.label_map, self.labels, write_names=True, segments=outlined
        )

    @property
    def _are_instances(self) -> bool:
        return any(row.kind == "instance" for row in self.image_masks.segments)

    def _repr_png_(self) -> bytes:
        """Return `plot` for a notebook."""
        png = io.BytesIO()
        self.plot(_NOTEBOOK_PX).save(png, "PNG")
        return png.getvalue()


def _segment(row: Annotation) -> Segment:
    return Segment(
        label=row.label,
        kind=row.kind,
        category_id=row.category_id,
        score=getattr(row, SCORE),
        bbox_xywh=row.bbox_xywh,
        area_px=row.area_px,
        rle={"size": [row.height, row.width], "counts": row.rle_counts},
        columns={name: getattr(row, name) for name in SCORE_COLUMNS},
    )
