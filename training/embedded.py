"""Train the embedded models from random weights: `python -m training.embedded --seed 0 --out DIR`.

Without `--out` the weights of the package are replaced. Seeds and numbers of steps are fixed. Two
idle cores are enough; set `OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0` if other programs run.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch

from ovseg_core import embedded
from training import heads, train_clip, train_found, train_sam, train_vit
from training.data import make_crops, make_scenes
from training.measure import load_vit, measure

NUM_CROPS = 30_000
NUM_SCENES = 6_000
STAGES = ("clip", "vit", "found", "sam", "dinoiser", "measure")


def make(seed: int, out: Path, stages: tuple[str, ...]) -> None:
    """Run the stages in order; each writes its files to `out`."""
    if {"clip", "vit", "found", "sam"} & set(stages):
        make_networks(seed, out, stages)
    if "dinoiser" in stages:
        heads.make_dinoiser(out.absolute())
    if "measure" in stages:
        figures = measure(out)
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(json.dumps(figures, indent=1), flush=True)


def make_networks(seed: int, out: Path, stages: tuple[str, ...]) -> None:
    """Train CLIP, the ViT, FOUND's head and SAM on images drawn for it."""
    scenes = make_scenes(seed, NUM_SCENES)
    if "clip" in stages:
        crops = make_crops(seed, NUM_CROPS)
        train_clip.compile_hot_paths()
        train_clip.train_clip(crops, scenes, out / "clip", seed, train_clip.ClipPlan())
        del crops
    if "vit" in stages or "found" in stages:
        train_vit.compile_hot_paths()
    if "vit" in stages:
        train_vit.save_vit(train_vit.train_vit(scenes, seed, train_vit.VitPlan()), out / "vit")
    if "found" in stages:
        vit = load_vit(out / "vit")
        head = train_found.train_found(vit, scenes, seed, train_found.FoundPlan())
        train_found.save_head(head, out / "found")
        train_vit.save_vit(vit, out / "vit")
    if "sam" in stages:
        vit = load_vit(out / "vit")
        sam = train_sam.begin_sam(vit, seed)
        for turn, plan in enumerate(train_sam.PLANS):
            sam = train_sam.train_sam(sam, scenes, seed + turn, plan)
        train_sam.save_sam(sam, out / "sam")


def main() -> None:
    """Parse the command line and report the time spent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(embedded.__file__).parent)
    parser.add_argument("--stages", default=",".join(STAGES), help="comma separated")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    stages = tuple(options.stages.split(","))
    make(options.seed, options.out, stages)
    own = resource.getrusage(resource.RUSAGE_SELF)
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + child.ru_utime + child.ru_stime
    wall = time.perf_counter() - began
    print(f"seed {options.seed} {stages}: {wall / 60:.1f} min, {cpu / 60:.1f} CPU min", flush=True)


if __name__ == "__main__":
    main()
