"""Copies of an image, as collections hold them."""

import io

import numpy as np
from PIL import Image, ImageOps


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
