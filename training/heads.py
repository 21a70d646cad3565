"""Train heads of the embedded models with `ovseg train-heads` on drawn scenes.

`python -m training.embedded --stages dinoiser` makes CLIP-DINOiser's two convolutions. `python -m
training.heads --folder ovseg_core/embedded` trains FOUND heads, compares their foreground with that
of the committed head, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from jobs.demo.scenes import draw_scene
from ovseg_core import embedded
from ovseg_core.backbones.registry import Backbones
from ovseg_core.objectness import build_objectness
from pipeline.training.heads import job
from pipeline.training.progress import make_step_progress
from schemas.config import EMBEDDED, ClipConfig, HeadConfig, NamedOptions

NUM_SCENES = 1000
SCENES_SEED = 400_000_000
EVALUATION_SEED = 920_000_000
DINOISER = {
    "steps": 600,
    "decay_step": 480,
    "sample": 0,
    "affinity_learning_rate": 1e-3,
    # The embedded ViT's similarities are higher than DINO's: .91 within objects, .18 across edges.
    "gamma": 0.8,
}
FOUND = {"steps": 250, "batch": 24, "size_px": 128, "seed_steps": 50, "decay_interval": 25}
SIMILAR = {
    "steps": 200,
    "batch": 24,
    "size_px": 128,
    "seed_steps": 60,
    "decay_interval": 20,
    "seeds": "similarity",
    "rescale": [0.5, 2.0],
}


def write_scenes(folder: Path, count: int = NUM_SCENES) -> Path:
    """Draw scenes of seen pairs and write their images only."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scene = draw_scene(SCENES_SEED + index)
        Image.fromarray(scene.image).save(folder / f"{index:05d}.png")
    return folder


def train_head(models: Path, scenes: Path, out: Path, head: NamedOptions) -> None:
    """Train a head on the models in a folder laid out like `ovseg_core/embedded`."""
    options = dict(head.options)
    if models == Path(embedded.__file__).parent:
        networks: dict[str, Any] = {"clip": {"model": EMBEDDED}}
    else:
        vision = f"local-dir:{models / 'vit'}"
        networks = {"clip": {"model": f"local-dir:{models / 'clip'}"}, "vision": {"model": vision}}
        if head.name == "dinoiser":
            options |= {"found_head": str(models / "found" / "head.safetensors")}
    config = HeadConfig.model_validate(
        {
            "images": str(scenes),
            "out": str(out),
            "head": {"name": head.name, "options": options},
            "run": {"local": True, "device": "cpu"},
            **networks,
        }
    )
    job.train_head(config, make_step_progress())


def make_dinoiser(models: Path) -> None:
    """Train and replace `dinoiser/heads.safetensors`."""
    out = models / "dinoiser" / "heads.safetensors"
    out.unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scenes = write_scenes(Path(folder) / "scenes")
        train_head(models, scenes, out, NamedOptions(name="dinoiser", options=DINOISER))


def foreground_iou(models: Path, source: NamedOptions, count: int) -> dict[str, float]:
    """Return the foreground IoU over scenes that were not trained on, by split."""
    vision = f"local-dir:{models / 'vit'}"
    found = build_objectness(source, Backbones(ClipConfig(model=EMBEDDED), vision))
    figures = {}
    for split, held_out in (("seen", False), ("held_out", True)):
        hit = union = 0
        for index in range(count):
            scene = draw_scene(EVALUATION_SEED + index, held_out=held_out)
            maps = found.maps([torch.from_numpy(scene.image).permute(2, 0, 1)])
            ours, true = np.asarray((maps or [])[0]) > 0.5, scene.label_map > 0
            hit, union = hit + int((ours & true).sum()), union + int((ours | true).sum())
        figures[split] = round(hit / union, 4)
    return figures


def compare(models: Path, count: int) -> dict[str, dict[str, float]]:
    """Return the foreground IoU of the committed head and of two by `ovseg train-heads`."""
    heads = {"committed": str(models / "found" / "head.safetensors")}
    with tempfile.TemporaryDirectory() as folder:
        scenes = write_scenes(Path(folder) / "scenes")
        for name, options in (("attention seeds", FOUND), ("similarity seeds", SIMILAR)):
            out = Path(folder) / f"{len(heads)}.safetensors"
            train_head(models, scenes, out, NamedOptions(name="found", options=options))
            heads[name] = str(out)
        sources = {
            name: NamedOptions(name="found", options={"head": head}) for name, head in heads.items()
        }
        sources["FOUND-bkg alone"] = NamedOptions(name="found_bkg")
        return {name: foreground_iou(models, one, count) for name, one in sources.items()}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(compare(options.folder.absolute(), options.scenes), indent=1))


if __name__ == "__main__":
    main()
