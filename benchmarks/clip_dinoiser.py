"""CLIP-DINOiser in batches against a plain port: one window at a time, scores at full size.

The plain side follows the authors' order of work (docs/methods.md 1.3, 5): each window goes through
CLIP by itself, its class probabilities are enlarged to the window and added up on a canvas of every
class, and the argmax sees the whole image. Both sides use the same networks, heads and threads.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.dense import random_heads
from benchmarks.proxyclip import LARGE_HW, SMALL_HW, against_port, drawn, random_vit_b16
from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.last_block import dense_patches, identity
from ovseg_core.dense.windows import window_boxes
from ovseg_core.images.resize.published_sizes import mmseg_size, pad_br, resize_linear
from ovseg_core.methods import clip_dinoiser
from ovseg_core.segmenter import TextMatrix
from ovseg_core.training.heads.shared.dinoiser_model import TAP, load_dinoiser_heads, tap_map
from schemas.config import ClipConfig

GAMMA, DELTA, SCALE = 0.2, 0.99, 100


class PlainPort:
    """The method as the authors run it, with learned affinity and background.

    Args:
        backbones: the product's own networks, read one window at a time.
        heads: file of the two convolutions; empty: the embedded ones.
    """

    def __init__(self, backbones: Backbones, heads: str) -> None:
        self.clip = backbones.clip
        self.heads = load_dinoiser_heads(heads, backbones)

    def label_map(self, image: Tensor, text: TextMatrix) -> np.ndarray:
        """Return the label map of one image."""
        side = self.clip.input_px
        resized = resize_linear(image, mmseg_size((image.shape[1], image.shape[2]), 2 * side))
        height, width = resized.shape[1:]
        total = torch.zeros(text.num_classes, height, width)
        count = torch.zeros(1, height, width)
        for y1, x1, y2, x2 in window_boxes((height, width), 2 * side, side):
            total[:, y1:y2, x1:x2] += self._window(resized[:, y1:y2, x1:x2], text)
            count[:, y1:y2, x1:x2] += 1
        probs = F.interpolate((total / count)[None], image.shape[1:], mode="bilinear")[0]
        return probs.argmax(0).numpy()

    def _window(self, window: Tensor, text: TextMatrix) -> Tensor:
        padded = pad_br(window[None], self.clip.patch_px)
        state = self.clip.forward_trunk(self.clip.normalise(padded), "size", (TAP,))
        features = dense_patches(self.clip, state, identity).flatten(2)[0].T
        tap = tap_map(state)
        guide = F.normalize(self.heads.guide(tap), dim=1).flatten(2)[0]
        affinity = guide.T @ guide
        affinity = affinity.masked_fill(affinity < GAMMA, 0)
        pooled = affinity @ features / (affinity.sum(1, keepdim=True) + 1e-6)
        logits = SCALE * F.normalize(pooled, dim=1) @ text.rows_QD.T
        probs = logits.softmax(1).T.unflatten(1, state.grid_hw)
        foreground = self.heads.objectness(tap)[0, 0].sigmoid() > 0.5
        probs[0][~foreground & (probs.amax(0) < DELTA)] = 1.0
        enlarged = F.interpolate(probs[None], padded.shape[2:], mode="bilinear")[0]
        return enlarged[:, : window.shape[1], : window.shape[2]]


def compare(
    backbones: Backbones, heads: str, size_hw: tuple[int, int], count: int
) -> dict[str, float]:
    """Return images/s of the product and of the plain port."""
    segmenter = clip_dinoiser.build(clip_dinoiser.Options(heads=heads), backbones)
    return against_port(segmenter, PlainPort(backbones, heads), drawn(size_hw, count))


def main() -> dict[str, Any]:
    """Measure both sizes."""
    small = compare(Backbones(ClipConfig(model="embedded"), "embedded"), "", SMALL_HW, 16)
    with tempfile.TemporaryDirectory() as folder:
        backbones = random_vit_b16(Path(folder))
        heads = random_heads(backbones.clip, Path(folder))
        large = compare(backbones, heads, LARGE_HW, 1)
    ratios, figures = {}, {}
    for size, found in (("", small), ("_vit_b16", large)):
        ratios[f"clip_dinoiser_over_plain{size}"] = round(found["product"] / found["plain"], 2)
        for way, value in found.items():
            figures[f"clip_dinoiser_{way}_images_per_s{size}"] = round(value, 3)
    return {"ratios": ratios, "figures": figures}


if __name__ == "__main__":
    print(json.dumps(main()))
