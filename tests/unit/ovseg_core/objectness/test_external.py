"""Objectness maps of another tool."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import ImageBatch
from ovseg_core.objectness import build_objectness
from ovseg_core.objectness.external import combine_scored
from schemas.config import NamedOptions
from schemas.errors import ConfigError, ErrorCode, ImageError
from tests.helpers.tiny_models import random_image, tiny_backbones


def source(name: str, backbones: Backbones | None = None, **options: Any) -> Any:
    part = NamedOptions(name=name, options=options)
    return build_objectness(part, backbones or tiny_backbones())


def external(folder: Path, paths: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    images = tuple(random_image(seed, 4, 6) for seed in range(len(paths)))
    return source("external", folder=str(folder)).maps(ImageBatch(images, paths))


def test_png_maps_of_8_and_16_bits(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    Image.fromarray(np.array([[0, 51], [255, 102]], np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 65535, 13107]], np.uint16)).save(tmp_path / "b" / "c.png")
    first, second = external(tmp_path, ("a.jpg", "b/c.jpeg"))
    torch.testing.assert_close(first, torch.tensor([[0, 0.2], [1, 0.4]]))
    torch.testing.assert_close(second, torch.tensor([[0, 1, 0.2]]))


def test_npz_of_scored_masks_is_combined(tmp_path: Path) -> None:
    masks = np.zeros((3, 2, 3), bool)
    masks[0, 0] = masks[1, :, 0] = masks[2] = True
    np.savez(tmp_path / "a.npz", masks=masks, scores=np.array([0.9, 0.3, 0.29]))
    (combined,) = external(tmp_path, ("a.jpg",))
    expected = torch.tensor([[1.2, 0.9, 0.9], [0.3, 0, 0]]) / 1.2
    torch.testing.assert_close(combined, expected)


def test_combine_scored_without_masks_is_zero() -> None:
    for count in (0, 2):
        masks, scores = np.ones((count, 2, 3), bool), np.full(count, 0.1)
        assert not combine_scored(masks, scores, 0.3).any()
    with pytest.raises(ValueError, match=r"expected masks \(n, h, w\)"):
        combine_scored(np.ones((2, 3)), np.ones(2), 0.3)


def test_npy_map_keeps_its_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 5))
    np.save(tmp_path / "a.b.npy", values)
    (found,) = external(tmp_path, ("a.b.png",))
    torch.testing.assert_close(found, torch.from_numpy(values).float())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.full((2, 3), 1.5), r"expected \(h, w\) in \[0, 1\]"),
        (np.full((2, 3), np.nan), r"expected \(h, w\) in \[0, 1\]"),
        (np.zeros((2, 3, 3)), r"got shape \(2, 3, 3\)"),
        (np.array([{}]), "unreadable objectness map"),
    ],
)
def test_unusable_map_is_an_image_error(content: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(ImageError, match=message) as caught:
        external(tmp_path, ("a.jpg",))
    assert caught.value.code is ErrorCode.UNDECODABLE


@pytest.mark.parametrize("name", ["a.png", "a.npz"])
def test_truncated_map_is_an_image_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 not a map")
    with pytest.raises(ImageError, match="unreadable objectness map"):
        external(tmp_path, ("a.jpg",))


def test_missing_map_is_an_image_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    with pytest.raises(ImageError, match=r"expected b\.png, \.npy or \.npz") as caught:
        external(tmp_path, ("a.jpg", "b.jpg"))
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_external_needs_a_local_folder_and_image_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"objectness\.options\.folder: no folder at"):
        source("external", folder=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="expected a local folder"):
        source("external", folder="s3://bucket/maps")
    with pytest.raises(
        ConfigError,
        match=r"^method\.options\.objectness\.options\.folder: missing; expected a value",
    ):
        source("external")
    with pytest.raises(ConfigError, match="ImageBatch"):
        source("external", folder=str(tmp_path)).maps([random_image(0, 4, 6)])
