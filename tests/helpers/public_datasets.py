"""Public data sets in their own folders and file formats, a few tiny images each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((36, 54), (48, 40), (33, 60))
"""(height, width) of the images, all different and not square."""


def blocks(seed: int, values: Sequence[int], size_hw: tuple[int, int]) -> np.ndarray:
    """Return (H, W) uint8 blocks of random values; each of the values occurs."""
    rng = np.random.default_rng(seed)
    side = max(4, int(np.ceil(len(values) ** 0.5)))
    cells = rng.permutation(np.resize(rng.permutation(values), side * side)).reshape(side, side)
    height, width = size_hw
    rows, columns = np.arange(height) * side // height, np.arange(width) * side // width
    return cells[rows][:, columns].astype(np.uint8)


def photo(file: Path, seed: int, size_hw: tuple[int, int]) -> None:
    """Write an image of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size_hw[::-1], Image.Resampling.BICUBIC).save(file)


def grey(file: Path, values: np.ndarray) -> None:
    """Write a label image of one channel."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


def palette(file: Path, values: np.ndarray) -> None:
    """Write a label image as PASCAL VOC has them: indices into a palette."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    assert image.mode == "P"
    image.save(file)


Maps = dict[str, np.ndarray]
"""The pixel values of each image's truth, by the image's path in its folder."""


def voc(root: Path, split: str, truth: str, values: Sequence[int]) -> Maps:
    """VOC2012 or VOC2010, with more images than the split lists."""
    maps = {}
    for index, size in enumerate(SIZES):
        name = f"2007_{index:06d}"
        maps[f"{name}.jpg"] = blocks(index, values, size)
        photo(root / "JPEGImages" / f"{name}.jpg", index, size)
        palette(root / truth / f"{name}.png", maps[f"{name}.jpg"])
    photo(root / "JPEGImages" / "2008_000099.jpg", 99, (20, 30))
    (root / split).parent.mkdir(parents=True)
    (root / split).write_text("".join(f"{Path(name).stem}\n" for name in maps))
    return maps


def coco(root: Path, images: str, maps: str, values: Sequence[int]) -> Maps:
    """COCO with pixel maps: `maps` is folder and ending."""
    folder, ending = maps.split("*")
    return {
        f"{index:012d}.jpg": _pair(
            root / images / f"{index:012d}.jpg",
            root / folder / f"{index:012d}{ending}",
            blocks(index, values, size),
        )
        for index, size in enumerate(SIZES)
    }


def cityscapes(root: Path, ending: str, values: Sequence[int]) -> Maps:
    """Folders of cities; the truth folder has further files."""
    maps = {}
    for index, (city, size) in enumerate(
        zip(("frankfurt", "munster", "lindau"), SIZES, strict=True)
    ):
        name = f"{city}/{city}_00000{index}_000019"
        image = root / "leftImg8bit/val" / f"{name}_leftImg8bit.png"
        truth = root / "gtFine/val" / f"{name}{ending}"
        maps[f"{name}_leftImg8bit.png"] = _pair(image, truth, blocks(index, values, size))
        grey(root / "gtFine/val" / f"{name}_gtFine_instanceIds.png", np.zeros(size, np.uint8))
    return maps


def plain(root: Path, images: str, truth: str, values: Sequence[int]) -> Maps:
    """ADE20K and CamVid: two folders of equal names; `images` is folder and ending."""
    folder, ending = images.split("*")
    return {
        f"val_{index}{ending}": _pair(
            root / folder / f"val_{index}{ending}",
            root / truth / f"val_{index}.png",
            blocks(index, values, size),
        )
        for index, size in enumerate(SIZES)
    }


def _pair(image: Path, truth: Path, values: np.ndarray) -> np.ndarray:
    photo(image, values.sum(), values.shape)
    grey(truth, values)
    return values
