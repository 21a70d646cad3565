"""Images whose vectors are close: all pairs above a cosine, and each image's nearest neighbours.

Every vector is compared with every other one, exactly, as products of blocks: nothing but a few
blocks and what was found is in memory. N images take N^2 / 2 products of D values: minutes for
100,000 images on two cores, a hundred times as long for a million; a GPU is used where there is
one. There is no index that finds neighbours approximately.

Shapes: N images, D joint width of CLIP, P pairs.
"""

import logging
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

logger = logging.getLogger(__name__)

BLOCK = 4096
"""Images in a block; a product of two blocks takes 64 MB."""
MAX_PAIRS = 20_000_000
"""Pairs in memory, some 320 MB, before those of images with many neighbours are thinned out."""
_TELL_AFTER_S = 20.0
"""Of comparing, after which the rest is estimated in the log."""


class Pairs(NamedTuple):
    """Pairs of images with their cosines, each pair once.

    Attributes:
        first: (P,) places of images.
        second: (P,) places of images, greater than `first`.
        cosine: (P,)
        num_cut: pairs that were left out, see `pairs_above`.
    """

    first: NDArray[np.integer]
    second: NDArray[np.integer]
    cosine: NDArray[np.float32]
    num_cut: int = 0


def pairs_above(vectors_ND: NDArray[np.floating], least: float, most_per_image: int = 50) -> Pairs:
    """Return the pairs of images whose cosine is at least `least`, by falling cosine.

    Args:
        vectors_ND: unit vectors; float16 is enough.
        least: smallest cosine.
        most_per_image: where there are more pairs than fit into memory, those are left out that
            are not among the best so many of either image.
    """
    found, num_found, num_cut = [_EMPTY], 0, 0
    for start, other, cosines in _products(vectors_ND):
        close = cosines >= least
        if start == other:
            close = close.triu_(1)
        row, column = close.nonzero(as_tuple=True)
        if not len(row):
            continue
        values = cosines[row, column].cpu().numpy()
        first, second = (one.to(torch.int32).cpu().numpy() for one in (row + start, column + other))
        found.append(Pairs(first, second, values))
        num_found += len(values)
        if num_found > MAX_PAIRS:
            thinned = _thinned(_joined(found), most_per_image)
            num_cut += num_found - len(thinned.cosine)
            found, num_found = [thinned], len(thinned.cosine)
    pairs = _joined(found)
    order = np.lexsort((pairs.second, pairs.first, -pairs.cosine))
    return Pairs(pairs.first[order], pairs.second[order], pairs.cosine[order], num_cut)


_EMPTY = Pairs(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))


def _joined(found: list[Pairs]) -> Pairs:
    first, second, cosine, _ = zip(*found, strict=True)
    return Pairs(np.concatenate(first), np.concatenate(second), np.concatenate(cosine))


def _thinned(pairs: Pairs, most_per_image: int) -> Pairs:
    """Return the pairs that are among the best of one of their images."""
    by_cosine = np.argsort(-pairs.cosine, kind="stable")
    is_kept = np.zeros(len(by_cosine), bool)
    for side in (pairs.first, pairs.second):
        order = by_cosine[np.argsort(side[by_cosine], kind="stable")]
        images = side[order]
        rank = np.arange(len(order)) - np.searchsorted(images, images)
        is_kept[order[rank < most_per_image]] = True
    return Pairs(pairs.first[is_kept], pairs.second[is_kept], pairs.cosine[is_kept])


def nearest_cosine(vectors_ND: NDArray[np.floating], k: int) -> NDArray[np.float32]:
    """Return (N,) the cosine of each image with its k-th nearest other image.

    Args:
        vectors_ND: unit vectors.
        k: at least 1; where there are fewer others, the farthest counts, and where there is no
            other, it is NaN.
    """
    if len(vectors_ND) == 1:
        return np.full(1, np.nan, np.float32)
    best = torch.full((len(vectors_ND), max(1, min(k, len(vectors_ND) - 1))), -1.0)
    best = best.to(_device())
    for start, other, cosines in _products(vectors_ND):
        if start == other:
            cosines.fill_diagonal_(-1.0)
        for place, block in ((start, cosines), (other, cosines.T)):
            rows = best[place : place + len(block)]
            rows[:] = torch.cat([rows, _best(block, best.shape[1])], 1).topk(best.shape[1]).values
            if start == other:
                break
    return best[:, -1].cpu().numpy()


def _best(block: Tensor, k: int) -> Tensor:
    return block.topk(min(k, block.shape[1]), dim=1).values


def _products(vectors_ND: NDArray[np.floating]) -> Iterator[tuple[int, int, Tensor]]:
    """Yield cosines of blocks of images, each pair of blocks once, with where the blocks begin.

    A product that was yielded is written over by the next one.
    """
    device = _device()
    starts = range(0, len(vectors_ND), BLOCK)
    num_blocks, num_done, began_s = len(starts) * (len(starts) + 1) // 2, 0, time.monotonic()
    has_told = False
    space = torch.empty(BLOCK * BLOCK, device=device)
    for start in starts:
        rows = _block(vectors_ND, start, device)
        for other in range(start, len(vectors_ND), BLOCK):
            columns = rows if other == start else _block(vectors_ND, other, device)
            out = space[: len(rows) * len(columns)].view(len(rows), len(columns))
            yield start, other, torch.mm(rows, columns.T, out=out)
            num_done += 1
        spent_s = time.monotonic() - began_s
        if spent_s > _TELL_AFTER_S and not has_told and num_done < num_blocks:
            has_told = True
            left_min = spent_s * (num_blocks - num_done) / num_done / 60
            logger.warning(
                "%s images are compared with each other: about %.0f more minutes on this machine%s",
                f"{len(vectors_ND):,}",
                max(1.0, left_min),
                "" if device.type == "cuda" else " (a GPU is used where there is one)",
            )


def _block(vectors_ND: NDArray[np.floating], start: int, device: torch.device) -> Tensor:
    block = vectors_ND[start : start + BLOCK].astype(np.float32)
    return torch.from_numpy(block).to(device)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
