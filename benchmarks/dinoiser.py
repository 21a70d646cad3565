"""CLIP-DINOiser in batches against a plain port: one window at a time, scores at full size.

The plain side follows the authors' order of work: each window goes through CLIP by itself, its
probabilities are enlarged to the window and added up on a canvas of every label. Both sides use the
same networks, heads and torch's threads. The second ratio is the product's whole path over CLIP's
bare forward passes on the same windows.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.clip_diy import images_per_s
from benchmarks.proxyclip import LABELS, LARGE_HW, SMALL_HW, product, random_vit_b16
from ovseg_core.attention import identity
from ovseg_core.backbones import Backbones
from ovseg_core.decide import decide
from ovseg_core.dense import WindowSegmenter
from ovseg_core.dinoiser_heads import TAP, load_heads, tap_map
from ovseg_core.embedded.scenes import draw_scene
from ovseg_core.geometry import mmseg_size, pad_br, resize_linear
from ovseg_core.last_block import dense_features
from ovseg_core.methods import clip_dinoiser
from ovseg_core.segmenter import TextMatrix
from ovseg_core.windows import window_boxes
from schemas.config import ClipConfig


class PlainPort:
    """The method as the authors run it.

    Args:
        backbones: the product's own networks, read one window at a time.
        heads: file of the heads.
    """

    def __init__(self, backbones: Backbones, heads: str) -> None:
        self.clip = backbones.clip
        self.heads = load_heads(heads, backbones)
        self.crop, self.stride = 2 * self.clip.input_px, self.clip.input_px

    def label_map(self, image: Tensor, text: TextMatrix) -> np.ndarray:
        """Return the label map of one image."""
        pixels = resize_linear(image, mmseg_size((image.shape[1], image.shape[2]), self.crop))
        height, width = pixels.shape[1:]
        total = torch.zeros(len(text.rows_QD), height, width)
        count = torch.zeros(1, height, width)
        for y1, x1, y2, x2 in window_boxes((height, width), self.crop, self.stride):
            total[:, y1:y2, x1:x2] += self._window(pixels[:, y1:y2, x1:x2], text)
            count[:, y1:y2, x1:x2] += 1
        scores = F.interpolate((total / count)[None], image.shape[1:], mode="bilinear")[0]
        return scores.argmax(0).numpy()

    def _window(self, window: Tensor, text: TextMatrix) -> Tensor:
        padded = pad_br(window[None].float(), self.clip.patch_px)
        state = self.clip.read(self.clip.normalise(padded), "size", (TAP,))
        features = dense_features(self.clip, state, identity)[0].flatten(1)
        guide = F.normalize(self.heads.guide(tap_map(state))[0].flatten(1), dim=0)
        affinity = guide.T @ guide
        affinity[affinity < 0.2] = 0
        pooled = features @ affinity / (affinity.sum(1) + 1e-6)
        probs = (100 * text.rows_QD @ F.normalize(pooled, dim=0)).softmax(0)
        empty = self.heads.objectness(tap_map(state)).flatten().sigmoid() <= 0.5
        probs[0, empty & (probs.amax(0) < 0.99)] = 1.0
        maps = probs.unflatten(1, state.grid_hw)[None]
        return F.interpolate(maps, window.shape[1:], mode="bilinear")[0]


def bare(segmenter: WindowSegmenter, images: list[Tensor]) -> None:
    """Run only CLIP's trunk on the same windows, batched in the same way."""
    clip = segmenter._clip
    cuts = [segmenter._windows.cut(clip.normalise(segmenter._resize(one))) for one in images]
    segmenter._windows.read(cuts, lambda windows: clip.read(windows, "size").tokens_BLC)


def compare(
    backbones: Backbones, heads: str, size_hw: tuple[int, int], count: int
) -> dict[str, float]:
    """Return images/s of the product, of the plain port and of the bare trunk."""
    segmenter = clip_dinoiser.build(clip_dinoiser.Options(heads=heads), backbones)
    port = PlainPort(backbones, heads)
    arrays = [draw_scene(seed, size_hw).image for seed in range(count)]
    images = [torch.from_numpy(array).permute(2, 0, 1).contiguous() for array in arrays]
    text = segmenter.text_matrix(LABELS)
    with torch.inference_mode():
        ours = decide(segmenter.score(segmenter.encode(images[:1]), text), [size_hw])[0].label_map
        same = (port.label_map(images[0], text) == ours).mean()
        if same < 0.99:
            raise AssertionError(f"the two ways agree on {same:.1%} of the pixels only")
        return {
            "product": images_per_s(lambda: product(segmenter, images, text), count),
            "plain": images_per_s(lambda: [port.label_map(one, text) for one in images], count),
            "bare": images_per_s(lambda: bare(segmenter, images), count),
        }


def random_heads(file: Path, width: int = 768, channels: int = 256) -> str:
    """Write random heads of the published shapes."""
    tensors = {
        "obj_proj.weight": torch.randn(channels, width, 3, 3) * 0.01,
        "obj_proj.bias": torch.zeros(channels),
        "bkg_decoder.weight": torch.randn(1, width, 1, 1),
        "bkg_decoder.bias": torch.zeros(1),
    }
    save_file(tensors, file)
    return str(file)


def main() -> dict[str, Any]:
    """Measure both sizes."""
    torch.manual_seed(0)
    small = compare(Backbones(ClipConfig(model="embedded"), "embedded"), "", SMALL_HW, 16)
    with tempfile.TemporaryDirectory() as folder:
        heads = random_heads(Path(folder) / "heads.safetensors")
        large = compare(random_vit_b16(Path(folder)), heads, LARGE_HW, 2)
    ratios, figures = {}, {}
    for name, found in (("", small), ("_vit_b16", large)):
        ratios[f"dinoiser_over_plain{name}"] = round(found["product"] / found["plain"], 2)
        ratios[f"dinoiser_time_over_trunk{name}"] = round(found["bare"] / found["product"], 2)
        for way, value in found.items():
            figures[f"dinoiser_{way}_images_per_s{name}"] = round(value, 3)
    return {"ratios": ratios, "figures": figures}


if __name__ == "__main__":
    print(json.dumps(main()))
