"""Files as cameras write them: drawn scenes of a photograph's size, with noise, as JPEG."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.demo.scenes import draw_scene

NOISE = 3.0
DRAWN_HW = (240, 320)


def photograph(seed: int, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a scene (H, W, 3) with a sensor's noise, without which JPEG files are too small."""
    scene = draw_scene(seed, DRAWN_HW).image
    wide = cv2.resize(scene, size_hw[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32)
    rng = np.random.default_rng(seed)
    tile = rng.normal(0, NOISE, (min(512, size_hw[0]), size_hw[1], 3)).astype(np.float32)
    repeats = -(-size_hw[0] // len(tile))
    wide += np.concatenate([tile] * repeats)[: size_hw[0]]
    return wide.clip(0, 255).astype(np.uint8)


def write_photographs(
    folder: Path, size_hw: tuple[int, int], num_images: int, num_different: int
) -> Path:
    """Write JPEG files, the first few again and again, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(num_images):
        target = folder / f"{index:05d}.jpg"
        if index < num_different:
            Image.fromarray(photograph(index, size_hw)).save(target, quality=90)
        else:
            target.write_bytes((folder / f"{index % num_different:05d}.jpg").read_bytes())
    return folder
