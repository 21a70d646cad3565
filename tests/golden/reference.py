"""The authors' numbers (see data/README.md), and our networks with the same weights.

Another set with other seeds, sizes and image names is read from the folder that the variable
OVSEG_GOLDEN names. A file that is missing fails the tests that need it.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import Image
from schemas.config import ClipConfig
from tests.helpers.tiny_models import write_clip, write_head, write_vision

FOLDER = Path(os.environ.get("OVSEG_GOLDEN") or Path(__file__).parent / "data")
TOLERANCE = 1e-4
EQUAL_LABELS = 0.999

CLIP_HEAD_WIDTH = 64
"""The one size of the networks that neither the weights nor the constants tell (README)."""


@functools.cache
def tensors(name: str) -> dict[str, NDArray[Any]]:
    """All arrays of one file."""
    with np.load(FOLDER / f"{name}.npz") as content:
        return {key: content[key] for key in content.files}


def keys(name: str) -> list[str]:
    """The keys of a file for parametrize; of a missing file one that will fail."""
    if not (FOLDER / f"{name}.npz").is_file():
        return [f"{name}.npz is missing"]
    return sorted(tensors(name))


def constants(name: str) -> dict[str, Any]:
    return json.loads(str(tensors(name)["constants"]))


@functools.cache
def weights() -> dict[str, Tensor]:
    return load_file(FOLDER / "weights.safetensors")


def image(name: str) -> Image:
    return torch.from_numpy(tensors("images")[name]).permute(2, 0, 1)


Check = Callable[..., NDArray[Any] | Tensor]


def computed(key: str, checks: Iterable[tuple[str, Check]]) -> NDArray[Any]:
    """What our code gives for a key: the check whose pattern matches, called with its groups."""
    for pattern, check in checks:
        if match := re.fullmatch(pattern, key):
            return np.asarray(check(**match.groupdict()))
    raise AssertionError(f"no check reads {key}: every reference tensor must be compared")


def assert_alike(ours: NDArray[Any], reference: NDArray[Any], tolerance: float = TOLERANCE) -> None:
    """Equal shapes; values within the tolerance; integers exactly."""
    assert ours.shape == reference.shape
    limit = 0 if reference.dtype.kind in "iu" else tolerance
    difference = np.abs(ours.astype(np.float64) - reference.astype(np.float64)).max()
    assert difference <= limit, f"largest difference {difference:.2e}, allowed {limit:.0e}"


def assert_same_labels(ours: NDArray[Any], reference: NDArray[Any]) -> None:
    assert ours.shape == reference.shape
    share = (ours == reference).mean()
    assert share >= EQUAL_LABELS, f"{share:.4%} of the pixels have the same label"


def part(prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix, without it."""
    found = {k.removeprefix(prefix): v for k, v in weights().items() if k.startswith(prefix)}
    assert found, f"no weights under {prefix}"
    return found


def clip_config(activation: str) -> dict[str, Any]:
    tower = part("clip.visual.")
    width, _, patch_px, _ = tower["conv1.weight"].shape
    side = round((len(tower["positional_embedding"]) - 1) ** 0.5)
    return {
        "embed_dim": tower["proj"].shape[1],
        "quick_gelu": activation == "quickgelu",
        "vision_cfg": {
            "image_size": side * patch_px,
            "patch_size": patch_px,
            "layers": _count_blocks(tower, "transformer.resblocks."),
            "width": width,
            "head_width": CLIP_HEAD_WIDTH,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 515, "width": 32, "heads": 2, "layers": 1},
    }


def vision_arguments(name: str, heads: int) -> dict[str, Any]:
    network = part(f"{name}.")
    width, _, patch_px, _ = network["patch_embed.proj.weight"].shape
    side = round((network["pos_embed"].shape[1] - 1) ** 0.5)
    return {
        "img_size": side * patch_px,
        "patch_size": patch_px,
        "embed_dim": width,
        "depth": _count_blocks(network, "blocks."),
        "num_heads": heads,
    }


def backbones(
    folder: Path, activation: str = "gelu", vision: str = "dino8", **clip_options: Any
) -> Backbones:
    """The reference networks, written as a user's folders and loaded by production code."""
    heads = constants("found")["heads"]
    clip = write_clip(folder / "clip", clip_config(activation), part("clip."))
    timm = write_vision(folder / vision, vision_arguments(vision, heads), part(f"{vision}."))
    return Backbones(ClipConfig(model=f"local-dir:{clip}", **clip_options), f"local-dir:{timm}")


def found_head(folder: Path) -> str:
    decoder = part("found.decoder.")
    return str(write_head(folder / "head.safetensors", decoder["weight"], decoder["bias"]))


def _count_blocks(network: dict[str, Tensor], prefix: str) -> int:
    return len({k.removeprefix(prefix).split(".")[0] for k in network if k.startswith(prefix)})
