"""Masks of a promptable network in place of the coarse components of a label map.

As in Trident (Shi et al., arXiv 2411.09219) and RADSeg+ every connected component of a label
becomes a prompt, and the network's mask is taken where it agrees enough with the component
(docs/methods.md 14.5). All but the painting is done at the size of the network's masks, so that it
does not grow with the image.

Shapes: C components, P prompts at once, K classes with background first, h w pixels of the
network's masks, H W pixels of the canvas, R rows of one band.
"""

import logging
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ovseg_core.decision.canvas import ScoredCanvas
from ovseg_core.decision.refine.promptable import PromptedRefinement
from ovseg_core.decision.values import behind_best, probabilities_and_entropy
from ovseg_core.images.resize.nearest import SizeHW, nearest_source
from ovseg_core.rle.stack import cut_outs

logger = logging.getLogger(__name__)

MAX_COMPONENTS = 256
"""Components of an image that are refined; of more, the largest."""
_MIN_AREA = 4
"""A component of fewer pixels, at the size of the network's masks, stays as it is."""
_MAX_PROMPTS_AT_ONCE = 64
_BLUR = 1 / 9
"""Side of the square that a component is blurred over, as a share of its map's longest side."""
_COARSE_LIMIT = 6.0
"""Logit well inside a component: a probability of 0.998."""
_EIGHT_NEIGHBOURS = np.ones((3, 3), np.int8)


@dataclass(frozen=True)
class Components:
    """The components of one image, at the size of the network's masks.

    Attributes:
        numbers_hw: int64 number of each pixel's component, -1 is none.
        labels_C: int64 label of each.
        boxes_C4: left, top, right, bottom of each, in pixels of the map.
    """

    numbers_hw: Tensor
    labels_C: Tensor
    boxes_C4: Tensor


@dataclass(frozen=True)
class Evidence:
    """What a method's scores say, at the size of the network's masks.

    Attributes:
        own_hw: probability of the label of each pixel's component; -1: of none.
        best_2hw: the two most probable labels of each pixel; None: there is background to fall to.
    """

    own_hw: Tensor
    best_2hw: Tensor | None


@dataclass(frozen=True)
class Answers:
    """What the network says of each component.

    Attributes:
        masks_Chw: logits.
        agrees_C: whether the mask is taken.
        sureness_C: in [0, 1]; of masks that overlap the surer one is on top.
    """

    masks_Chw: Tensor
    agrees_C: Tensor
    sureness_C: Tensor


def refined_labels(canvas: ScoredCanvas, labels_HW: Tensor, kept: Tensor | None) -> Tensor:
    """Return the labels of a canvas (H, W), refined if its score maps ask for it.

    Args:
        canvas: of the image.
        labels_HW: the labels after the vote.
        kept: of `canvas.kept_labels`.
    """
    refinement = canvas.maps.prompted
    if refinement is None:
        return labels_HW
    small_hw = refinement.images.mask_hw(canvas.index)
    components = components_of(at_centres(labels_HW, small_hw))
    if not len(components.labels_C):
        return labels_HW
    small = ScoredCanvas(canvas.maps, canvas.index, small_hw, canvas.band_elements)
    evidence = evidence_of(small, components, kept)
    answers = ask(refinement, canvas.index, components, evidence.own_hw, canvas.band_elements)
    return with_masks(labels_HW, components, answers, evidence.best_2hw)


def at_centres(labels_HW: Tensor, size_hw: SizeHW) -> Tensor:
    """Return the labels (h, w) at the centres of the pixels of another size."""
    rows, columns = (
        ((torch.arange(num) + 0.5) * side / num).long().to(labels_HW.device)
        for side, num in zip(labels_HW.shape, size_hw, strict=True)
    )
    return labels_HW[rows][:, columns]


class _Found(NamedTuple):
    area: int
    label: int
    place: tuple[slice, ...]
    mask: NDArray[np.bool_]


