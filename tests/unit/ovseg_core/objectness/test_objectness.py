"""Foreground sources: FOUND's head, limits of size, and maps from other tools."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import ImageBatch
from ovseg_core.objectness import build_objectness, by_shape
from ovseg_core.objectness.external import combine_scored
from schemas.config import NamedOptions
from schemas.errors import ConfigError, ErrorCode, ImageError, WeightsError
from tests.helpers.tiny_models import random_image, tiny_backbones, tiny_folder, write_head

CPU = torch.device("cpu")


def source(name: str, backbones: Backbones | None = None, **options: Any) -> Any:
    part = NamedOptions(name=name, options=options)
    return build_objectness(part, backbones or tiny_backbones())


def external(folder: Path, paths: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    images = tuple(random_image(seed, 4, 6) for seed in range(len(paths)))
    return source("external", folder=str(folder)).maps(ImageBatch(images, paths))


def test_images_of_one_size_go_together_and_come_back_in_order() -> None:
    seen: list[int] = []

    def mean(pixels_B3HW: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels_B3HW))
        return pixels_B3HW.float().mean(dim=(1, 2, 3))

    images = [random_image(seed, *size) for seed, size in enumerate([(4, 6), (6, 4), (4, 6)])]
    means = by_shape(images, CPU, mean)
    assert sorted(seen) == [1, 2]
    torch.testing.assert_close(torch.stack(means), torch.stack([i.float().mean() for i in images]))


@pytest.mark.parametrize("name", ["found", "found_bkg"])
def test_large_images_are_reduced_first(name: str) -> None:
    image = random_image(0, 60, 90)
    small, whole, free = (source(name, max_side_px=limit).maps([image])[0] for limit in (45, 90, 0))
    assert small.shape == (30, 45)
    assert whole.shape == (60, 90)
    assert torch.equal(whole, free)


def test_a_found_head_of_another_width_is_refused(tmp_path: Path) -> None:
    head = write_head(tmp_path / "head.safetensors", torch.zeros((1, 384, 1, 1)), torch.zeros(1))
    with pytest.raises(WeightsError, match=r"\(1, 384, 1, 1\), expected \(1, 32, 1, 1\)") as caught:
        source("found", head=str(head))
    assert "\n" not in str(caught.value)


def test_the_authors_format_of_a_head_is_read(tmp_path: Path) -> None:
    weight = torch.randn((1, 32, 1, 1), generator=torch.Generator().manual_seed(5))
    torch.save({"decoder": {"weight": weight, "bias": torch.zeros(1)}}, tmp_path / "head.pt")
    backbones = tiny_backbones()
    image = random_image(0, 30, 40)
    ours = source("found", backbones, head=str(tmp_path / "head.pt")).maps([image])[0]
    torch.testing.assert_close(ours, source("found").maps([image])[0])
    assert backbones.files()["found"] == str(tmp_path / "head.pt")


def test_a_head_without_a_decoder_is_refused(tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(1)}, tmp_path / "head.pt")
    with pytest.raises(WeightsError, match=r"has no decoder\.weight, only other"):
        source("found", head=str(tmp_path / "head.pt"))


def test_without_a_network_the_authors_head_is_asked_for_by_its_address() -> None:
    folder = tiny_folder()
    vision = f"local-dir:{folder / 'vision'}"
    with pytest.raises(WeightsError, match=r"no weights file at https.*FOUND.*`embedded`"):
        source("found", tiny_backbones(vision_model=vision, resolve=str))


def test_background_is_the_complement_of_foreground() -> None:
    background = source("found_bkg")
    vision = tiny_backbones().vision
    image = random_image(3, 40, 56)
    patches = background.background(vision.forward_trunk(image[None]))[0]
    foreground = background.maps([image])[0]
    assert set(foreground.unique().tolist()) <= {0.0, 1.0}
    centres = foreground[4::8, 4::8]
    assert (centres == 1 - patches).float().mean() > 0.9


def test_grey_maps_of_both_depths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    Image.fromarray(np.array([[0, 51], [255, 102]], np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 65535, 13107]], np.uint16)).save(tmp_path / "b" / "c.png")
    first, second = external(tmp_path, ("a.jpg", "b/c.jpeg"))
    torch.testing.assert_close(first, torch.tensor([[0, 0.2], [1, 0.4]]))
    torch.testing.assert_close(second, torch.tensor([[0, 1, 0.2]]))


def test_scored_masks_are_combined(tmp_path: Path) -> None:
    masks = np.zeros((3, 2, 3), bool)
    masks[0, 0] = masks[1, :, 0] = masks[2] = True
    np.savez(tmp_path / "a.npz", masks=masks, scores=np.array([0.9, 0.3, 0.29]))
    (combined,) = external(tmp_path, ("a.jpg",))
    expected = torch.tensor([[1.2, 0.9, 0.9], [0.3, 0, 0]]) / 1.2
    torch.testing.assert_close(combined, expected)


def test_no_kept_mask_is_all_background() -> None:
    for count in (0, 2):
        masks, scores = np.ones((count, 2, 3), bool), np.full(count, 0.1)
        assert not combine_scored(masks, scores, 0.3).any()
    with pytest.raises(ValueError, match=r"expected masks \(n, h, w\)"):
        combine_scored(np.ones((2, 3)), np.ones(2), 0.3)


def test_float_maps_keep_their_values(tmp_path: Path) -> None:
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
def test_an_unusable_map_is_an_image_error(
    content: np.ndarray, message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(ImageError, match=message) as caught:
        external(tmp_path, ("a.jpg",))
    assert caught.value.code is ErrorCode.UNDECODABLE


@pytest.mark.parametrize("name", ["a.png", "a.npz"])
def test_a_torn_map_is_an_image_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 not a map")
    with pytest.raises(ImageError, match="unreadable objectness map"):
        external(tmp_path, ("a.jpg",))


def test_a_missing_map_is_an_image_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    with pytest.raises(ImageError, match=r"expected b\.png, \.npy or \.npz") as caught:
        external(tmp_path, ("a.jpg", "b.jpg"))
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_external_needs_a_folder_and_named_images(tmp_path: Path) -> None:
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
