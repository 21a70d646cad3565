"""Label map -> run lengths, area and box of every label: one scan against the usual way.

The usual way is `pycocotools.mask.encode(np.asfortranarray(full == label))` for each label, with
`area` and `toBbox`. Both start from the same canvas and end at the image's size.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.images.resize.nearest import to_size
from ovseg_core.rle.encode import encode_rle

NUM_LABELS = 10
REPEATS = 5
SIZES = {"vga": (480, 640), "12mp": (3000, 4000)}
CANVAS = (256, 256)
"""CLIP-DIY's; the other case is a canvas of the image's own size."""


def smooth_map(size_hw: tuple[int, int]) -> NDArray[np.uint16]:
    """Return the argmax of enlarged noise: what a segmenter gives."""
    coarse = np.random.default_rng(0).random((NUM_LABELS + 1, 14, 18), dtype=np.float32)
    best, labels = np.full(size_hw, -np.inf, np.float32), np.zeros(size_hw, np.uint16)
    for label, plane in enumerate(coarse):
        wide = cv2.resize(plane, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
        labels[wide > best] = label
        best = np.maximum(best, wide)
    return labels


def usual_way(canvas: NDArray[np.uint16], size_hw: tuple[int, int]) -> dict[int, Any]:
    """Encode label by label at full size."""
    full = to_size(canvas, size_hw)
    found = {}
    for label in np.unique(full).tolist():
        if label:
            rle = coco_mask.encode(np.asfortranarray((full == label).astype(np.uint8)))
            box = tuple(coco_mask.toBbox(rle).tolist())
            found[label] = (rle["counts"].decode(), int(coco_mask.area(rle)), box)
    return found


def one_scan(canvas: NDArray[np.uint16], size_hw: tuple[int, int]) -> dict[int, Any]:
    """Encode as the product does."""
    rles = encode_rle(canvas, size_hw)
    return {label: (rle.counts, rle.area_px, rle.bbox_xywh) for label, rle in rles.items()}


def cpu_ms(work: Callable[..., Any], *arguments: Any) -> float:
    """Return the least CPU milliseconds of a few repeats."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work(*arguments)
        times.append(time.process_time() - start)
    return min(times) * 1e3


def main() -> dict[str, Any]:
    """Time both ways, after a look that they agree."""
    ratios, figures = {}, {}
    for name, size_hw in SIZES.items():
        for kind, canvas_hw in (("canvas256", CANVAS), ("own_size", size_hw)):
            canvas = smooth_map(canvas_hw)
            if one_scan(canvas, size_hw) != usual_way(canvas, size_hw):
                raise RuntimeError(f"the two encoders differ on {name}, {kind}")
            ours, usual = (cpu_ms(work, canvas, size_hw) for work in (one_scan, usual_way))
            ratios[f"encode_{name}_{kind}_over_usual"] = round(ours / usual, 3)
            figures[f"{name}_{kind}"] = {"ms": round(ours, 1), "usual_ms": round(usual, 1)}
    return {"ratios": ratios, "figures": {"encode_10_labels": figures}}


if __name__ == "__main__":
    print(json.dumps(main()))
