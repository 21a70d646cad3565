"""The demo's collection: drawn scenes as PNG files, and their true masks as COCO has them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pycocotools import mask as coco_mask

from jobs.demo.scenes import Scene, all_phrases, draw_scene
from pipeline.exporters.shared.coco_records import CocoAnnotation, CocoDataset, CocoImage
from pipeline.run.images import SCENE_MARK

_SIZES_HW = ((128, 160), (160, 128), (128, 176), (144, 160))
"""None is square, so that a confusion of height and width shows."""
_SEED_STRIDE = 1_000_000
_MAX_OBJECTS = 3
"""More objects mean more phrases and a legend that is too long."""


@dataclass(frozen=True)
class Scenes:
    """The phrases and true masks of drawn scenes.

    Attributes:
        seen: phrases of visible objects whose colour-shape pair the embedded models were trained
            on.
        held_out: phrases of visible objects of other pairs.
        truth: the true masks, by phrase.
        shape_truth: the same masks by shape alone, for labels such as "star".
    """

    seen: tuple[str, ...]
    held_out: tuple[str, ...]
    truth: CocoDataset
    shape_truth: CocoDataset

    @property
    def labels(self) -> tuple[str, ...]:
        """All phrases: the vocabulary of the demo's job."""
        return self.seen + self.held_out


def draw_scenes(folder: Path, num_scenes: int, seed: int) -> Scenes:
    """Draw scenes, half of seen and half of held-out pairs, as `scene_000.png`, ...

    Args:
        folder: must exist; nothing but the images is written.
        num_scenes: 2 or more.
        seed: the same seed draws the same scenes.
    """
    drawn: dict[str, Scene] = {}
    for index in range(num_scenes):
        size_hw = _SIZES_HW[index % len(_SIZES_HW)]
        held_out = index >= num_scenes // 2
        drawn[f"scene_{index:03d}.png"] = draw_scene(
            _SEED_STRIDE * (seed + 1) + index, size_hw, 1 + index % _MAX_OBJECTS, held_out
        )
    present = {phrase for scene in drawn.values() for phrase in scene.labels}
    seen = tuple(phrase for phrase in all_phrases(held_out=False) if phrase in present)
    held_out = tuple(phrase for phrase in all_phrases(held_out=True) if phrase in present)
    mark = PngInfo()
    mark.add_text(SCENE_MARK, "drawn by ovseg demo")
    for name, scene in drawn.items():
        Image.fromarray(scene.image).save(folder / name, pnginfo=mark)
    truth = _truth(drawn, {phrase: phrase for phrase in seen + held_out})
    shape_of = {phrase: phrase.split()[-1] for phrase in seen + held_out}
    return Scenes(seen, held_out, truth, _truth(drawn, shape_of))


def _truth(drawn: dict[str, Scene], label_of: dict[str, str]) -> CocoDataset:
    """Return the true masks of scenes, one for each phrase, under the label of the phrase."""
    labels = tuple(dict.fromkeys(label_of.values()))
    images: list[CocoImage] = []
    annotations: list[CocoAnnotation] = []
    for image_id, (name, scene) in enumerate(drawn.items(), start=1):
        height, width = scene.label_map.shape
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for index, phrase in enumerate(scene.labels, start=1):
            annotation = _annotation(scene.label_map == index, labels.index(label_of[phrase]) + 1)
            annotations.append(
                {**annotation, "id": len(annotations) + 1, "image_id": image_id},
            )
    return {
        "info": {"description": "ovseg demo: drawn scenes with exact masks"},
        "licenses": [],
        "categories": [
            {"id": index, "name": phrase, "supercategory": ""}
            for index, phrase in enumerate(labels, start=1)
        ],
        "images": images,
        "annotations": annotations,
    }


def _annotation(mask: np.ndarray, category_id: int) -> CocoAnnotation:
    rle: Any = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "id": 0,
        "image_id": 0,
        "category_id": category_id,
        "segmentation": {"size": [*mask.shape], "counts": rle["counts"].decode("ascii")},
        "area": int(coco_mask.area(rle)),
        "bbox": [float(value) for value in coco_mask.toBbox(rle)],
        "iscrowd": 0,
    }