def components_of(labels_hw: Tensor) -> Components:
    """Return the connected components (8-neighbourhood) of all labels but background.

    Those of a few pixels are left out, and of more than `MAX_COMPONENTS` the smallest.
    """
    label_map = labels_hw.cpu().numpy().astype(np.int64)
    found: list[_Found] = []
    for label, place in enumerate(ndimage.find_objects(label_map), start=1):
        if place is not None:
            parts = np.zeros(label_map[place].shape, np.int32)
            ndimage.label(label_map[place] == label, _EIGHT_NEIGHBOURS, output=parts)
            areas = np.bincount(parts.ravel())
            numbers = np.flatnonzero(areas >= _MIN_AREA)
            found += [_Found(int(areas[n]), label, place, parts == n) for n in numbers if n]
    if len(found) > MAX_COMPONENTS:
        _report_many()
        found = sorted(found, key=lambda one: -one.area)[:MAX_COMPONENTS]
    numbers_hw, boxes = np.full(label_map.shape, -1), []
    for number, one in enumerate(found):
        numbers_hw[one.place][one.mask] = number
        corner = one.place[1].start, one.place[0].start
        rows, columns = (np.flatnonzero(one.mask.any(axis)) for axis in (1, 0))
        ends = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        boxes.append([int(end) + shift for end, shift in zip(ends, 2 * corner, strict=True)])
    device = labels_hw.device
    return Components(
        torch.from_numpy(numbers_hw).to(device),
        torch.tensor([one.label for one in found], dtype=torch.int64, device=device),
        torch.tensor(boxes, dtype=torch.float32, device=device).view(-1, 4),
    )


@cache
def _report_many() -> None:
    """Say once that there are more components than are refined."""
    logger.warning(
        "an image has more than %d components to refine: its %d largest are; of further images "
        "this is not said again",
        MAX_COMPONENTS,
        MAX_COMPONENTS,
    )


def evidence_of(small: ScoredCanvas, components: Components, kept: Tensor | None) -> Evidence:
    """Return what the scores, at the size of the network's masks, say of the components."""
    rule, own, best, has_background = small.maps.rule, [], [], False
    for band in small.bands:
        values, _, shown = small.values(band, kept)
        behind = behind_best(values, small.maps)
        probs_KRW, _ = probabilities_and_entropy(values, behind, shown, small.maps, kept)
        numbers_RW = components.numbers_hw[band]
        labels_RW = components.labels_C[numbers_RW.clamp(min=0)]
        own_RW = probs_KRW.gather(0, labels_RW[None])[0]
        own.append(own_RW.masked_fill(numbers_RW < 0, -1.0))
        best.append(probs_KRW.topk(2, dim=0).indices)
        has_background = has_background or bool((probs_KRW[0] > 0).any())
    if rule is not None and rule.probability_threshold:
        has_background = True
    return Evidence(torch.cat(own), None if has_background else torch.cat(best, dim=1))


