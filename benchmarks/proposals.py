"""What proposals cost: `python -m benchmarks.proposals`.

Proposals of SAM for a batch, against `pipeline("mask-generation")` of transformers: both have the
embedded SAM, the same grid of points, thresholds and NMS, on drawn scenes of a photograph's size,
on the CPU. The pipeline enlarges every mask to the image before it drops most of them; ours are
enlarged when they are used.

A vote in stored proposals, against the method alone: SCLIP of the published size with random
weights, whole path; the proposals are index maps of Felzenszwalb's regions.

Seconds are those of the process, not of the clock, so that other work on the machine counts less.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage.segmentation import felzenszwalb

from benchmarks.photographs import photograph
from benchmarks.proxyclip import random_vit_b16
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.embedded import SAM_FOLDER
from ovseg_core.images.batch import ImageBatch, to_tensor
from ovseg_core.methods import build_segmenter
from ovseg_core.proposals import build_proposer
from ovseg_core.segmenter import encode_images
from schemas.config import EMBEDDED, ClipConfig, NamedOptions
from schemas.vocabulary import Vocabulary

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


def vote_over_no_vote(num_images: int = 2) -> float:
    """Return how many times as long SCLIP takes with a vote in stored proposals."""
    drawn = [photograph(seed, SIZES_HW[seed % 2]) for seed in range(num_images)]
    batch = ImageBatch(tuple(map(to_tensor, drawn)), tuple(f"{it}.jpg" for it in range(num_images)))
    sizes_hw = [image.shape[:2] for image in drawn]
    with tempfile.TemporaryDirectory() as name:
        backbones = random_vit_b16(Path(name))
        for number, image in enumerate(drawn):
            regions = felzenszwalb(image, scale=200, min_size=400) + 1
            Image.fromarray(regions.astype(np.uint16)).save(Path(name) / f"{number}.png")

        def seconds(options: dict[str, Any]) -> float:
            part = NamedOptions(name="sclip", options=options)
            segmenter = build_segmenter(part, backbones)
            text = segmenter.text_matrix(Vocabulary.model_validate(["cat", "dog", "sofa", "wall"]))

            def whole() -> None:
                decide(segmenter.score(encode_images(segmenter, batch), text), sizes_hw)

            return min(_seconds(whole) for _ in range(2))

        stored = {"proposals": {"name": "folder", "options": {"folder": name}}}
        return seconds(stored) / seconds({})


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
    print(
        json.dumps(
            {
                "proposals_batched_over_pipeline": round(batched_over_pipeline(), 2),
                "vote_over_no_vote": round(vote_over_no_vote(), 3),
            }
        )
    )
