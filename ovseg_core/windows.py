"""Sliding windows in mmseg's scan order, read in batches and laid side by side.

Shapes: B windows of one size, D joint width, h w patches of one window, n_y n_x windows by rows
and columns.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.stitch import Span, Stitch, stitch_axis

Padding = Literal["drop", "middle"]
"""What becomes of a window whose sides are no multiples of a patch. `drop`: the remainder is left
out and the patches are stretched over the window (SCLIP, NACLIP). `middle`: zeros on both sides,
cut off again (ClearCLIP)."""

_PATCHES_PER_FORWARD = {"cpu": 1 << 12, "cuda": 1 << 17}
"""Patches in one pass: some twenty windows of 224 px on a CPU."""


@dataclass(frozen=True)
class Windows:
    """How an image is cut.

    Attributes:
        crop_px: side of a window.
        stride_px: pixels from one window to the next.
        patch_px: side of a patch.
        padding: see `Padding`.
    """

    crop_px: int
    stride_px: int
    patch_px: int
    padding: Padding

    def read(
        self, images: Sequence[Tensor], dense: Callable[[Tensor], Tensor]
    ) -> list[tuple[Tensor, Stitch]]:
        """Return for each image the patches of its windows, and where they lie.

        Windows of one size go through the network together, whichever image they are of.

        Args:
            images: network inputs (3, H, W), any sizes, on one device.
            dense: (B, 3, H, W) with whole patches -> (B, D, h, w).

        Returns:
            Patches (D, n_y h, n_x w) with a `Stitch` each, in the images' order.
        """
        cuts = [_Cut.of(self, image) for image in images]
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for cut in cuts:
            by_shape.setdefault(cut.windows[0].shape, []).extend(cut.windows)
        read = {
            shape: _in_parts(dense, windows, self._per_forward(windows[0]))
            for shape, windows in by_shape.items()
        }
        return [cut.joined([next(read[cut.windows[0].shape]) for _ in cut.windows]) for cut in cuts]

    def _per_forward(self, window: Tensor) -> int:
        most = _PATCHES_PER_FORWARD.get(window.device.type, _PATCHES_PER_FORWARD["cpu"])
        return max(most * self.patch_px**2 // window[0].numel(), 1)

    def margins(self, side_px: int) -> Span:
        """Return the padding before and behind a window side."""
        missing = -side_px % self.patch_px
        if self.padding == "drop" and side_px >= self.patch_px:
            return 0, 0
        return missing // 2, missing - missing // 2


@dataclass(frozen=True)
class _Cut:
    """One image's windows, whole patches each and all of one size."""

    windows: list[Tensor]
    spans: tuple[list[Span], list[Span]]
    margins: tuple[Span, Span]

    @classmethod
    def of(cls, rule: Windows, image: Tensor) -> "_Cut":
        height, width = image.shape[1:]
        rows, columns = (_spans(side, rule.crop_px, rule.stride_px) for side in (height, width))
        vertical, horizontal = (
            rule.margins(spans[0][1] - spans[0][0]) for spans in (rows, columns)
        )
        windows = [
            F.pad(image[:, y1:y2, x1:x2], (*horizontal, *vertical))
            for y1, y2 in rows
            for x1, x2 in columns
        ]
        return cls(windows, (rows, columns), (vertical, horizontal))

    def joined(self, patches_Dhw: Sequence[Tensor]) -> tuple[Tensor, Stitch]:
        rows, columns = self.spans
        grid_hw = patches_Dhw[0].shape[1:]
        axes = zip(self.spans, grid_hw, self.margins, strict=True)
        lines = [
            torch.cat(list(patches_Dhw[start : start + len(columns)]), dim=2)
            for start in range(0, len(rows) * len(columns), len(columns))
        ]
        return torch.cat(lines, dim=1), Stitch(*(stitch_axis(*axis) for axis in axes))


def _in_parts(
    dense: Callable[[Tensor], Tensor], windows: Sequence[Tensor], per_forward: int
) -> Iterator[Tensor]:
    """Yield the patches (D, h, w) of each window, from passes of bounded size."""
    for start in range(0, len(windows), per_forward):
        yield from dense(torch.stack(list(windows[start : start + per_forward])))


def window_boxes(
    size_hw: tuple[int, int], crop_px: int, stride_px: int
) -> list[tuple[int, int, int, int]]:
    """Return the windows (y1, x1, y2, x2) over an image, rows outer.

    The last window of a row or column is shifted back to keep the full crop; in an image smaller
    than the crop the window is as small as the image.
    """
    rows, columns = (_spans(side, crop_px, stride_px) for side in size_hw)
    return [(y1, x1, y2, x2) for y1, y2 in rows for x1, x2 in columns]


def _spans(side_px: int, crop_px: int, stride_px: int) -> list[Span]:
    count = max(side_px - crop_px + stride_px - 1, 0) // stride_px + 1
    ends = [min(index * stride_px + crop_px, side_px) for index in range(count)]
    return [(max(end - crop_px, 0), end) for end in ends]
