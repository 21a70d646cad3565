"""A drawn stand-in for CamVid in the folders of the SegNet tutorial: street scenes, 11 classes."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE_HW = (96, 128)
VOID = 11
SPLITS = {"train": 24, "val": 4, "test": 8}
"""Images by folder; the truth of `train` lies in `trainannot`, and so on."""
SKY, BUILDING, POLE, ROAD, SIDEWALK, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
COLOURS = np.array(
    [
        *((150, 190, 235), (140, 95, 75), (200, 200, 90), (75, 75, 85), (175, 160, 165)),
        *((50, 120, 45), (220, 40, 45), (225, 150, 70), (40, 60, 170), (235, 95, 190)),
        *((60, 200, 190), (0, 0, 0)),
    ]
)


def write_camvid(root: Path, seed: int = 0) -> Path:
    """Write the folders below `root` and return it."""
    rng = np.random.default_rng(seed)
    for split, count in SPLITS.items():
        for index in range(count):
            pixels, labels = draw_street(rng)
            for folder, values in ((split, pixels), (f"{split}annot", labels)):
                file = root / folder / f"{index:04d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(file)
    return root


def draw_street(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an image uint8 (H, W, 3) and its label image uint8 (H, W), values 0 to 11."""
    height, width = SIZE_HW
    labels = np.full(SIZE_HW, SKY, np.uint8)

    def paint(label: int, top: int, left: int, rows: int, columns: int) -> None:
        labels[max(top, 0) : top + rows, max(left, 0) : left + columns] = label

    ground = height // 2 + int(rng.integers(-4, 5))
    for left in range(0, width, 32):
        paint(BUILDING, ground - int(rng.integers(16, 36)), left, height, 26)
    middle = int(rng.integers(width // 3, 2 * width // 3))
    paint(TREE, ground - 30, middle, 22, 28)
    paint(FENCE, ground - 10, middle + 20, 10, 36)
    paint(SIDEWALK, ground, 0, height, width)
    paint(ROAD, ground + 12, 0, height, width)
    pole = int(rng.integers(8, width - 16))
    paint(POLE, ground - 34, pole, 44, 7)
    paint(SIGN, ground - 40, pole - 5, 14, 16)
    lanes = rng.permutation(4) * (width // 4)
    paint(CAR, ground + 16, int(lanes[0]) + 2, 16, 28)
    paint(PEDESTRIAN, ground - 4, int(lanes[1]) + 8, 24, 10)
    paint(BICYCLIST, ground + 14, int(lanes[2]) + 6, 20, 16)
    paint(VOID, height - 8, int(lanes[3]), 8, 30)
    pixels = COLOURS[labels] + rng.normal(0, 14, (*SIZE_HW, 1)) + rng.normal(0, 6, (*SIZE_HW, 3))
    return np.clip(pixels * rng.uniform(0.85, 1.15), 0, 255).astype(np.uint8), labels
