"""Trainings of a moment: six images that can be read, one that cannot, tiny networks."""

from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.training.heads.job import HeadReport, train_head
from pipeline.training.progress import StepProgress
from schemas.config import HeadConfig
from tests.helpers.tiny_models import random_image, tiny_folder

SIZES = [(40, 70), (66, 45), (50, 50), (90, 33), (35, 36), (60, 80)]
STEPS = 7


def write_images(folder: Path, bad: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(SIZES):
        pixels = random_image(number, *size).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
    for number in range(bad):
        (folder / f"bad{number}.jpg").write_bytes(b"no image at all")
    return folder


def heads_config(images: Path, out: Path, head: str = "dinoiser", **changes: Any) -> HeadConfig:
    """Two images a step, a checkpoint every second step; `options` and `run` are added to."""
    folder = tiny_folder()
    options: dict[str, Any] = {"steps": STEPS, "batch": 2, "sample": 0}
    if head == "dinoiser":
        vision = f"local-dir:{folder / 'vision'}"
        options |= {"affinity_network": vision, "found_head": str(folder / "head.safetensors")}
    run = {"local": True, "device": "cpu", "prefetch_threads": 2, "max_error_share": 0.5}
    return HeadConfig.model_validate(
        {
            "images": str(images),
            "out": str(out),
            "head": {"name": head, "options": options | changes.pop("options", {})},
            "clip": {"model": f"local-dir:{folder / 'clip'}"},
            "vision": {"model": f"local-dir:{folder / 'vision'}"},
            "checkpoint_every": 2,
            "run": run | changes.pop("run", {}),
            **changes,
        }
    )


def train(config: HeadConfig) -> HeadReport:
    return train_head(config, StepProgress())
