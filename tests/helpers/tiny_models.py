"""Small things for tests, made as a user would: models as folders, loaded by production code."""

import atexit
import functools
import gzip
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.published_sizes import pad_br
from ovseg_core.objectness.found import RELEASED_HEAD
from ovseg_core.training.heads.shared import dinoiser_model
from schemas.config import ClipConfig

TINY_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 515, "width": 32, "heads": 2, "layers": 1},
}
TINY_VISION = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
VIT_FAMILIES = {
    "dino S/8": ("vit_small_patch8_224", "dino", 8, "scale01"),
    "dino S/16": ("vit_small_patch16_224", "dino", 16, "scale01"),
    "dino B/8": ("vit_base_patch8_224", "dino", 8, "scale01"),
    "dino B/16": ("vit_base_patch16_224", "dino", 16, "scale01"),
    "dinov2 S/14": ("vit_small_patch14_reg4_dinov2", "lvd142m", 14, "antialias"),
    "dinov2 B/14": ("vit_base_patch14_reg4_dinov2", "lvd142m", 14, "antialias"),
    "mae B/16": ("vit_base_patch16_224", "mae", 16, "size"),
}
"""timm's architecture, the tag of its weights, patch, interpolation of position embeddings."""
TINY_SAM: dict[str, Any] = {
    "img_size": 64,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "neck_chans": 12,
    "window_size": 3,
    "global_attn_indexes": (1,),
}


def random_image(seed: int, height: int, width: int) -> Image:
    """A coarse pattern with noise: neighbouring pixels are alike, as in a photograph."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 5, 7), generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    noise = torch.randn((3, height, width), generator=generator) * 20
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def write_clip(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor] | None = None, seed: int = 0
) -> Path:
    """An open_clip folder with seeded random weights, some of them replaced by `tensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**json.loads(json.dumps(config)))
    wrong = model.load_state_dict(tensors or {}, strict=False).unexpected_keys
    assert not wrong, wrong
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    (folder / "bpe.txt.gz").write_bytes(gzip.compress(b"#version: 0.2\nt h"))
    return folder


def write_vision(
    folder: Path, arguments: dict[str, Any], tensors: dict[str, Tensor] | None = None, seed: int = 0
) -> Path:
    """A timm folder of a plain ViT with seeded random weights, or with `tensors` as all of them."""
    return write_timm(folder, "vit_tiny_patch16_224", arguments, tensors=tensors, seed=seed)


def write_timm(
    folder: Path,
    architecture: str,
    arguments: dict[str, Any],
    tag: str = "",
    tensors: dict[str, Tensor] | None = None,
    seed: int = 0,
) -> Path:
    """A timm folder of any architecture."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    arguments = {**arguments, "num_classes": 0}
    model = timm.create_model(architecture, **arguments)
    for name, parameter in model.named_parameters():
        # timm starts these at nearly zero, which no trained network has.
        if name in ("cls_token", "pos_embed") or "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.load_state_dict(tensors or {}, strict=bool(tensors))
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": arguments,
        "pretrained_cfg": {
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": 0,
            "tag": tag,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_head(file: Path, weight: Tensor, bias: Tensor) -> Path:
    """A FOUND head."""
    save_file({"decoder.weight": weight.contiguous(), "decoder.bias": bias}, file)
    return file


def write_dinoiser_heads(file: Path, width: int, channels: int = 12) -> Path:
    """CLIP-DINOiser's two convolutions, random."""
    random = torch.Generator().manual_seed(6)
    tensors = {
        "obj_proj.weight": torch.randn((channels, width, 3, 3), generator=random),
        "obj_proj.bias": torch.zeros(channels),
        "bkg_decoder.weight": torch.randn((1, width, 1, 1), generator=random) * 4,
        "bkg_decoder.bias": torch.zeros(1),
    }
    save_file(tensors, file)
    return file


@functools.cache
def tiny_folder() -> Path:
    """`clip/`, `vision/`, `head.safetensors`, `dinoiser.safetensors`, written once a session."""
    folder = Path(tempfile.mkdtemp(prefix="ovseg-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_clip(folder / "clip", TINY_CLIP)
    write_vision(folder / "vision", TINY_VISION)
    weight = torch.randn((1, 32, 1, 1), generator=torch.Generator().manual_seed(5))
    write_head(folder / "head.safetensors", weight, torch.zeros(1))
    write_dinoiser_heads(folder / "dinoiser.safetensors", TINY_CLIP["vision_cfg"]["width"])
    return folder


def tiny_backbones(**changes: Any) -> Backbones:
    """Random-weight backbones; the authors' heads are random ones here."""
    folder = tiny_folder()
    released = {
        RELEASED_HEAD: str(folder / "head.safetensors"),
        dinoiser_model.RELEASED: str(folder / "dinoiser.safetensors"),
    }
    settings: dict[str, Any] = {
        "clip": ClipConfig(model=f"local-dir:{folder / 'clip'}"),
        "vision_model": f"local-dir:{folder / 'vision'}",
        "resolve": lambda name: released.get(name, name),
    }
    return Backbones(**{**settings, **changes})


def random_images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.stack([random_image(seed, height, width) for seed in range(count)])


def write_family(folder: Path, kind: str) -> str:
    """A tiny random network of a family, as a user's folder."""
    if kind == "sam":
        return f"local-dir:{write_timm(folder, 'samvit_base_patch16', TINY_SAM)}"
    architecture, tag, _, _ = VIT_FAMILIES[kind]
    sizes = {"img_size": 112, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return f"local-dir:{write_timm(folder, architecture, sizes, tag)}"


def load_clip_of_job(model: str, pretrained: str = "") -> object:
    return Backbones(ClipConfig(model=model, pretrained=pretrained), "").clip


def load_vision_of_job(model: str, weights: str = "") -> object:
    return Backbones(ClipConfig(), model, weights).vision


def trunk_of_pixels(
    clip: Clip, pixels_B3HW: Tensor, return_ln2: Sequence[int] = ()
) -> TrunkFeatures:
    """Run CLIP's trunk on pixels that are padded with black to whole patches, as CLIP-DINOiser."""
    padded_B3HW = pad_br(pixels_B3HW, clip.patch_px)
    return clip.forward_trunk(clip.normalise(padded_B3HW), "size", return_ln2)
