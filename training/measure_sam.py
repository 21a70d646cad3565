"""Measure the embedded SAM on scenes that were not trained on, each object by its exact mask.

Shapes: N prompts, R = 3 masks for a prompt, M side of the network's masks, O objects of a scene,
H W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SamImageProcessor, SamModel

from jobs.demo.scenes import draw_objects
from training.data import MAX_OBJECTS, SCENE_HW
from training.train_sam import boxes_of, coarse_masks

SEED = 910_000_000
"""Far from all training seeds and from those that the other models are measured with."""
GRID = 16
"""Points a side of the grid."""
_MIN_AREA_PX = 12
_LIKELY = 0.4
"""Masks of a higher predicted IoU are taken, as the proposer does with a small network."""


class Prompts:
    """One encoded scene, to be asked for masks.

    Args:
        sam: the network.
        processor: its image processor.
        image: (H, W, 3) uint8.
    """

    def __init__(self, sam: SamModel, processor: SamImageProcessor, image: np.ndarray) -> None:
        read = processor(images=image, return_tensors="pt")
        self._sam = sam
        self._size_hw = image.shape[:2]
        self._input_hw = tuple(read["reshaped_input_sizes"][0].tolist())
        self.scale = self._input_hw[1] / self._size_hw[1]
        self._embedding = sam.get_image_embeddings(read["pixel_values"])

    def masks(self, multimask: bool, **prompts: Any) -> tuple[Tensor, Tensor]:
        """Return masks at the scene's size (N, R, H, W), bool, and their predicted IoU (N, R)."""
        found = self._sam(image_embeddings=self._embedding, multimask_output=multimask, **prompts)
        return self.enlarge(found.pred_masks[0]), found.iou_scores[0]

    def enlarge(self, logits: Tensor) -> Tensor:
        """Return masks (N, R, M, M) at the scene's size, bool (N, R, H, W)."""
        side = self._sam.config.prompt_encoder_config.image_size
        square = F.interpolate(logits, (side, side), mode="bilinear")
        height, width = self._input_hw
        masks = square[..., :height, :width]
        if self._input_hw != self._size_hw:
            masks = F.interpolate(masks, self._size_hw, mode="bilinear")
        return masks > 0


def ious(masks: Tensor, objects: Tensor) -> Tensor:
    """Return the IoU (N, O) of masks (N, H, W) and objects (O, H, W), bool."""
    first, second = masks.flatten(1).float(), objects.flatten(1).float()
    both = first @ second.T
    return both / (first.sum(1)[:, None] + second.sum(1) - both).clamp(min=1)


def scene_figures(prompts: Prompts, instances: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """Return what is averaged: values of each object, and of each mask of the grid.

    Args:
        prompts: the encoded scene.
        instances: (H, W) integers, 0 is background, k object k.
        rng: for the coarse masks.
    """
    height, width = instances.shape
    areas = torch.bincount(instances.flatten().long(), minlength=MAX_OBJECTS + 1)
    numbers = [k for k in range(1, len(areas)) if areas[k] >= _MIN_AREA_PX]
    objects = torch.stack([instances == k for k in numbers])
    place = (torch.arange(GRID) + 0.5) / GRID
    y, x = torch.meshgrid(place * height, place * width, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], dim=1)
    masks, predicted = prompts.masks(
        True,
        input_points=(points * prompts.scale)[None, :, None],
        input_labels=torch.ones(1, len(points), 1, dtype=torch.long),
    )
    at_point = instances[y.flatten().long(), x.flatten().long()]
    things = torch.stack([instances == k for k in range(MAX_OBJECTS + 1)])
    by_thing = ious(masks.flatten(0, 1), things)
    by_object = by_thing[:, numbers]
    true = by_thing.view(*predicted.shape, -1)
    true = true.gather(2, at_point.long()[:, None, None].expand(*predicted.shape, 1))[..., 0]
    is_likely = predicted.flatten() > _LIKELY
    likely = by_object[is_likely].amax(0) if is_likely.any() else torch.zeros(len(objects))

    squares = _on_square(objects, prompts.scale)
    none = torch.Generator().manual_seed(0)
    boxes = boxes_of(squares[None], none, jitter_px=0)
    by_box, _ = prompts.masks(False, input_boxes=boxes)
    targets = F.avg_pool2d(squares.float(), 2)
    coarse = torch.cat([coarse_masks(one[None, None], rng) for one in targets])
    refined = torch.cat(
        [
            prompts.masks(False, input_boxes=boxes[:, i : i + 1], input_masks=coarse[i : i + 1])[0]
            for i in range(len(objects))
        ]
    )
    return {
        "best": by_object.amax(0),
        "best_likely": likely,
        "predicted": predicted.flatten(),
        "true": true.flatten(),
        "box": ious(by_box[:, 0], objects).diagonal(),
        "coarse": ious(prompts.enlarge(coarse)[:, 0], objects).diagonal(),
        "refined": ious(refined[:, 0], objects).diagonal(),
        "ceiling": ious(prompts.enlarge(targets[:, None] - 0.5)[:, 0], objects).diagonal(),
    }


def _on_square(objects: Tensor, scale: float) -> Tensor:
    """Return masks (O, H, W) on the network's input (O, S, S), as its processor places images."""
    side = round(max(objects.shape[1:]) * scale)
    height, width = (round(length * scale) for length in objects.shape[1:])
    resized = F.interpolate(objects[:, None].float(), (height, width), mode="nearest")[:, 0]
    return F.pad(resized, (0, side - width, 0, side - height)) > 0.5


def sam_figures(folder: Path, count: int) -> dict[str, float]:
    """Return the figures of the SAM in a folder on `count` scenes per split."""
    sam = SamModel.from_pretrained(folder).eval()
    processor = SamImageProcessor.from_pretrained(folder)
    figures: dict[str, float] = {}
    for split, held_out in (("seen", False), ("held_out", True)):
        for name, value in split_figures(sam, processor, count, held_out).items():
            figures[f"sam_{name}_{split}"] = value
    return figures


@torch.inference_mode()
def split_figures(
    sam: SamModel, processor: SamImageProcessor, count: int, held_out: bool
) -> dict[str, float]:
    """Return the figures on `count` scenes of the colours and shapes of one split."""
    parts: list[dict[str, Tensor]] = []
    for i in range(count):
        rng = np.random.default_rng([SEED + i, held_out])
        num_objects = int(rng.integers(1, MAX_OBJECTS + 1))
        image, instances, _ = draw_objects(rng, SCENE_HW, num_objects, held_out)
        noise = torch.Generator().manual_seed(SEED + i)
        prompts = Prompts(sam, processor, image)
        parts.append(scene_figures(prompts, torch.from_numpy(instances), noise))
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    named = {f"recall_{cut}": (values["best"] >= cut / 100).float().mean() for cut in (50, 75, 90)}
    for cut in (50, 75):
        named[f"recall_{cut}_likely"] = (values["best_likely"] >= cut / 100).float().mean()
    for name in ("best", "box", "coarse", "refined", "ceiling"):
        named[f"iou_{name}"] = values[name].mean()
    pair = torch.stack([values["predicted"], values["true"]])
    named["iou_correlation"] = torch.corrcoef(pair)[0, 1]
    named["iou_of_likely"] = values["true"][values["predicted"] > _LIKELY].mean()
    return {name: float(value) for name, value in named.items()}
