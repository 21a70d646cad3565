"""ProxyCLIP in batches against a plain port: one window at a time, scores at full size.

The plain side follows the authors' order of work: each window goes through both networks by itself,
its cosines are enlarged to the window and added up on a canvas of every phrase, and softmax and
argmax see the whole image. Both sides use the same networks and torch's threads. The second ratio
is the product's whole path over the bare forward passes of the two networks on the same windows.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.clip_diy import images_per_s
from jobs.demo.scenes import draw_scene
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.dense.windows import window_boxes
from ovseg_core.images.resize.published_sizes import mmseg_size, resize_linear
from ovseg_core.methods import proxyclip
from ovseg_core.segmenter import TextMatrix, encode_images
from schemas.config import ClipConfig
from schemas.vocabulary import Vocabulary

SMALL_HW, LARGE_HW = (128, 160), (375, 500)
LABELS = Vocabulary.model_validate([f"thing {number}" for number in range(20)])


class Port(Protocol):
    """A method as its authors run it."""

    def label_map(self, image: Tensor, text: TextMatrix) -> np.ndarray:
        """Return the label map of one image."""
        ...


class PlainPort:
    """The method as the authors run it.

    Args:
        backbones: the product's own networks, read one window at a time.
    """

    def __init__(self, backbones: Backbones) -> None:
        self.clip = backbones.clip
        self.vision = backbones.network(backbones.network_or(""), "proxy")
        side = self.clip.input_px
        self.short, self.crop, self.stride = round(1.5 * side), round(1.5 * side), side // 2
        self.multiple = math.lcm(self.clip.patch_px, self.vision.multiple_px)

    def label_map(self, image: Tensor, text: TextMatrix) -> np.ndarray:
        """Return the label map of one image."""
        resized = resize_linear(image, mmseg_size((image.shape[1], image.shape[2]), self.short))
        pixels = self.clip.normalise(resized)
        height, width = pixels.shape[1:]
        total = torch.zeros(len(text.rows_QD), height, width)
        count = torch.zeros(1, height, width)
        for y1, x1, y2, x2 in window_boxes((height, width), self.crop, self.stride):
            total[:, y1:y2, x1:x2] += self._window(pixels[:, y1:y2, x1:x2], text)
            count[:, y1:y2, x1:x2] += 1
        scores = F.interpolate((total / count)[None], image.shape[1:], mode="bilinear")[0]
        probs = (40 * scores).softmax(0)
        return probs.argmax(0).numpy()

    def _window(self, window: Tensor, text: TextMatrix) -> Tensor:
        height, width = window.shape[1:]
        down, across = -height % self.multiple, -width % self.multiple
        top, left = down // 2, across // 2
        padded = F.pad(window, (left, across - left, top, down - top))[None]
        e = F.normalize(self.vision.features(self.clip.denormalise(padded), "tokens"), dim=1)
        grid, e = e.shape[2:], e.flatten(2)[0]
        similarity = e.T @ e
        similarity = 3.0 * (similarity - 1.2 * similarity.mean())
        attention = similarity.masked_fill(similarity < 0, -torch.inf).softmax(-1)
        state = self.clip.forward_trunk(padded, "scale01")
        block: Any = self.clip.visual.transformer.resblocks[-1]
        qkv = F.linear(
            block.ln_1(state.tokens_BLC), block.attn.in_proj_weight, block.attn.in_proj_bias
        )
        values = qkv.chunk(3, -1)[2][:, 1:].transpose(1, 2).unflatten(2, state.grid_hw)
        values = F.interpolate(values, grid, mode="bilinear").flatten(2).transpose(1, 2)
        features = F.normalize(self.clip.project(block.attn.out_proj(attention @ values)), dim=-1)
        logits = (features @ text.rows_QD.T).transpose(1, 2).unflatten(2, tuple(grid))
        enlarged = F.interpolate(logits, padded.shape[2:], mode="bilinear")[0]
        return enlarged[:, top : top + height, left : left + width]


def product(segmenter: WindowSegmenter, images: Sequence[Tensor], text: TextMatrix) -> None:
    """Run the product's path to label maps."""
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    decide(segmenter.score(encode_images(segmenter, images), text), sizes)