def ask(
    refinement: PromptedRefinement,
    index: int,
    components: Components,
    own_hw: Tensor,
    max_elements: int,
) -> Answers:
    """Ask the network for a mask of each component of image `index`.

    Args:
        refinement: what is prompted.
        index: place of the image in the batch.
        components: of the image.
        own_hw: probability of each pixel's label.
        max_elements: pixels of masks that are held at once.
    """
    numbers_hw = components.numbers_hw
    height, width = numbers_hw.shape
    sides_4 = own_hw.new_tensor([width, height, width, height])
    at_once = max(1, min(max_elements // numbers_hw.numel(), _MAX_PROMPTS_AT_ONCE))
    numbers_C = torch.arange(len(components.labels_C), device=numbers_hw.device)
    parts = []
    for numbers_P in numbers_C.split(at_once):
        inside_Phw = numbers_hw == numbers_P[:, None, None]
        own_Phw = torch.where(inside_Phw, own_hw, -1.0)
        surest_P = own_Phw.flatten(1).argmax(1)
        points_P2 = torch.stack([surest_P % width, surest_P // width], dim=1) + 0.5
        logits_Phw, ious_P = refinement.images.refine(
            index,
            components.boxes_C4[numbers_P] / sides_4,
            points_P2 / sides_4[:2],
            coarse_logits(inside_Phw),
        )
        areas_P = inside_Phw.flatten(1).sum(1)
        mean_P = own_Phw.clamp(min=0).flatten(1).sum(1) / areas_P
        agrees_P = _iou(logits_Phw > 0, inside_Phw) >= refinement.min_iou
        parts.append((logits_Phw, agrees_P, ious_P * mean_P))
    return Answers(*(torch.cat(some) for some in zip(*parts, strict=True)))


def coarse_logits(inside_Phw: Tensor) -> Tensor:
    """Return logits of components, bool (P, h, w): blurred, as a method sees no sharp edges."""
    side = 2 * round(max(inside_Phw.shape[1:]) * _BLUR / 2) + 1
    blurred_Phw = F.avg_pool2d(
        inside_Phw[:, None].float(), side, stride=1, padding=side // 2, count_include_pad=False
    )[:, 0]
    return (2 * blurred_Phw - 1) * _COARSE_LIMIT


def _iou(first_Phw: Tensor, second_Phw: Tensor) -> Tensor:
    both, either = first_Phw & second_Phw, first_Phw | second_Phw
    return both.flatten(1).sum(1) / either.flatten(1).sum(1).clamp(min=1)


def with_masks(
    labels_HW: Tensor, components: Components, answers: Answers, best_2hw: Tensor | None
) -> Tensor:
    """Return the labels with the masks that agree in place of their components.

    A pixel that only its component had becomes background, or its next best label where a decision
    knows no background; then all masks and the components that have none are painted, the surest
    last.

    Args:
        labels_HW: as decided.
        components: of these labels.
        answers: on the components.
        best_2hw: as in `Evidence`.
    """
    painted_HW = labels_HW.clone()
    grid = _Grid(components.numbers_hw.shape, labels_HW)
    for label in components.labels_C[answers.agrees_C].unique().tolist():
        rows, columns, lost = grid.enlarged(_left_by(label, components, answers.agrees_C))
        lost &= labels_HW[rows, columns] == label
        part_HW = painted_HW[rows, columns]
        if best_2hw is None:
            part_HW.masked_fill_(lost, 0)
        else:
            other_hw = torch.where(best_2hw[0] == label, best_2hw[1], best_2hw[0])
            other_HW = grid.at(other_hw, rows, columns).to(part_HW.dtype)
            part_HW.copy_(torch.where(lost, other_HW, part_HW))
    order = answers.sureness_C.argsort(stable=True)
    agrees, labels = answers.agrees_C.tolist(), components.labels_C.tolist()
    masks = cut_outs(answers.masks_Chw[order[answers.agrees_C[order]]], grid.size_hw)
    for number in order.tolist():
        if agrees[number]:
            mask, top, left = next(masks)
            rows, columns = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
        else:
            rows, columns, mask = grid.enlarged(components.numbers_hw == number)
            mask &= labels_HW[rows, columns] == labels[number]
        painted_HW[rows, columns].masked_fill_(mask, labels[number])
    return painted_HW


def _left_by(label: int, components: Components, agrees_C: Tensor) -> Tensor:
    """Return where (h, w) pixels of a label lose it, unless a mask gives it back.

    On the canvas a component may reach one small pixel further, but not into another one.
    """
    numbers_hw = components.numbers_hw
    number_hw = numbers_hw.clamp(min=0)
    mine_hw = (numbers_hw >= 0) & (components.labels_C[number_hw] == label)
    agrees_hw = mine_hw & agrees_C[number_hw]
    near_hw = F.max_pool2d(agrees_hw.float()[None], 3, stride=1, padding=1)[0] > 0
    return near_hw & ~(mine_hw & ~agrees_hw)


class _Grid:
    """The pixels of a small map on a canvas, by nearest neighbour."""

    def __init__(self, small_hw: torch.Size, labels_HW: Tensor) -> None:
        self.size_hw = labels_HW.shape[0], labels_HW.shape[1]
        self._sources = [
            torch.from_numpy(nearest_source(num_in, num_out))
            for num_in, num_out in zip(small_hw, self.size_hw, strict=True)
        ]

    def enlarged(self, mask_hw: Tensor) -> tuple[slice, slice, Tensor]:
        """Return the rows and columns of the canvas that a mask's box covers, and it on them."""
        covered = []
        for axis, source in enumerate(self._sources):
            used = mask_hw.any(1 - axis).cpu()[source].nonzero()[:, 0]
            covered.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0))
        return covered[0], covered[1], self.at(mask_hw, *covered)

    def at(self, map_hw: Tensor, rows: slice, columns: slice) -> Tensor:
        """Return a small map on some rows and columns of the canvas."""
        down, across = self._sources
        return map_hw[down[rows].to(map_hw.device)][:, across[columns].to(map_hw.device)]
