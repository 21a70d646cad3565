"""Sliding windows in mmseg's scan order, in batches across images (docs/methods.md 1.3, 1.4).

Shapes: B windows of one size, W windows of one image, D channels, h w patches of one window, n_y
n_x rows and columns of windows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ovseg_core.images.resize.stitching import AxisStitch, Span, Stitch

T = TypeVar("T")

Padding = Literal["drop", "middle", "zeros", "black"]
"""How a window whose sides are not whole multiples of a patch is padded.

`drop`: the remainder is left out (SCLIP, NACLIP). `middle`: zeros of the normalised window (the
mean colour) on both sides, cut off the scores again (ClearCLIP, ProxyCLIP). `zeros`: the same at
the right and the bottom, not cut off (the original MaskCLIP). `black`: black pixels there, not cut
off (CLIP-DINOiser). Where nothing is cut off the patches are stretched over the window.
"""

_LEAST_PATCH_PX = 4
"""No network makes finer patches of its input; most make 8 to 16 pixels one patch."""
_PATCHES_PER_FORWARD = {"cpu": 1 << 12, "cuda": 1 << 17}
"""Patches in one forward pass: some twenty windows of 224 px on a CPU."""


@dataclass(frozen=True)
class SlidingWindows:
    """How images are cut into windows.

    Attributes:
        window_px: side of a window; 0: the whole image is one window.
        stride_px: pixels from one window to the next.
        patch_px: side of a patch, from which the windows of one forward pass are counted.
        multiple_px: sides of a padded window are multiples of it.
        padding: see `Padding`.
        black: the network input (3,) of a black pixel, for the padding of that name.
        patches_per_forward: most patches in one forward pass; 0: as many as suit the device.
    """

    window_px: int
    stride_px: int
    patch_px: int
    multiple_px: int
    padding: Padding
    black: Tensor | None = None
    patches_per_forward: int = 0

    def cut(self, image: Tensor) -> "WindowGrid":
        """Return the windows of a network input (3, H, W), whole patches each, all of one size.

        Further channels, such as a map of regions, are cut with it; their padding is 0.
        """
        rows, columns = (
            axis_spans(side, self.window_px or side, self.stride_px or self.window_px or side)
            for side in image.shape[1:]
        )
        paddings = tuple(self._padding(spans[0][1] - spans[0][0]) for spans in (rows, columns))
        windows = [
            self._padded(image[:, y1:y2, x1:x2], paddings) for y1, y2 in rows for x1, x2 in columns
        ]
        margins = paddings if self.padding == "middle" else ((0, 0), (0, 0))
        return WindowGrid(windows, (rows, columns), margins)

    def apply(
        self, grids: Sequence["WindowGrid"], function: Callable[[Tensor], Sequence[T]]
    ) -> list[list[T]]:
        """Apply a function to the windows of all images, and return its results by image.

        Windows of one size share batches of bounded size, whichever image they are of.

        Args:
            grids: the windows of each image.
            function: windows (B, 3, H, W) -> B results.
        """
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for grid in grids:
            by_shape.setdefault(grid.windows[0].shape, []).extend(grid.windows)
        results = {
            shape: self._in_batches(windows, function) for shape, windows in by_shape.items()
        }
        return [[next(results[grid.windows[0].shape]) for _ in grid.windows] for grid in grids]

    def check_axis(self, axis: AxisStitch, *, merged: bool) -> None:
        """Check that windows along an axis are those that `cut` makes.

        Args:
            axis: from anywhere.
            merged: they are one window, see `WindowGrid.merged`.

        Raises:
            ValueError: they are others, or have more patches than any network makes of them.
        """
        side_px = axis.side_px
        window_px = self.window_px or side_px
        spans = axis_spans(side_px, window_px, self.stride_px or window_px)
        padding = self._padding(spans[0][1] - spans[0][0])
        margins = padding if self.padding == "middle" else (0, 0)
        if merged:
            spans, margins = [(0, side_px)], (0, 0)
        most = (spans[0][1] - spans[0][0] + sum(padding)) // _LEAST_PATCH_PX + 1
        if (list(axis.spans), axis.margins) != (spans, margins) or axis.num_patches > most:
            raise ValueError(
                f"expected {len(spans)} windows on {side_px} pixels with at most {most} patches "
                f"each, got {len(axis.spans)} with {axis.num_patches}, or at other places"
            )

    def _in_batches(
        self, windows: Sequence[Tensor], function: Callable[[Tensor], Sequence[T]]
    ) -> Iterator[T]:
        device = windows[0].device.type
        suitable = _PATCHES_PER_FORWARD.get(device, _PATCHES_PER_FORWARD["cpu"])
        patches = self.patches_per_forward or suitable
        size = max(patches * self.patch_px**2 // windows[0][0].numel(), 1)
        for start in range(0, len(windows), size):
            yield from function(torch.stack(list(windows[start : start + size])))

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
        padded = window.new_zeros(len(window), top + height + bottom, left + width + right)
        if self.padding == "black" and self.black is not None:
            padded[:3] += self.black[:, None, None]
        padded[:, top : top + height, left : left + width] = window
        return padded


@dataclass(frozen=True)
class WindowGrid:
    """The windows of one image.

    Attributes:
        windows: network inputs (3, H, W), all of one size, in scan order.
        spans: first pixel and the one after the last of each row and of each column of windows.
        margins: pixels of padding before and after, down and across, that are cut off again.
    """

    windows: list[Tensor]
    spans: tuple[list[Span], list[Span]]
    margins: tuple[Span, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return len(self.spans[0]), len(self.spans[1])

    def merged(self) -> "WindowGrid":
        """Return the image as one window without margins; its pixels are left out."""
        rows, columns = ([(0, spans[-1][1])] for spans in self.spans)
        return WindowGrid([], (rows, columns), ((0, 0), (0, 0)))

    def stitch(self, patches_hw: tuple[int, int]) -> Stitch:
        """Return the positions of the patches of all windows.

        Args:
            patches_hw: rows and columns of patches of one window.
        """
        axes = zip(self.spans, patches_hw, self.margins, strict=True)
        rows, columns = (AxisStitch(tuple(spans), num, margin) for spans, num, margin in axes)
        return Stitch(rows, columns)


def side_by_side(maps_WDhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the windows' maps as one (D, n_y h, n_x w), in scan order."""
    return maps_WDhw.unflatten(0, grid).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)


def window_boxes(
    size_hw: tuple[int, int], window_px: int, stride_px: int
) -> list[tuple[int, int, int, int]]:
    """Return the windows (y1, x1, y2, x2) over an image, rows outer.

    The last window of a row or column is shifted back to keep its full side; in an image smaller
    than the window, the window is as small as the image.
    """
    rows, columns = (axis_spans(side, window_px, stride_px) for side in size_hw)
    return [(y1, x1, y2, x2) for y1, y2 in rows for x1, x2 in columns]


def axis_spans(side_px: int, window_px: int, stride_px: int) -> list[Span]:
    """Return the first pixel of each window and the one after its last, along one axis."""
    count = max(side_px - window_px + stride_px - 1, 0) // stride_px + 1
    ends = [min(index * stride_px + window_px, side_px) for index in range(count)]
    return [(max(end - window_px, 0), end) for end in ends]
