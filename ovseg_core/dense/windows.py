"""Sliding windows in mmseg's scan order, read in batches whichever image they are of.

Shapes: B windows of one size, W windows of one image, D channels, h w patches of one window, n_y
n_x windows by rows and columns.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ovseg_core.resize.stitching import Span, Stitch, stitch_axis

T = TypeVar("T")

Padding = Literal["drop", "middle", "zeros", "black"]
"""What becomes of a window whose sides are no multiples of a patch.

`drop`: the remainder is left out (SCLIP, NACLIP). `middle`: zeros of the normalised window (the
mean colour) on both sides, cut off the scores again (ClearCLIP, ProxyCLIP). `zeros`: the same at
the right and the bottom, not cut off (the original MaskCLIP). `black`: black pixels there, not cut
off (CLIP-DINOiser). Where nothing is cut off the patches are stretched over the window.
"""

_PATCHES_PER_FORWARD = {"cpu": 1 << 12, "cuda": 1 << 17}
"""Patches in one pass: some twenty windows of 224 px on a CPU."""


@dataclass(frozen=True)
class Windows:
    """How an image is cut.

    Attributes:
        crop_px: side of a window; 0: the whole image is one.
        stride_px: pixels from one window to the next.
        patch_px: side of a patch, to tell how many windows go through at once.
        multiple_px: sides of a padded window are multiples of it.
        padding: see `Padding`.
        black: the network input (3,) of a black pixel, for the padding of that name.
    """

    crop_px: int
    stride_px: int
    patch_px: int
    multiple_px: int
    padding: Padding
    black: Tensor | None = None

    def cut(self, image: Tensor) -> "WindowGrid":
        """Return the windows of a network input (3, H, W), whole patches each, all of one size."""
        rows, columns = (self._spans(side) for side in image.shape[1:])
        paddings = tuple(self._padding(spans[0][1] - spans[0][0]) for spans in (rows, columns))
        windows = [
            self._padded(image[:, y1:y2, x1:x2], paddings) for y1, y2 in rows for x1, x2 in columns
        ]
        margins = paddings if self.padding == "middle" else ((0, 0), (0, 0))
        return WindowGrid(windows, (rows, columns), margins)

    def read(
        self, cuts: Sequence["WindowGrid"], work: Callable[[Tensor], Sequence[T] | Tensor]
    ) -> list[list[T]]:
        """Return what `work` makes of every window, in lists like the cuts' windows.

        Windows of one size go together, in passes of bounded size.

        Args:
            cuts: of any images.
            work: windows (B, 3, H, W) -> one thing for each.
        """
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for cut in cuts:
            by_shape.setdefault(cut.windows[0].shape, []).extend(cut.windows)
        done = {
            shape: _in_parts(work, windows, self._per_forward(windows[0]))
            for shape, windows in by_shape.items()
        }
        return [[next(done[cut.windows[0].shape]) for _ in cut.windows] for cut in cuts]

    def _spans(self, side_px: int) -> list[Span]:
        crop_px = self.crop_px or side_px
        return axis_spans(side_px, crop_px, self.stride_px or crop_px)

    def _per_forward(self, window: Tensor) -> int:
        most = _PATCHES_PER_FORWARD.get(window.device.type, _PATCHES_PER_FORWARD["cpu"])
        return max(most * self.patch_px**2 // window[0].numel(), 1)

    def _padding(self, side_px: int) -> Span:
        missing = -side_px % self.multiple_px
        if self.padding == "drop" and side_px >= self.multiple_px:
            return 0, 0
        if self.padding in ("zeros", "black"):
            return 0, missing
        return missing // 2, missing - missing // 2

    def _padded(self, window: Tensor, paddings: tuple[Span, ...]) -> Tensor:
        if not any(sum(padding) for padding in paddings):
            return window
        (top, bottom), (left, right) = paddings
        height, width = window.shape[1:]
        padded = window.new_zeros(3, top + height + bottom, left + width + right)
        if self.padding == "black" and self.black is not None:
            padded += self.black[:, None, None]
        padded[:, top : top + height, left : left + width] = window
        return padded


@dataclass(frozen=True)
class WindowGrid:
    """One image's windows.

    Attributes:
        windows: network inputs (3, H, W), all of one size, in scan order.
        spans: first pixel and the one after the last of each row and of each column of windows.
        margins: pixels of padding before and behind, down and across, that are cut off again.
    """

    windows: list[Tensor]
    spans: tuple[list[Span], list[Span]]
    margins: tuple[Span, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Windows by (rows, columns)."""
        return len(self.spans[0]), len(self.spans[1])

    def whole(self) -> "WindowGrid":
        """Return the image as one window without margins; its pixels are left out."""
        rows, columns = ([(0, spans[-1][1])] for spans in self.spans)
        return WindowGrid([], (rows, columns), ((0, 0), (0, 0)))

    def stitch(self, patches_hw: tuple[int, int]) -> Stitch:
        """Return where the patches of all windows lie, of a grid of so many in each window."""
        axes = zip(self.spans, patches_hw, self.margins, strict=True)
        return Stitch(*(stitch_axis(*axis) for axis in axes))


def side_by_side(maps_WDhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the windows' maps as one (D, n_y h, n_x w), in scan order."""
    return maps_WDhw.unflatten(0, grid).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)


def _in_parts(
    work: Callable[[Tensor], Sequence[T] | Tensor], windows: Sequence[Tensor], per_forward: int
) -> Iterator[T]:
    for start in range(0, len(windows), per_forward):
        yield from work(torch.stack(list(windows[start : start + per_forward])))  # type: ignore[misc]


def window_boxes(
    size_hw: tuple[int, int], crop_px: int, stride_px: int
) -> list[tuple[int, int, int, int]]:
    """Return the windows (y1, x1, y2, x2) over an image, rows outer.

    The last window of a row or column is shifted back to keep the full crop; in an image smaller
    than the crop the window is as small as the image.
    """
    rows, columns = (axis_spans(side, crop_px, stride_px) for side in size_hw)
    return [(y1, x1, y2, x2) for y1, y2 in rows for x1, x2 in columns]


def axis_spans(side_px: int, crop_px: int, stride_px: int) -> list[Span]:
    """Return the windows' first pixels and those after their last, along one axis."""
    count = max(side_px - crop_px + stride_px - 1, 0) // stride_px + 1
    ends = [min(index * stride_px + crop_px, side_px) for index in range(count)]
    return [(max(end - crop_px, 0), end) for end in ends]
