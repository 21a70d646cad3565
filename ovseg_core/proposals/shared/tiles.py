"""Proposals of large images: of the whole image and of overlapping tiles, joined to one set.

A network sees an image at its own input size, in which small objects of a large image vanish; in a
tile they are as large as in a small image. An object that a tile's border cuts is in the next tile
as well: two masks are one object if they agree where the tiles overlap.

Shapes: N masks, h w their pixels, H W the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.decision.refine.promptable import PromptableImages
from ovseg_core.images.batch import Image
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.proposals import PromptableProposer
from ovseg_core.proposals.shared.index_map import reduced_size
from ovseg_core.proposals.shared.overlaps import best_by_box, mask_boxes

OVERLAP = 0.25
"""Of neighbouring tiles, as a share of their side."""
SAME_IOU = 0.7
"""Two masks are one object if their IoU over the overlap of their tiles is at least this."""
_LEAST_SHARED = 4
"""Samples of an overlap that an object must have there to be recognised."""
_SAMPLES = 48
"""Along a side of an overlap."""
_SMALL_CELLS = 8
"""An object is small in the whole image if it has fewer pixels of its masks along a side."""
_SMALL_IOU = 0.3
"""A small mask of the whole image stays if its box has no larger IoU with any of the tiles'."""
_CUT_COVERED = 0.9
"""A mask that a border cuts is left out if another one covers this share of it."""
_UNITS = 32
"""Tiles start at multiples of this part of their side, but for the last ones."""
_TILES_AT_ONCE = 8
_SPARE = 4
"""Of a tile so many times its share of `max_proposals` are looked at."""
_LEAST_PER_TILE = 16
_LIMIT = 8.0
"""Values of masks are cut to plus or minus this."""

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels of the image; the last two are excluded."""


@dataclass(frozen=True)
class Part:
    """One mask of one tile, or of the whole image.

    Attributes:
        tile: number of its tile; -1: the whole image.
        box: of the tile.
        mask_hw: values over the box, inside above 0.
        score: of the mask.
        cut_sides: whether it reaches the tile's top, left, bottom and right, where that is no edge
            of the image.
    """

    tile: int
    box: Box
    mask_hw: Tensor
    score: float
    cut_sides: tuple[bool, ...]


class TiledProposer:
    """A proposer that looks at tiles of an image beside the whole.

    Args:
        proposer: of an image or a tile.
        tile_px: side of a tile; an image that fits into one is not divided.
        max_proposals: of an image; those with the highest scores stay.
        max_box_iou: of two masks whose boxes have a larger IoU the lower score is dropped.
    """

    decode_side_px = 0
    """Every pixel."""

    def __init__(
        self, proposer: PromptableProposer, tile_px: int, max_proposals: int, max_box_iou: float
    ) -> None:
        self._proposer = proposer
        self._tile_px = tile_px
        self._max_proposals = max_proposals
        self._max_box_iou = max_box_iou

    @torch.inference_mode()
    def proposals(self, images: Sequence[Image]) -> tuple[Proposals, ...]:
        """Return the proposals of each image, by falling score."""
        return self._joined(images, self._proposer.proposals(images))

    @torch.inference_mode()
    def prompted_proposals(
        self, images: Sequence[Image]
    ) -> tuple[tuple[Proposals, ...], PromptableImages]:
        """Return the proposals, and the whole images as encoded: tiles are not asked again."""
        whole, prompted = self._proposer.prompted_proposals(images)
        return self._joined(images, whole), prompted

    def _joined(self, images: Sequence[Image], whole: Sequence[Proposals]) -> tuple[Proposals, ...]:
        pairs = zip(images, whole, strict=True)
        return tuple(self._with_tiles(image, found) for image, found in pairs)

    def _with_tiles(self, image: Image, whole: Proposals) -> Proposals:
        size_hw = (image.shape[1], image.shape[2])
        boxes = tile_boxes(size_hw, self._tile_px)
        if len(boxes) == 1:
            return whole
        most = max(_LEAST_PER_TILE, _SPARE * self._max_proposals // len(boxes))
        tiles: list[list[Part]] = []
        for start in range(0, len(boxes), _TILES_AT_ONCE):
            some = boxes[start : start + _TILES_AT_ONCE]
            cuts = [image[:, top:bottom, left:right] for top, left, bottom, right in some]
            for number, found in enumerate(self._proposer.proposals(cuts), start):
                tiles.append(parts_of(found, number, boxes[number], size_hw)[:most])
        objects = joined(tiles)
        parts = parts_of(whole, -1, (0, 0, *size_hw), size_hw)
        objects += [[part] for part in self._not_in_tiles(parts, objects)]
        return self._best(objects, whole, size_hw)

    def _not_in_tiles(self, whole: list[Part], objects: list[list[Part]]) -> list[Part]:
        """Return the masks of the whole image that the tiles have not: theirs are finer."""
        complete = [_box_of(parts) for parts in objects if not _is_cut(parts)]
        if not whole or not complete:
            return whole
        from torchvision.ops import box_iou

        boxes_N4 = torch.tensor([_box_of([part]) for part in whole])
        nearest_N = box_iou(boxes_N4, torch.tensor(complete)).amax(1)
        sides_N2 = boxes_N4[:, 2:] - boxes_N4[:, :2]
        cell_px = whole[0].box[2] / whole[0].mask_hw.shape[0]
        is_thin_N = sides_N2.amin(1) < _SMALL_CELLS * cell_px
        is_small_N = is_thin_N | (sides_N2.amax(1) < OVERLAP * self._tile_px)
        stay_N = nearest_N <= torch.where(is_small_N, _SMALL_IOU, self._max_box_iou)
        return [part for part, stays in zip(whole, stay_N.tolist(), strict=True) if stays]

    def _best(self, objects: list[list[Part]], whole: Proposals, size_hw: SizeHW) -> Proposals:
        """Return the best of the objects as masks of the whole image."""
        if not objects:
            return whole
        device = whole.scores_N.device
        boxes_N4 = torch.tensor([_box_of(parts) for parts in objects], device=device)
        scores_N = torch.tensor([_score_of(parts) for parts in objects], device=device)
        kept = best_by_box(boxes_N4, scores_N, self._max_box_iou)[: self._max_proposals].tolist()
        # Not enlarged beyond what a tile's masks have.
        finest = max(
            part.mask_hw.shape[0] / (part.box[2] - part.box[0])
            for number in kept for part in objects[number]
        )  # fmt: skip
        full_hw = tuple(max(1, round(side * min(finest, 1.0))) for side in size_hw)
        canvas_hw = reduced_size(len(kept), full_hw)
        masks_Nhw = torch.stack([_drawn(objects[one], canvas_hw, size_hw) for one in kept])
        cut = torch.tensor([_is_cut(objects[one]) for one in kept])
        stay = ~_covered(masks_Nhw > 0, cut.to(device))
        return Proposals(masks_Nhw[stay], scores_N[kept][stay])


def tile_boxes(size_hw: SizeHW, tile_px: int) -> list[Box]:
    """Return the tiles of an image by row, all of one size; one if it fits."""
    rows, columns = (_starts(side, tile_px) for side in size_hw)
    height, width = (min(side, tile_px) for side in size_hw)
    return [(top, left, top + height, left + width) for top in rows for left in columns]


def parts_of(found: Proposals, tile: int, box: Box, size_hw: SizeHW) -> list[Part]:
    """Return the masks of a tile."""
    inside_Nhw = found.masks_Nhw > 0
    sides = (
        (box[0] > 0, inside_Nhw[:, 0].any(1)),
        (box[1] > 0, inside_Nhw[:, :, 0].any(1)),
        (box[2] < size_hw[0], inside_Nhw[:, -1].any(1)),
        (box[3] < size_hw[1], inside_Nhw[:, :, -1].any(1)),
    )
    cut_N4 = torch.stack([touches & is_inner for is_inner, touches in sides], dim=1).tolist()
    values_Nhw = found.masks_Nhw.clamp(-_LIMIT, _LIMIT)
    each = zip(values_Nhw, found.scores_N.tolist(), cut_N4, strict=True)
    return [Part(tile, box, mask_hw, score, tuple(cut)) for mask_hw, score, cut in each]


def joined(tiles: Sequence[Sequence[Part]]) -> list[list[Part]]:
    """Join the masks of tiles that show one object.

    Of two tiles that overlap, pairs of masks are joined one to one, those with the highest IoU over
    the overlap first. An object never has two masks of one tile.

    Returns:
        The parts of each object, in the order of tiles.
    """
    pairs: list[tuple[float, int, int]] = []
    parts = [part for tile in tiles for part in tile]
    firsts = torch.tensor([0, *(len(tile) for tile in tiles)]).cumsum(0).tolist()
    for a, b in combinations(range(len(tiles)), 2):
        ious = _shared_ious(tiles[a], tiles[b])
        if ious is not None:
            for i, j in (ious >= SAME_IOU).nonzero().tolist():
                pairs.append((float(ious[i, j]), firsts[a] + i, firsts[b] + j))
    members = {number: {number} for number in range(len(parts))}
    for _, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        both = members[i] | members[j]
        if len({parts[one].tile for one in both}) == len(both):
            members |= dict.fromkeys(both, both)
    objects = {min(group): sorted(group) for group in members.values()}
    return [[parts[one] for one in objects[first]] for first in sorted(objects)]


def _starts(side: int, tile_px: int) -> list[int]:
    if side <= tile_px:
        return [0]
    # Whole pixels of the masks, so that two tiles see an object on the same ones.
    unit = max(1, tile_px // _UNITS)
    stride = max(unit, round(tile_px * (1 - OVERLAP)) // unit * unit)
    return [*range(0, side - tile_px, stride), side - tile_px]


def _shared_ious(a: Sequence[Part], b: Sequence[Part]) -> Tensor | None:
    """Return the IoUs (N of a, N of b) over the overlap of two tiles; None: there is none."""
    if not a or not b:
        return None
    corners = zip(a[0].box, b[0].box, strict=True)
    top, left, bottom, right = (
        (max if index < 2 else min)(pair) for index, pair in enumerate(corners)
    )
    if top >= bottom or left >= right:
        return None
    size = min(_SAMPLES, bottom - top), min(_SAMPLES, right - left)
    first, second = (
        (_sampled(tile, (top, left, bottom, right), size) > 0).flatten(1).float() for tile in (a, b)
    )
    shared = first @ second.T
    areas = first.sum(1)[:, None] + second.sum(1)[None] - shared
    return torch.where(shared >= _LEAST_SHARED, shared / areas.clamp(min=1), 0.0)


def _sampled(parts: Sequence[Part], box: Sequence[float], size_hw: SizeHW) -> Tensor:
    """Return the values of masks of one tile at the centres of a grid over a box (N, h, w)."""
    masks_Nhw = torch.stack([part.mask_hw for part in parts]).float()
    tile = parts[0].box
    places = []
    for axis in (0, 1):
        num, start, stop = size_hw[axis], box[axis], box[axis + 2]
        centres = start + (torch.arange(num, device=masks_Nhw.device) + 0.5) * (stop - start) / num
        places.append((centres - tile[axis]) / (tile[axis + 2] - tile[axis]) * 2 - 1)
    y, x = torch.meshgrid(*places, indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None]
    return F.grid_sample(
        masks_Nhw[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]


def _drawn(parts: Sequence[Part], canvas_hw: SizeHW, size_hw: SizeHW) -> Tensor:
    """Return the union of an object's masks on a canvas for the whole image, float16."""
    device = parts[0].mask_hw.device
    canvas = torch.full(canvas_hw, -_LIMIT, device=device)
    for part in parts:
        # The cells whose centre is in the tile.
        cells = [
            max(0, math.ceil(edge * num / side - 0.5))
            for edge, num, side in zip(part.box, canvas_hw * 2, size_hw * 2, strict=True)
        ]
        top, left, bottom, right = cells
        if top >= bottom or left >= right:
            continue
        rows, columns = (side / num for num, side in zip(canvas_hw, size_hw, strict=True))
        shown = (top * rows, left * columns, bottom * rows, right * columns)
        per_cell = part.mask_hw.shape[0] / (part.box[2] - part.box[0]) * rows
        finer = max(1, min(4, math.ceil(per_cell - 1e-6)))
        size = (bottom - top) * finer, (right - left) * finer
        values = _sampled([part], shown, size)[None]
        here = F.avg_pool2d(values, finer)[0, 0]
        canvas[top:bottom, left:right] = torch.maximum(canvas[top:bottom, left:right], here)
    return canvas.half()