def bare(segmenter: WindowSegmenter, images: Sequence[Tensor]) -> None:
    """Run only the two networks on the same windows, batched in the same way."""
    encoder, windows = segmenter.encoder, segmenter.windows
    resized = [segmenter.resize(image) for image in images]
    grids = [windows.cut(encoder.clip.normalise(one)) for one in resized]
    windows.apply(grids, lambda windows_B3HW: encoder.encode_trunk(windows_B3HW).unbind())


def drawn(size_hw: tuple[int, int], count: int) -> list[Tensor]:
    """Return scenes (3, H, W)."""
    arrays = [draw_scene(seed, size_hw).image for seed in range(count)]
    return [torch.from_numpy(array).permute(2, 0, 1).contiguous() for array in arrays]


def against_port(
    segmenter: WindowSegmenter, port: Port, images: Sequence[Tensor]
) -> dict[str, float]:
    """Return images/s of the product and of a plain port, which must agree."""
    text, count = segmenter.text_matrix(LABELS), len(images)
    size_hw = (images[0].shape[1], images[0].shape[2])
    features = encode_images(segmenter, images[:1])
    ours = decide(segmenter.score(features, text), [size_hw])[0].label_map
    with torch.inference_mode():
        same = (port.label_map(images[0], text) == ours).mean()
        if same < 0.99:
            raise AssertionError(f"the two ways agree on {same:.1%} of the pixels only")
        return {
            "product": images_per_s(lambda: product(segmenter, images, text), count),
            "plain": images_per_s(lambda: [port.label_map(one, text) for one in images], count),
        }


def compare(backbones: Backbones, size_hw: tuple[int, int], count: int) -> dict[str, float]:
    """Return images/s of the product, of the plain port and of the bare networks."""
    segmenter, images = proxyclip.build(proxyclip.Options(), backbones), drawn(size_hw, count)
    found = against_port(segmenter, PlainPort(backbones), images)
    with torch.inference_mode():
        return found | {"bare": images_per_s(lambda: bare(segmenter, images), count)}


def random_vit_b16(folder: Path) -> Backbones:
    """Return random networks of the published shapes: CLIP ViT-B/16 and DINO ViT-B/8."""
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    (folder / "clip").mkdir()
    (folder / "clip/open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(
        open_clip.create_model("ViT-B-16-quickgelu").state_dict(),
        folder / "clip/open_clip_model.safetensors",
    )
    (folder / "vision").mkdir()
    model = timm.create_model("vit_base_patch8_224", num_classes=0)
    torch.nn.init.normal_(model.pos_embed, std=0.5)
    save_file(model.state_dict(), folder / "vision/model.safetensors")
    pretrained = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "num_classes": 0}
    timm_config = {
        "architecture": "vit_base_patch8_224",
        "num_classes": 0,
        "pretrained_cfg": pretrained,
    }
    (folder / "vision/config.json").write_text(json.dumps(timm_config))
    return Backbones(ClipConfig(model=f"local-dir:{folder}/clip"), f"local-dir:{folder}/vision")


def main() -> dict[str, Any]:
    """Measure both sizes."""
    small = compare(Backbones(ClipConfig(model="embedded"), "embedded"), SMALL_HW, 16)
    with tempfile.TemporaryDirectory() as folder:
        large = compare(random_vit_b16(Path(folder)), LARGE_HW, 1)
    ratios, figures = {}, {}
    for name, found in (("", small), ("_vit_b16", large)):
        ratios[f"proxyclip_over_plain{name}"] = round(found["product"] / found["plain"], 2)
        ratios[f"proxyclip_time_over_networks{name}"] = round(found["bare"] / found["product"], 2)
        for way, value in found.items():
            figures[f"proxyclip_{way}_images_per_s{name}"] = round(value, 3)
    return {"ratios": ratios, "figures": figures}


if __name__ == "__main__":
    print(json.dumps(main()))
