"""Measure embedded models with the product itself: annotate, then evaluate.

`python -m training.quality --folder ovseg_core/embedded --scenes 200` draws scenes that were not
trained on. Each scene is a job with its own phrases as vocabulary, evaluated against its exact
truth. Prints one JSON object: for each method and split the means over scenes of mIoU (background
included) and of foreground IoU.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image

from jobs.demo.scenes import Scene, draw_scene
from pipeline.annotate.build import Built, build
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.report import EvaluationReport
from pipeline.job.job import run
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from schemas.config import JobConfig

SEED = 950_000_000
SIZE_HW = (128, 160)


def methods(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the methods of the model card, by name."""
    head = {"name": "found", "options": {"head": str(folder / "found" / "head.safetensors")}}
    patches = {"objectness": head, "short_side_px": 0, "templates": "diy"}
    return {
        "clip_diy": {"name": "clip_diy", "options": {"objectness": head}},
        "maskclip": {"name": "maskclip", "options": patches},
    }


def write_scene(folder: Path, scene: Scene) -> None:
    """Write image and truth as `images/scene.png` and `truth/scene.png`."""
    for name, array in (("images", scene.image), ("truth", scene.label_map.astype(np.uint8))):
        (folder / name).mkdir(parents=True)
        Image.fromarray(array).save(folder / name / "scene.png")


def evaluate_scene(
    folder: Path, scene: Scene, models: Path, method: dict[str, Any]
) -> EvaluationReport:
    """Annotate a scene with its own phrases and evaluate it against its truth."""
    job = {
        "images": str(folder / "images"),
        "out": str(folder / "runs" / method["name"]),
        "labels": list(scene.labels),
        "method": method,
        "clip": {"model": f"local-dir:{models / 'clip'}"},
        "vision": {"model": f"local-dir:{models / 'vit'}"},
        "run": {"local": True, "device": "cpu"},
    }
    config = JobConfig.model_validate(job)
    run(config, Progress(), build=_build_once)
    return evaluate(RunFolder.open(config.out), str(folder / "truth"))


_built: dict[str, Built] = {}


def _build_once(config: JobConfig, device: str) -> Built:
    """Build each method once, as its networks do not depend on the vocabulary."""
    key = config.method.name
    if key not in _built:
        _built[key] = build(config, device)
    return _built[key]


def measure(models: Path, num_scenes: int) -> dict[str, dict[str, float]]:
    """Return the means over scenes, by method and split."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, method in methods(models).items():
            for split, held_out in (("seen", False), ("held-out", True)):
                reports = []
                for index in range(num_scenes):
                    scene = draw_scene(SEED + index, SIZE_HW, held_out=held_out)
                    place = Path(folder) / name / split / str(index)
                    write_scene(place, scene)
                    reports.append(evaluate_scene(place, scene, models, method))
                results[f"{name} {split}"] = {
                    "miou": round(fmean(r.miou or 0.0 for r in reports), 4),
                    "foreground_iou": round(fmean(r.foreground_iou or 0.0 for r in reports), 4),
                }
    return results


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measure(options.folder.absolute(), options.scenes), indent=1))


if __name__ == "__main__":
    main()
