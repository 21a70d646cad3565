"""CLIP-DIY in batches against the authors' order of work: one PIL crop at a time.

Both sides use the same networks, the same objectness and torch's default threads. The plain side
cuts, resizes, normalises and embeds each of the 59 crops by itself.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from jobs.demo.scenes import draw_scene
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.methods import clip_diy
from ovseg_core.segmenter import TextMatrix, encode_images
from schemas.config import ClipConfig, NamedOptions
from schemas.vocabulary import Vocabulary

SIZE_HW = (128, 160)
VOCABULARY = Vocabulary.model_validate(["red star", "blue circle", "green house", "yellow fish"])
SCALES = (256, 128, 64)
ROUNDS = 3


def plain(segmenter: clip_diy.ClipDiy, image: np.ndarray, text: TextMatrix) -> np.ndarray:
    """Return the label map (256, 256) of one image (H, W, 3), crop by crop."""
    clip, squashed = segmenter._clip, cv2.resize(image, (256, 256), interpolation=cv2.INTER_LINEAR)
    levels = []
    for side in SCALES:
        starts = range(0, 256 - side + 1, max(1, side // 2))
        cosines = [
            _plain_crop(clip, squashed[y : y + side, x : x + side], text)
            for y in starts
            for x in starts
        ]
        grid = torch.stack(cosines, dim=1).unflatten(1, (len(starts), len(starts)))
        levels.append(F.interpolate(grid[None], (256, 256), mode="bilinear")[0])
    scores = torch.stack(levels).mean(0)
    pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    theta = segmenter._objectness.maps([pixels])
    if theta is not None:
        theta = F.interpolate(theta[0][None, None], (256, 256), mode="bilinear")[0]
        scores = torch.cat([scores[:1] * (1 - theta), scores[1:] * theta])
    return scores.softmax(0).argmax(0).numpy()


def _plain_crop(clip: Any, crop: np.ndarray, text: TextMatrix) -> Tensor:
    resized = Image.fromarray(crop).resize((clip.input_px, clip.input_px), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(resized)).permute(2, 0, 1)[None]
    embedding = clip.model.encode_image(clip.normalise(pixels), normalize=True)
    return (embedding @ text.rows_QD.T)[0]


def batched(segmenter: clip_diy.ClipDiy, images: Sequence[Tensor], text: TextMatrix) -> None:
    """Run the product's path to label maps."""
    decide(segmenter.score(encode_images(segmenter, images), text), [SIZE_HW] * len(images))


def images_per_s(work: Callable[[], object], num_images: int) -> float:
    """Return the best of a few rounds, after one for warming up."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return num_images / min(seconds)


def compare(segmenter: clip_diy.ClipDiy, num_plain: int, num_batched: int) -> tuple[float, float]:
    """Return images/s of the batched and of the plain way."""
    arrays = [draw_scene(seed, SIZE_HW).image for seed in range(num_batched)]
    images = [torch.from_numpy(array).permute(2, 0, 1).contiguous() for array in arrays]
    text = segmenter.text_matrix(VOCABULARY)
    with torch.inference_mode():
        slow = images_per_s(
            lambda: [plain(segmenter, a, text) for a in arrays[:num_plain]], num_plain
        )
        fast = images_per_s(lambda: batched(segmenter, images, text), num_batched)
    return fast, slow


def embedded() -> clip_diy.ClipDiy:
    """Return the method on the embedded models."""
    backbones = Backbones(ClipConfig(model="embedded"), "embedded")
    return clip_diy.build(clip_diy.Options(), backbones)


def random_vit_b32(folder: Path) -> clip_diy.ClipDiy:
    """Return the method on a random CLIP of ViT-B/32's shape, without objectness."""
    config = open_clip.get_model_config("ViT-B-32")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model = open_clip.create_model("ViT-B-32")
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    backbones = Backbones(ClipConfig(model=f"local-dir:{folder}"), "embedded")
    options = clip_diy.Options(objectness=NamedOptions(name="none"))
    return clip_diy.build(options, backbones)


def main() -> dict[str, Any]:
    """Measure both sizes."""
    small = compare(embedded(), num_plain=8, num_batched=16)
    with tempfile.TemporaryDirectory() as folder:
        large = compare(random_vit_b32(Path(folder)), num_plain=1, num_batched=2)
    return {
        "ratios": {
            "clip_diy_batched_over_plain": round(small[0] / small[1], 2),
            "clip_diy_batched_over_plain_vit_b32": round(large[0] / large[1], 2),
        },
        "figures": {
            "clip_diy_batched_images_per_s": round(small[0], 2),
            "clip_diy_plain_images_per_s": round(small[1], 2),
            "clip_diy_batched_images_per_s_vit_b32": round(large[0], 3),
            "clip_diy_plain_images_per_s_vit_b32": round(large[1], 3),
        },
    }


if __name__ == "__main__":
    print(json.dumps(main()))
