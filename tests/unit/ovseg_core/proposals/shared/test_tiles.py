"""Proposals of tiles: an object on a border is one, and none is there twice."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import ndimage

from ovseg_core.images.batch import Image
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.proposals.shared.tiles import TiledProposer, tile_boxes

REDUCED = 4
"""As SAM: a mask has a quarter of the image's side."""


class OfColours:
    """A proposer that finds what is drawn: each connected region of one colour but black.

    It sees at most `side_px` pixels of a side, as a network does.
    """

    decode_side_px = 0

    def __init__(self, side_px: int) -> None:
        self.side_px = side_px
        self.seen: list[tuple[int, int]] = []

    def proposals(self, images: Sequence[Image]) -> tuple[Proposals, ...]:
        return tuple(self._of(image) for image in images)

    def _of(self, image: Image) -> Proposals:
        self.seen.append((image.shape[1], image.shape[2]))
        step = max(1, -(-max(image.shape[1:]) // self.side_px)) * REDUCED
        small = image[:, step // 2 :: step, step // 2 :: step].int()
        colours = (small[0] * 65536 + small[1] * 256 + small[2]).numpy()
        masks = []
        for colour in np.unique(colours[colours > 0]):
            regions, num = ndimage.label(colours == colour)
            masks += [regions == number + 1 for number in range(num)]
        inside = np.stack(masks) if masks else np.zeros((0, *colours.shape), bool)
        values = torch.where(torch.from_numpy(inside), 6.0, -6.0).half()
        return Proposals(values, torch.full((len(values),), 0.9))


def drawn(height: int, width: int, boxes: Sequence[tuple[int, int, int, int]]) -> Image:
    """Rectangles (top, left, bottom, right), each in a colour of its own, on black."""
    image = torch.zeros((3, height, width), dtype=torch.uint8)
    for number, (top, left, bottom, right) in enumerate(boxes):
        colour = torch.tensor([40 + 20 * (number % 10), 250 - 9 * number, 90])
        image[:, top:bottom, left:right] = colour.to(torch.uint8)[:, None, None]
    return image


def matched(found: Proposals, image: Image, boxes: Sequence[tuple[int, int, int, int]]) -> None:
    """Assert that there is exactly one proposal for each rectangle, of its shape."""
    size = (image.shape[1], image.shape[2])
    masks = found.enlarged(size)
    truth = torch.zeros((len(boxes), *size), dtype=torch.bool)
    for number, (top, left, bottom, right) in enumerate(boxes):
        truth[number, top:bottom, left:right] = True
    shared = (masks[:, None] & truth[None]).sum((2, 3))
    ious = shared / (masks[:, None] | truth[None]).sum((2, 3))
    assert len(found) == len(boxes)
    assert (ious.max(0).values > 0.8).all(), ious.max(0).values
    assert ious.max(0).indices.unique().numel() == len(boxes)


CASES = {
    "on a vertical border": [(30, 100, 70, 156)],
    "on a horizontal border": [(104, 10, 180, 60)],
    "on a corner of four tiles": [(90, 90, 170, 170)],
    "in an overlap only": [(20, 104, 50, 120)],
    "larger than a tile": [(20, 10, 200, 300)],
    "across three tiles": [(40, 16, 60, 360)],
    "two that touch on a border": [(40, 60, 90, 112), (40, 112, 90, 160)],
    "many": [(y, x, y + 24, x + 24) for y in range(8, 200, 96) for x in range(8, 360, 48)],
}


@pytest.mark.parametrize("boxes", CASES.values(), ids=CASES.keys())
def test_an_object_on_borders_of_tiles_is_one(boxes: list[tuple[int, int, int, int]]) -> None:
    image = drawn(240, 400, boxes)
    tiled = TiledProposer(OfColours(128), 128, 300, 0.7)
    matched(tiled.proposals([image])[0], image, boxes)


def test_small_objects_of_a_large_image_are_found() -> None:
    boxes = [(y, x, y + 12, x + 12) for y in range(4, 220, 32) for x in range(4, 380, 64)]
    image = drawn(240, 400, boxes)
    coarse = OfColours(40)
    assert len(coarse.proposals([image])[0]) < len(boxes)
    tiled = TiledProposer(OfColours(128), 128, 300, 0.7)
    assert len(tiled.proposals([image])[0]) == len(boxes)


def test_images_that_fit_into_a_tile_are_not_divided() -> None:
    inner = OfColours(128)
    image = drawn(100, 128, [(10, 10, 50, 60)])
    (found,) = TiledProposer(inner, 128, 300, 0.7).proposals([image])
    assert inner.seen == [(100, 128)]
    assert torch.equal(found.masks_Nhw, inner.proposals([image])[0].masks_Nhw)


def test_an_image_without_objects_has_no_proposals() -> None:
    (found,) = TiledProposer(OfColours(64), 64, 300, 0.7).proposals([drawn(90, 200, [])])
    assert len(found) == 0
    assert (found.region_map() == -1).all()


def test_only_so_many_stay_and_come_by_falling_score() -> None:
    boxes = CASES["many"]
    (found,) = TiledProposer(OfColours(128), 128, 5, 0.7).proposals([drawn(240, 400, boxes)])
    assert len(found) == 5
    assert (found.scores_N.diff() <= 1e-6).all()


@pytest.mark.parametrize("size_hw", [(100, 128), (129, 128), (240, 400), (1000, 333)])
def test_tiles_cover_an_image_and_overlap_by_a_quarter(size_hw: tuple[int, int]) -> None:
    boxes = tile_boxes(size_hw, 128)
    assert len(set(boxes)) == len(boxes)
    covered = np.zeros(size_hw, int)
    for top, left, bottom, right in boxes:
        assert (bottom - top, right - left) == (min(128, size_hw[0]), min(128, size_hw[1]))
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1
    lefts = sorted({box[1] for box in boxes})
    assert all(b - a <= 96 for a, b in itertools.pairwise(lefts))
