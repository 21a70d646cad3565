"""Share of the bad masks that `review_priority` puts among the first 20 %.

The scenes are drawn, so their truth is known; the models are the embedded ones; the vocabulary of a
scene is its own labels and others, eight in all. A mask is bad if its IoU with the true mask of its
label is under 0.5. The order by priority, of masks and of images, is compared with the order by
mean probability. The formula was chosen on scenes of other seeds (985,000,000 and 986,000,000).

    python -m benchmarks.review_order [METHOD ...]
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from jobs.demo.scenes import Scene, all_phrases, draw_scene
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide_one
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.decision.review_priority import image_priority, mask_priority
from ovseg_core.methods import build_segmenter
from ovseg_core.rle.encode import decode_rle
from ovseg_core.segmenter import encode_images
from schemas.config import EMBEDDED, ClipConfig, MaskConfig, NamedOptions
from schemas.vocabulary import Vocabulary

SCENES, FIRST_SEED, NUM_LABELS = 500, 990_000_000, 8
SIZES_HW = ((128, 160), (160, 128), (120, 176), (176, 120))
FIRST_SHARE, BAD_IOU = 0.2, 0.5
METHODS: dict[str, dict[str, Any]] = {"clip_diy": {}, "maskclip": {"objectness": "found"}}
"""Methods with a background: without one most masks are bad, and no order can help."""

Scores = dict[str, Any]


@dataclass(frozen=True)
class ComparedMask:
    """A predicted mask, compared with the truth.

    Attributes:
        scores: its columns.
        scene: number of its image.
        is_bad: IoU with the truth under 0.5.
    """

    scores: Scores
    scene: int
    is_bad: bool


def compare_masks(
    method: str, num_scenes: int, first_seed: int = FIRST_SEED
) -> Iterator[ComparedMask]:
    """Yield every mask that a method predicts in the scenes."""
    part = NamedOptions(name=method, options=METHODS[method])
    segmenter = build_segmenter(part, Backbones(ClipConfig(model=EMBEDDED), EMBEDDED))
    for number in range(num_scenes):
        seed = first_seed + number
        size_hw = SIZES_HW[number // 2 % len(SIZES_HW)]
        scene = draw_scene(seed, size_hw, held_out=number % 2 == 1)
        labels = _labels(scene, seed)
        places = np.array([0, *(labels.index(label) + 1 for label in scene.labels)])
        truth = places[scene.label_map]
        with torch.inference_mode():
            features = encode_images(segmenter, [torch.from_numpy(scene.image).permute(2, 0, 1)])
            text = segmenter.text_matrix(Vocabulary.model_validate(labels))
            decision = decide_one(segmenter.score(features, text), 0, size_hw)
        for segment in image_rows(decision, size_hw, labels, MaskConfig()).segments:
            mask, true = decode_rle(segment.rle_counts, size_hw) > 0, truth == segment.category_id
            iou = (mask & true).sum() / (mask | true).sum()
            yield ComparedMask(vars(segment), number, bool(iou < BAD_IOU))


def _labels(scene: Scene, seed: int) -> list[str]:
    rng = np.random.default_rng([seed, 3])
    others = [phrase for phrase in all_phrases() if phrase not in scene.labels]
    extra = rng.choice(len(others), max(NUM_LABELS - len(scene.labels), 0), replace=False)
    return [str(label) for label in rng.permutation([*scene.labels, *(others[i] for i in extra)])]


def found_first(masks: list[ComparedMask]) -> dict[str, float]:
    """Return the share of bad masks among the first 20 % of masks and of images, by order."""
    images: dict[int, list[ComparedMask]] = {}
    for mask in masks:
        images.setdefault(mask.scene, []).append(mask)
    single = [[mask] for mask in masks]

    def doubt(group: list[ComparedMask]) -> float:
        return 1 - fmean(mask.scores["mean_prob"] for mask in group)

    return {
        "num_masks": len(masks),
        "bad_share": _round(sum(mask.is_bad for mask in masks) / len(masks)),
        "masks_by_priority": _share(single, lambda group: mask_priority(group[0].scores)),
        "masks_by_mean_prob": _share(single, doubt),
        "masks_at_best": _share(single, _num_bad),
        "images_by_priority": _share(
            list(images.values()), lambda group: image_priority([mask.scores for mask in group])
        ),
        "images_by_mean_prob": _share(list(images.values()), doubt),
        "images_at_best": _share(list(images.values()), _num_bad),
    }


def _num_bad(group: list[ComparedMask]) -> float:
    return sum(mask.is_bad for mask in group)


def _share(groups: list[list[ComparedMask]], key: Callable[[list[ComparedMask]], float]) -> float:
    """Return the share of bad masks in the first 20 % of the groups, the highest key first."""
    ordered = sorted(groups, key=key, reverse=True)
    first = ordered[: round(FIRST_SHARE * len(groups))]
    return _round(sum(map(_num_bad, first)) / sum(map(_num_bad, groups)))


def _round(value: float) -> float:
    return round(float(value), 3)


def main(methods: list[str]) -> dict[str, Any]:
    """Measure on 500 scenes."""
    torch.set_num_threads(2)
    found = {name: found_first(list(compare_masks(name, SCENES))) for name in methods or METHODS}
    return {"ratios": {}, "figures": {"bad_masks_in_the_first_fifth": found}}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
