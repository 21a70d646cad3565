"""Instances of an image of 100 megapixels: `python -m benchmarks.large_scene`.

A drawn scene is enlarged to 12,500 x 8,000 pixels, its objects a third of a tile or less, and
divided into tiles by the proposer; the embedded models, one word for everything that is drawn. An
object counts if its instance is found where no border is near: in a crop of one tile's size around
it, one instance of an IoU of 0.75 or more and none else. Of these, in the whole image,

- lost are those without an instance of that IoU: cut, or taken for background or a part;
- doubled are those with further instances that lie in them, or they in those.

Writes `large_scene_*` into `benchmarks/results/instances.json`.
"""

import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from benchmarks.instances import RESULTS, segmenter_of
from benchmarks.quality_rows import FOUND
from jobs.demo.scenes import Layout, draw_scene
from ovseg_core.decision.decide import decide_one
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.images.batch import to_tensor
from ovseg_core.rle.encode import coco_rle
from ovseg_core.segmenter import Segmenter, encode_images
from schemas.config import MaskConfig
from schemas.vocabulary import Vocabulary

SCALE = 8
DRAWN_HW = (1000, 1562)
TILE_PX = 2000
NUM_OBJECTS = 60
LAYOUT = Layout(radii=(0.02, 0.042), min_visible=1.0, attempts=300)
MIN_IOU, MIN_INSIDE = 0.75, 0.5


def found(segmenter: Segmenter[Any], image: NDArray[np.uint8]) -> list[Any]:
    """Return the instances of an image as pycocotools takes them."""
    text = segmenter.text_matrix(Vocabulary.model_validate(["shape"]))
    maps = segmenter.score(encode_images(segmenter, [to_tensor(image)]), text)
    size_hw = image.shape[0], image.shape[1]
    masks = MaskConfig(segments="instances")
    rows = image_rows(decide_one(maps, 0, size_hw), size_hw, ["shape"], masks).segments
    return [coco_rle(row.rle_counts, size_hw) for row in rows]


def of_object(mask: NDArray[np.bool_], instances: Sequence[Any]) -> tuple[bool, int]:
    """Return whether an instance is the object, and how many are a part of it or hold it."""
    if not instances:
        return False, 0
    true = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    ious = np.array(coco_mask.iou(list(instances), [true], [0]))[:, 0]
    inside = np.array(coco_mask.iou(list(instances), [true], [1]))[:, 0]
    holds = np.array(coco_mask.iou([true], list(instances), [1] * len(instances)))[0]
    near = (inside > MIN_INSIDE) | (holds > MIN_INSIDE)
    return bool(ious.max() >= MIN_IOU), int(near.sum())


def crop_around(place: NDArray[np.bool_], size_hw: Sequence[int]) -> tuple[slice, slice]:
    """Return the tile-sized part of an image that has an object in its middle, or near it."""
    middles = [round(float(np.flatnonzero(place.any(1 - axis)).mean())) for axis in (0, 1)]
    starts = [
        min(max(middle * SCALE - TILE_PX // 2, 0), size - TILE_PX)
        for middle, size in zip(middles, size_hw, strict=True)
    ]
    return slice(starts[0], starts[0] + TILE_PX), slice(starts[1], starts[1] + TILE_PX)


def main() -> dict[str, float]:
    """Measure, and return the figures."""
    scene = draw_scene(5, DRAWN_HW, NUM_OBJECTS, layout=LAYOUT)
    size_hw = (DRAWN_HW[0] * SCALE, DRAWN_HW[1] * SCALE)
    image = cv2.resize(scene.image, size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    proposals = {"name": "sam", "options": {"tile_px": TILE_PX}}
    options = {**FOUND, "short_side_px": 480, "proposals": proposals, "region_vote": False}
    segmenter = segmenter_of(options, MaskConfig(segments="instances"))
    instances = found(segmenter, image)
    counted = lost = doubled = 0
    for number in filter(None, np.unique(scene.instances)):
        place = scene.instances == number
        mask = np.kron(place, np.ones((SCALE, SCALE), bool))
        part = crop_around(place, size_hw)
        alone, near_alone = of_object(
            mask[part], found(segmenter, np.ascontiguousarray(image[part]))
        )
        if not alone or near_alone > 1:
            continue
        whole, near = of_object(mask, instances)
        counted, lost, doubled = counted + 1, lost + (not whole), doubled + (near > 1)
    return {
        "large_scene_objects": counted,
        "large_scene_lost": lost,
        "large_scene_doubled": doubled,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(main())
    raise SystemExit
    results = json.loads(RESULTS.read_text(encoding="utf-8")) | main()
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
