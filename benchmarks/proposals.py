"""Proposals of SAM for a batch, against `pipeline("mask-generation")` of transformers.

    python -m benchmarks.proposals

Both have the embedded SAM, the same grid of points, thresholds and NMS, on drawn scenes of a
photograph's size, on the CPU. The pipeline enlarges every mask to the image before it drops most of
them; ours are enlarged when they are used. Seconds are those of the process, not of the clock, so
that other work on the machine counts less.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from benchmarks.photographs import photograph
from ovseg_core.backbones.registry import Backbones
from ovseg_core.embedded import SAM_FOLDER
from ovseg_core.images.batch import to_tensor
from ovseg_core.proposals import build_proposer
from schemas.config import EMBEDDED, ClipConfig, NamedOptions

SIZES_HW = ((480, 640), (640, 480))
POINTS_PER_SIDE = 16
MIN_IOU, MIN_STABILITY, MAX_BOX_IOU = 0.8, 0.92, 0.7


def batched_over_pipeline(num_images: int = 4) -> float:
    """Return how many times as many images a second the proposer takes as the pipeline."""
    images = [photograph(seed, SIZES_HW[seed % 2]) for seed in range(num_images)]
    options = {
        "weights": EMBEDDED,
        "points_per_side": POINTS_PER_SIDE,
        "min_predicted_iou": MIN_IOU,
        "min_stability": MIN_STABILITY,
        "max_box_iou": MAX_BOX_IOU,
    }
    proposer = build_proposer(
        NamedOptions(name="sam", options=options),
        Backbones(ClipConfig(model=EMBEDDED), EMBEDDED),
    )
    assert proposer is not None
    batch = [to_tensor(image) for image in images]
    proposer.proposals(batch[:1])
    ours_s = _seconds(lambda: proposer.proposals(batch))
    pipeline, settings = _pipeline()
    theirs_s = _seconds(lambda: [pipeline(Image.fromarray(image), **settings) for image in images])
    return theirs_s / ours_s


def _pipeline() -> tuple[Any, dict[str, Any]]:
    from transformers import SamImageProcessor, SamModel, pipeline

    made = pipeline(
        "mask-generation",
        model=SamModel.from_pretrained(SAM_FOLDER),
        image_processor=SamImageProcessor.from_pretrained(SAM_FOLDER),
        device="cpu",
    )
    settings = {
        "points_per_crop": POINTS_PER_SIDE,
        "pred_iou_thresh": MIN_IOU,
        "stability_score_thresh": MIN_STABILITY,
        "crops_nms_thresh": MAX_BOX_IOU,
        "points_per_batch": 64,
    }
    return made, settings


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"proposals_batched_over_pipeline": round(batched_over_pipeline(), 2)}))