def _covered(masks_Nhw: Tensor, cut_N: Tensor) -> Tensor:
    """Return which of the cut masks lie in one that is not cut, bool (N)."""
    pixels = masks_Nhw.flatten(1).float()
    shared = pixels @ pixels.T
    own = pixels.sum(1).clamp(min=1)
    inside = shared / own[:, None] >= _CUT_COVERED
    return (inside & ~cut_N[None]).any(1) & cut_N


def _box_of(parts: Sequence[Part]) -> tuple[float, ...]:
    """Return left, top, right, bottom of an object in pixels of the image."""
    corners = []
    for part in parts:
        top, left, bottom, right = part.box
        height, width = part.mask_hw.shape
        scale = torch.tensor([(right - left) / width, (bottom - top) / height] * 2)
        box = mask_boxes(part.mask_hw[None] > 0)[0].cpu() * scale
        corners.append(box + torch.tensor([left, top, left, top]))
    stacked = torch.stack(corners)
    return (*stacked[:, :2].amin(0).tolist(), *stacked[:, 2:].amax(0).tolist())


def _is_cut(parts: Sequence[Part]) -> bool:
    """Return whether an object reaches a border behind which no other tile has seen it."""
    outer = [min(part.box[axis] for part in parts) for axis in (0, 1)]
    outer += [max(part.box[axis] for part in parts) for axis in (2, 3)]
    return any(
        is_cut and part.box[side] == outer[side]
        for part in parts
        for side, is_cut in enumerate(part.cut_sides)
    )


def _score_of(parts: Sequence[Part]) -> float:
    """Return the mean score of an object's masks, weighted by their areas."""
    areas = [max(1, int((part.mask_hw > 0).sum())) * _cell_area(part) for part in parts]
    return sum(part.score * area for part, area in zip(parts, areas, strict=True)) / sum(areas)


def _cell_area(part: Part) -> float:
    top, left, bottom, right = part.box
    return (bottom - top) * (right - left) / part.mask_hw.numel()
