"""A confusion matrix as a picture: what each true class was taken for, as shares of its pixels.

Up to 32 classes are drawn with their names and percentages; of more, all are drawn small and those
that were most confused once more, with names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_INK, _QUIET, _PAPER, _GRID = (33, 37, 41), (108, 117, 125), (255, 255, 255), (233, 236, 239)
_RIGHT, _WRONG = (25, 113, 60), (190, 30, 45)
"""Colours of a share of 1 on the diagonal, and off it."""
_MARGIN_PX, _TEXT_PX, _SMALL_PX, _LINE_PX = 24, 14, 11, 20
_CELL_PX = 30
_NAMED = 32
"""Most classes that are drawn with names and percentages."""
_PICKED = 24
"""Classes drawn with names where there are more."""
_OVERVIEW_PX = 900
_NAME_PX = 190
"""Longer names are cut."""
_FAINT = 0.005
"""Smaller shares stay blank."""


@dataclass(frozen=True)
class Shares:
    """What true classes were taken for.

    Attributes:
        names: of the classes.
        cells: (K, K) shares; row: truth, column: prediction. A row sums to 1, or to 0 where the
            class does not occur.
    """

    names: tuple[str, ...]
    cells: NDArray[np.float64]

    def picked(self, classes: Sequence[int]) -> "Shares":
        """Return some of the classes; rows keep the shares that they have of all."""
        return Shares(
            tuple(self.names[index] for index in classes), self.cells[classes][:, classes]
        )


def draw(names: Sequence[str], counts: NDArray[np.int64]) -> Image.Image:
    """Draw a confusion matrix.

    Args:
        names: of all classes, background first.
        counts: (K, K) pixels; row: truth, column: prediction. Background is left out where it is
            in neither.
    """
    first = 0 if counts[0].any() or counts[:, 0].any() else 1
    counts = counts[first:, first:]
    totals = counts.sum(axis=1, keepdims=True)
    shares = Shares(tuple(names[first:]), counts / np.maximum(totals, 1))
    if len(shares.names) <= _NAMED:
        return _page([("What each class was taken for (rows: truth, in percent)", _named(shares))])
    picked = sorted(most_confused(counts, _PICKED))
    return _page(
        [
            (
                f"All {len(shares.names)} classes (rows: truth, in the vocabulary's order)",
                _small(shares),
            ),
            ("Those most confused (rows: truth, in percent)", _named(shares.picked(picked))),
        ]
    )


def most_confused(counts: NDArray[np.int64], limit: int) -> list[int]:
    """Return the classes of the pairs that cost the most pixels, at most so many."""
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    found: dict[int, None] = {}
    for place in np.argsort(-wrong, axis=None, kind="stable"):
        pair = divmod(int(place), len(counts))
        if not wrong[pair] or len(found | dict.fromkeys(pair)) > limit:
            break
        found |= dict.fromkeys(pair)
    return list(found) or list(range(min(limit, len(counts))))


def _page(parts: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Return the pictures beside each other, each under its title."""
    titled = [(title, part, max(part.width, _width(title, _TEXT_PX))) for title, part in parts]
    width = sum(wide for *_, wide in titled) + (len(parts) + 1) * _MARGIN_PX
    height = max(part.height for _, part in parts) + _LINE_PX + 3 * _MARGIN_PX
    page = Image.new("RGB", (width, height), _PAPER)
    pen, x = ImageDraw.Draw(page), _MARGIN_PX
    for title, part, wide in titled:
        pen.text((x, _MARGIN_PX), title, _INK, _font(_TEXT_PX))
        page.paste(part, (x, 2 * _MARGIN_PX + _LINE_PX))
        x += wide + _MARGIN_PX
    return page


def _small(shares: Shares) -> Image.Image:
    """Draw every class without a name."""
    cell_px = max(_OVERVIEW_PX // len(shares.names), 1)
    colours = _colours(shares.cells).repeat(cell_px, axis=0).repeat(cell_px, axis=1)
    picture = Image.fromarray(colours)
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_QUIET)
    return picture


def _named(shares: Shares) -> Image.Image:
    """Draw classes with names beside the rows and, turned, over the columns."""
    names = [_cut(name) for name in shares.names]
    left = max(_width(name, _TEXT_PX) for name in names) + 8
    side = _CELL_PX * len(names)
    picture = Image.new("RGB", (left + side + 1, left + side + 1), _PAPER)
    picture.paste(_turned(names, left), (left, 0))
    cells = _colours(shares.cells).repeat(_CELL_PX, axis=0).repeat(_CELL_PX, axis=1)
    picture.paste(Image.fromarray(cells), (left, left))
    pen = ImageDraw.Draw(picture)
    for index, name in enumerate(names):
        middle = left + index * _CELL_PX + _CELL_PX // 2
        pen.text((left - 8, middle), name, _INK, _font(_TEXT_PX), anchor="rm")
    for place in range(len(names) + 1):
        at = left + place * _CELL_PX
        pen.line((left, at, left + side, at), _GRID)
        pen.line((at, left, at, left + side), _GRID)
    for row, column in np.argwhere(shares.cells >= _FAINT).tolist():
        share = shares.cells[row, column]
        x, y = (left + place * _CELL_PX + _CELL_PX // 2 for place in (column, row))
        ink = _PAPER if share > 0.5 else _INK
        pen.text((x, y), f"{share:.0%}"[:-1], ink, _font(_SMALL_PX), anchor="mm")
    return picture


def _turned(names: Sequence[str], height: int) -> Image.Image:
    """Return names that stand upright, one over each column."""
    lying = Image.new("RGB", (height, _CELL_PX * len(names)), _PAPER)
    pen = ImageDraw.Draw(lying)
    for index, name in enumerate(names):
        y = index * _CELL_PX + _CELL_PX // 2
        pen.text((8, y), name, _INK, _font(_TEXT_PX), anchor="lm")
    return lying.transpose(Image.Transpose.ROTATE_90)


def _colours(cells: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return (K, K, 3): white for 0, green on the diagonal, red off it."""
    full = np.broadcast_to(np.array(_WRONG, np.float64), (*cells.shape, 3)).copy()
    full[np.eye(len(cells), dtype=bool)] = _RIGHT
    depth = np.sqrt(cells)[..., None]  # small shares must be seen
    return (np.array(_PAPER) + depth * (full - np.array(_PAPER))).round().astype(np.uint8)


def _cut(name: str) -> str:
    while _width(name, _TEXT_PX) > _NAME_PX:
        name = f"{name[:-2]}…"
    return name


def _width(text: str, size_px: int) -> int:
    return round(_font(size_px).getlength(text))


@cache
def _font(size_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size_px)
