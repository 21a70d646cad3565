"""Copies of an image, as collections hold them, and a run with some."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from typer.testing import CliRunner

from jobs.cli import app
from jobs.demo.scenes import draw_scene
from pipeline.run.folder import RunFolder

NUM_SCENES, NUM_COPIED = 24, 6


def copies(rgb: np.ndarray, seed: int) -> list[np.ndarray]:
    """JPEG of quality 30, 5 % cut off, mirrored, half the size."""
    image = Image.fromarray(rgb)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    width, height = image.size
    kept = round(0.95 * width), round(0.95 * height)
    rng = np.random.default_rng(seed)
    left, top = rng.integers(0, (width - kept[0] + 1, height - kept[1] + 1)).tolist()
    return [
        np.asarray(Image.open(file).convert("RGB")),
        np.asarray(image.crop((left, top, left + kept[0], top + kept[1]))),
        np.asarray(ImageOps.mirror(image)),
        np.asarray(image.resize((width // 2, height // 2))),
    ]


def make_copied_run(folder: Path) -> RunFolder:
    """Annotate scenes with the embedded models, four copies each of the first six among them.

    The scenes are `a/00.png` ... `b/23.png`, the copies `c/00-0.png` ... `c/05-3.png`.
    """
    for seed in range(NUM_SCENES):
        scene = draw_scene(seed).image
        _save(scene, folder, "a" if seed < NUM_SCENES // 2 else "b", f"{seed:02d}.png")
        for number, copy in enumerate(copies(scene, seed) if seed < NUM_COPIED else []):
            _save(copy, folder, "c", f"{seed:02d}-{number}.png")
    command = ["annotate", "--local", "--images", f"{folder}/images", "--out", f"{folder}/run"]
    options = ["--set", "clip.model=embedded", "--set", "run.device=cpu"]
    result = CliRunner().invoke(app, [*command, "--labels", "red star,blue heart", *options])
    assert result.exit_code == 0, result.output
    return RunFolder.open(f"{folder}/run")


def _save(rgb: np.ndarray, folder: Path, *parts: str) -> None:
    file = Path(folder, "images", *parts)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(file)
