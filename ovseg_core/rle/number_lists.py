"""Masks as the long arrays of numbers that tools want, in text, images at a time.

Functions of plain values, which helper processes of an export call: this module imports no more
than they need.
"""

from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from ovseg_core.resize.nearest import SizeHW
from ovseg_core.rle import label_studio_brush, row_major

_CHARACTERS = 1 << 17
"""Of run lengths, whose arrays fit into a processor's cache."""


class Masks(NamedTuple):
    """The masks of one image."""

    counts: list[str]
    """Compressed run lengths."""
    size_hw: SizeHW
    boxes: list[row_major.Box]
    """Tight box of each mask."""


def brushes(images: list[Masks]) -> list[list[bytes]]:
    """Return Label Studio's brush bytes of each mask of each image: `0,1,2`."""
    return _of_each(images, _brushes)


def run_lengths(images: list[Masks]) -> list[list[bytes]]:
    """Return CVAT's runs of each mask in its box, row-major, background first: `0,1,2`.

    CVAT itself writes a blank behind each comma. Its server and datumaro read numbers between
    commas, with or without, and a quarter of the file is blanks.
    """
    return _of_each(images, _run_lengths)


def _of_each(images: list[Masks], work: Callable[[Masks], Iterator[bytes]]) -> list[list[bytes]]:
    """Do work on the masks of several images of one size at a time: few calls for much work."""
    texts: list[list[bytes]] = []
    for together in _alike(images):
        counts = [text for masks in together for text in masks.counts]
        boxes = [box for masks in together for box in masks.boxes]
        found = work(Masks(counts, together[0].size_hw, boxes))
        texts += [list(islice(found, len(masks.counts))) for masks in together]
    return texts


def _alike(images: list[Masks]) -> Iterator[list[Masks]]:
    """Yield neighbours of one size, as many as the processor's cache has room for."""
    together, size = [], 0
    for masks in images:
        if together and (size > _CHARACTERS or masks.size_hw != together[0].size_hw):
            yield together
            together, size = [], 0
        together.append(masks)
        size += sum(map(len, masks.counts))
    if together:
        yield together


def _brushes(masks: Masks) -> Iterator[bytes]:
    return map(numbers, label_studio_brush.from_coco(masks.counts, masks.size_hw))


def _run_lengths(masks: Masks) -> Iterator[bytes]:
    runs = row_major.runs(*masks)
    for (begin, end), rest in zip(pairwise(runs.bounds), runs.rests, strict=True):
        text = numbers(runs.lengths[begin:end])
        yield b"%b,%d" % (text, rest) if rest else text


def numbers(values: NDArray[np.integer]) -> bytes:
    """Return what `",".join(map(str, values))` does, thirty times as fast."""
    array = np.ascontiguousarray(values)
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
