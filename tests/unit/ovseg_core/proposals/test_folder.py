"""Proposals from masks of another tool."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_core.images.batch import ImageBatch
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.proposals import WHERE
from ovseg_core.proposals.folder import MaskFiles
from ovseg_core.proposals.shared.index_map import MAX_VALUES
from schemas.errors import ConfigError, ErrorCode, ImageError
from tests.helpers.tiny_models import random_image

CPU = torch.device("cpu")


def masks_of(folder: Path, *paths: str) -> tuple[Proposals, ...]:
    images = tuple(random_image(seed, 4, 6) for seed in range(len(paths)))
    return MaskFiles(str(folder), CPU).proposals(ImageBatch(images, paths))


def test_masks_of_both_formats(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    masks = np.zeros((2, 2, 3), np.uint8)
    masks[0, 0] = masks[1, :, 2] = 1
    np.savez(tmp_path / "a.npz", masks=masks, scores=np.array([0.5, 1.0]))
    Image.fromarray(np.array([[0, 300, 65535]], np.uint16)).save(tmp_path / "b" / "c.png")
    palette = Image.fromarray(np.array([[0, 2], [1, 1], [0, 0]], np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 9, 9, 9, 9, 9, 9])
    palette.save(tmp_path / "d.png")
    first, second, third = masks_of(tmp_path, "a.jpg", "b/c.jpeg", "d.jpg")
    assert first.region_map().tolist() == [[0, 0, 1], [-1, -1, 1]]
    assert (first.masks_Nhw > 0).int().tolist() == masks.tolist()
    assert first.scores_N.tolist() == [0.5, 1.0]
    assert second.region_map().tolist() == [[-1, 0, 1]]
    assert (second.masks_Nhw > 0).int().tolist() == [[[0, 1, 0]], [[0, 0, 1]]]
    assert third.region_map().tolist() == [[-1, 1], [0, 0], [-1, -1]]
    assert third.scores_N.tolist() == [1.0, 1.0]


def test_no_masks_are_no_proposals(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", masks=np.zeros((0, 2, 5), bool))
    Image.fromarray(np.zeros((2, 5), np.uint8)).save(tmp_path / "b.png")
    for found in masks_of(tmp_path, "a.jpg", "b.jpg"):
        assert len(found) == 0
        assert (found.region_map() == -1).all()


def test_many_masks_are_reduced_and_vote_at_their_own_size(tmp_path: Path) -> None:
    index = np.arange(1, 60_001, dtype=np.uint16).reshape(200, 300)
    Image.fromarray(index).save(tmp_path / "a.png")
    (found,) = masks_of(tmp_path, "a.jpg")
    assert found.region_map().tolist() == (index.astype(int) - 1).tolist()
    assert len(found) == 60_000
    assert found.masks_Nhw.numel() <= MAX_VALUES
    halves = np.zeros((2, 6000, 4000), bool)
    halves[0, :3000] = halves[1, :, 2000:] = True
    np.savez_compressed(tmp_path / "b.npz", masks=halves)
    (found,) = masks_of(tmp_path, "b.jpg")
    assert found.masks_Nhw.numel() <= MAX_VALUES
    shares = found.area_shares((2, 2)).tolist()
    np.testing.assert_allclose(shares, [[[1, 1], [0, 0]], [[0, 1], [0, 1]]], atol=2e-3)


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
    with pytest.raises(ConfigError, match=rf"{WHERE}\.options\.folder: no folder at"):
        MaskFiles(str(tmp_path / "nowhere"), CPU)
    with pytest.raises(ConfigError, match=rf"{WHERE}\.options\.folder.*ImageBatch"):
        MaskFiles(str(tmp_path), CPU).proposals([random_image(0, 4, 6)])


def test_scores_have_a_number_for_each_mask(tmp_path: Path) -> None:
    for scores in (np.ones(3), np.array([0.5, 1.5]), np.array([0.5, np.nan])):
        np.savez(tmp_path / "a.npz", masks=np.ones((2, 3, 4)), scores=scores)
        with pytest.raises(ImageError, match=r"expected scores \(2,\) in \[0, 1\]"):
            masks_of(tmp_path, "a.jpg")
