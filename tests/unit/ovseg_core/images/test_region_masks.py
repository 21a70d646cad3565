"""Region maps from masks of another tool."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_core.images.batch import ImageBatch
from ovseg_core.images.region_masks import region_masks, smallest_on_top
from schemas.errors import ConfigError, ErrorCode, ImageError
from tests.helpers.tiny_models import random_image


def masks_of(folder: Path, *paths: str) -> tuple[torch.Tensor, ...]:
    images = tuple(random_image(seed, 4, 6) for seed in range(len(paths)))
    return region_masks(str(folder), "method.options.region_folder").read(ImageBatch(images, paths))


def test_smallest_of_overlapping_masks_is_on_top() -> None:
    masks = np.zeros((4, 2, 5), bool)
    masks[0, 0, 1] = True
    masks[1, :, :4] = True
    masks[2, 0, :3] = masks[3, 0, 2:5] = True  # of one size: the first is on top
    assert smallest_on_top(masks).tolist() == [[2, 0, 2, 3, 3], [1, 1, 1, 1, -1]]
    assert (smallest_on_top(np.zeros((0, 2, 5), bool)) == -1).all()


def test_masks_of_both_formats(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    masks = np.zeros((2, 2, 3), np.uint8)
    masks[0, 0] = masks[1, :, 2] = 1
    np.savez(tmp_path / "a.npz", masks=masks, scores=np.ones(2))
    Image.fromarray(np.array([[0, 300, 65535]], np.uint16)).save(tmp_path / "b" / "c.png")
    palette = Image.fromarray(np.array([[0, 2], [1, 1], [0, 0]], np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 9, 9, 9, 9, 9, 9])
    palette.save(tmp_path / "d.png")
    first, second, third = masks_of(tmp_path, "a.jpg", "b/c.jpeg", "d.jpg")
    assert first.tolist() == [[0, 0, 1], [-1, -1, 1]]
    assert second.tolist() == [[-1, 299, 65534]]
    assert third.tolist() == [[-1, 1], [0, 0], [-1, -1]]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.ones((2, 3)), r"expected masks \(n, h, w\), got \(2, 3\)"),
        (np.ones((2, 0, 3)), "expected masks"),
        (np.array([{}]), "unreadable region masks"),
    ],
)
def test_unusable_masks_are_an_image_error(masks: Any, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", masks=masks)
    with pytest.raises(ImageError, match=message) as caught:
        masks_of(tmp_path, "a.jpg")
    assert caught.value.code is ErrorCode.UNDECODABLE


def test_files_of_other_formats_are_an_image_error(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 not masks")
    with (tmp_path / "c.npz").open("wb") as stream:
        np.save(stream, np.zeros((1, 2, 3)))
    with pytest.raises(ImageError, match="with a palette, got RGB"):
        masks_of(tmp_path, "a.jpg")
    with pytest.raises(ImageError, match="unreadable region masks"):
        masks_of(tmp_path, "b.jpg")
    with pytest.raises(ImageError, match="expected an NPZ archive"):
        masks_of(tmp_path, "c.jpg")
    with pytest.raises(ImageError, match=r"no region masks: expected d\.npz or \.png") as caught:
        masks_of(tmp_path, "d.jpg")
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_region_masks_need_a_folder_and_image_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.options\.region_folder: no folder at"):
        region_masks(str(tmp_path / "nowhere"), "method.options.region_folder")
    with pytest.raises(ConfigError, match=r"method\.options\.region_folder.*ImageBatch"):
        region_masks(str(tmp_path), "method.options.region_folder").read([random_image(0, 4, 6)])
