"""Every window method's whole path against the networks that it cannot do without.

The bare side runs, on the same windows in the same batches, CLIP's tower with its ordinary last
block and the method's second network, if it has one. The method's side goes on to label maps: its
own attention, scores of 20 labels, averages over windows, enlargement, decision. `read` leaves out
the words and the decision. Times are CPU seconds of one thread, the two sides in turns, so that
other work on the machine disturbs them little; a ratio is the least of one side over the least of
the other. Published options, but the refinement of NACLIP is also left out once.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.proxyclip import drawn, random_vit_b16
from ovseg_core import methods
from ovseg_core.backbones.clip import Clip
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import encode_images
from schemas import plugins
from schemas.config import EMBEDDED, ClipConfig, NamedOptions
from schemas.vocabulary import Vocabulary

LABELS = Vocabulary.model_validate([f"thing {number}" for number in range(20)])
SMALL_HW, LARGE_HW = (128, 160), (375, 500)
SMALL_ROUNDS, LARGE_ROUNDS = 4, 2
VARIANTS = {"naclip_without_pamr": ("naclip", {"pamr_steps": 0})}


def window_methods() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return by name the window methods and their variants."""
    names = filter(methods.runs_by_name, plugins.names(methods.PACKAGE))
    return {name: (name, {}) for name in names if name != "clip_diy"} | VARIANTS


def bare(segmenter: WindowSegmenter, images: Sequence[Tensor]) -> None:
    """Run only the networks on the same windows, batched in the same way."""
    encoder = segmenter.encoder
    clip, rule = encoder.clip, encoder.options.position_rule
    second = getattr(encoder, "proxy", None) or getattr(encoder, "dino", None)

    def networks(windows_B3HW: Tensor) -> list[Tensor]:
        if second is not None:
            second.features(clip.denormalise(windows_B3HW), "tokens")
        return list(clip.pool_trunk(clip.forward_trunk(windows_B3HW, rule)))

    resized = [segmenter.resize(image) for image in images]
    grids = [segmenter.windows.cut(clip.normalise(one)) for one in resized]
    segmenter.windows.apply(grids, networks)


def compare(segmenter: WindowSegmenter, images: Sequence[Tensor], rounds: int) -> dict[str, float]:
    """Return CPU seconds an image of the bare networks, of `encode` and of the whole path."""
    text = segmenter.text_matrix(LABELS)
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(segmenter, images),
        "read": lambda: encode_images(segmenter, images),
        "whole": lambda: decide(segmenter.score(encode_images(segmenter, images), text), sizes),
    }
    with torch.inference_mode():
        least = {way: float("inf") for way in ways}
        for _ in range(rounds):
            for way, work in ways.items():
                start = time.process_time()
                work()
                least[way] = min(least[way], time.process_time() - start)
    return {way: seconds / len(images) for way, seconds in least.items()}


def random_heads(clip: Clip, folder: Path) -> str:
    """Write random CLIP-DINOiser heads for a CLIP and return the file."""
    width, file = clip.width, folder / "heads.safetensors"
    tensors = {
        "obj_proj.weight": torch.randn(256, width, 3, 3) * 0.01,
        "obj_proj.bias": torch.zeros(256),
        "bkg_decoder.weight": torch.randn(1, width, 1, 1),
        "bkg_decoder.bias": torch.zeros(1),
    }
    save_file(tensors, file)
    return str(file)


def measure(
    backbones: Backbones, size_hw: tuple[int, int], num_images: int, rounds: int, heads: str = ""
) -> dict[str, dict[str, float]]:
    """Return the times of every method."""
    images = drawn(size_hw, num_images)
    times = {}
    for name, (method, options) in window_methods().items():
        # The bare words: eighty templates of each take minutes of the large text tower.
        given = {**options, "templates": "plain"}
        given |= {"heads": heads} if method == "clip_dinoiser" else {}
        segmenter = build_segmenter(NamedOptions(name=method, options=given), backbones)
        assert isinstance(segmenter, WindowSegmenter)
        times[name] = compare(segmenter, images, rounds)
    return times


def main() -> dict[str, Any]:
    """Measure the embedded models and random ones of ViT-B/16's size."""
    torch.set_num_threads(1)
    measured = {}
    measured["embedded"] = measure(
        Backbones(ClipConfig(model=EMBEDDED), EMBEDDED), SMALL_HW, 8, SMALL_ROUNDS
    )
    with tempfile.TemporaryDirectory() as folder:
        backbones = random_vit_b16(Path(folder))
        heads = random_heads(backbones.clip, Path(folder))
        measured["vit_b16"] = measure(backbones, LARGE_HW, 1, LARGE_ROUNDS, heads)
    ratios, figures = {}, {}
    for size, times in measured.items():
        for name, seconds in times.items():
            for way in ("read", "whole"):
                ratio = seconds[way] / seconds["bare"]
                ratios[f"dense_{name}_{way}_over_networks_{size}"] = round(ratio, 2)
        figures[f"dense_cpu_ms_{size}"] = {
            name: {way: round(1e3 * s, 1) for way, s in seconds.items()}
            for name, seconds in times.items()
        }
    return {"ratios": ratios, "figures": figures}


if __name__ == "__main__":
    print(json.dumps(main()))
