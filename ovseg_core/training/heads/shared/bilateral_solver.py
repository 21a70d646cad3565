"""FOUND's bilateral solver: align a mask with the edges of its image (docs/methods.md 3.3).

Pixels close in position and colour share a vertex of a coarse five-dimensional grid ('splat'); the
mask is smoothed between neighbouring vertices and interpolated back to pixels ('slice'). It makes
training targets and is not used at inference.

Shapes: H W pixels, P = H * W, V vertices, h w patches, 5 dimensions (x, y, luma, two chromas).
"""

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import linalg

FloatMap = NDArray[np.floating[Any]]
Keep = Literal["multi", "single"]

_CELL = np.array([16, 16, 16, 8, 8])
"""Size of a vertex in x, y (pixels), luma, chroma, chroma (of 256)."""
_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""RGB to YUV by BT.601."""
_SMOOTHNESS = 256
"""lambda of the solver's energy."""
_CONFIDENCE = 0.999
_DIAGONAL_FLOOR = 1e-5


@dataclass(frozen=True)
class _Grid:
    """The vertices of one image.

    Attributes:
        splat_VP: sums pixels into vertices; its transpose slices vertices back to pixels.
        blur_VV: 10 on the diagonal, 1 for each neighbour one step away in one dimension.
    """

    splat_VP: sparse.csr_array
    blur_VV: sparse.csr_array

    @classmethod
    def of(cls, image_HW3: NDArray[np.uint8]) -> "_Grid":
        """Return the grid of an RGB image."""
        cells_P5 = _cells(image_HW3)
        # A vertex is a mixed-radix number, with a margin in each dimension: a neighbour is one
        # stride away.
        sizes = cells_P5.max(axis=0) + 3
        strides = np.cumprod(np.concatenate([[1], sizes[:-1]]))
        vertices_V, of_pixel_P = np.unique((cells_P5 + 1) @ strides, return_inverse=True)
        num_vertices, num_pixels = len(vertices_V), len(of_pixel_P)
        ones_P = np.ones(num_pixels)
        splat_VP = sparse.csr_array(
            (ones_P, (of_pixel_P.ravel(), np.arange(num_pixels))), (num_vertices, num_pixels)
        )
        pairs = [_neighbours(vertices_V, step) for stride in strides for step in (stride, -stride)]
        rows, columns = (np.concatenate(side) for side in zip(*pairs, strict=True))
        around_VV = sparse.csr_array(
            (np.ones(len(rows)), (rows, columns)), (num_vertices, num_vertices)
        )
        return cls(splat_VP, around_VV + 2 * 5 * sparse.eye_array(num_vertices, format="csr"))

    def bistochastise(self) -> tuple[FloatMap, FloatMap]:
        """Return the diagonals of Dn and Dm after ten iterations n <- sqrt(n m / blur(n))."""
        mass_V = self.splat_VP.sum(axis=1)
        n_V = np.ones(len(mass_V))
        for _ in range(10):
            n_V = np.sqrt(n_V * mass_V / (self.blur_VV @ n_V))
        return n_V, n_V * (self.blur_VV @ n_V)


def solve(image_HW3: NDArray[np.uint8], mask_HW: FloatMap) -> FloatMap:
    """Smooth a mask where the image is smooth, and let it change at the image's edges.

    Args:
        image_HW3: RGB.
        mask_HW: in [0, 1], at the image's size; may be soft.

    Returns:
        The soft mask (H, W), float64, about 0 to 1.
    """
    grid = _Grid.of(image_HW3)
    n_V, m_V = grid.bistochastise()
    weight_V = grid.splat_VP @ np.full(mask_HW.size, _CONFIDENCE)
    wanted_V = grid.splat_VP @ (_CONFIDENCE * mask_HW.ravel().astype(np.float64))
    spread_VV = sparse.diags_array(n_V) @ grid.blur_VV @ sparse.diags_array(n_V)
    smooth_VV = sparse.diags_array(m_V) - spread_VV
    system_VV = (_SMOOTHNESS * smooth_VV + sparse.diags_array(weight_V)).tocsr()
    jacobi_VV = sparse.diags_array(1 / np.maximum(system_VV.diagonal(), _DIAGONAL_FLOOR))
    y_V, _ = linalg.cg(
        system_VV, wanted_V, x0=wanted_V / weight_V, rtol=1e-5, maxiter=25, M=jacobi_VV
    )
    return (grid.splat_VP.T @ y_V).reshape(mask_HW.shape)


def binarise(soft_HW: FloatMap, keep: Keep = "multi") -> NDArray[np.bool_]:
    """Threshold a soft mask at one half, fill its holes and select components.

    Args:
        soft_HW: the result of `solve`.
        keep: `multi`: all areas but the largest, the background counted as one; `single`: only the
            second largest. Where the foreground is the largest area, `multi` thus keeps the
            background; without any component `single` is all ones. Both as published.
    """
    filled_HW = ndimage.binary_fill_holes(soft_HW > 0.5)
    labels_HW, count = ndimage.label(filled_HW)  # pyright: ignore[reportGeneralTypeIssues]
    if keep == "single" and not count:
        return np.ones(soft_HW.shape, dtype=bool)
    by_size = np.argsort(np.bincount(labels_HW.ravel(), minlength=count + 1), kind="stable")
    return labels_HW == by_size[-2] if keep == "single" else labels_HW != by_size[-1]


def resize_mask(mask_hw: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a patch mask to its image bilinearly: a soft mask (H, W) in [0, 1]."""
    height, width = size_hw
    soft_hw = mask_hw.astype(np.float32)
    wide_HW = cv2.resize(soft_hw, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide_HW, dtype=np.float32)


def refine(image_HW3: NDArray[np.uint8], mask_hw: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the solver's mask (H, W) for a patch mask, or the resized patch mask itself.

    The solver's mask is used only if its IoU with the given one is above one half.
    """
    given_HW = resize_mask(mask_hw, image_HW3.shape[:2])
    coarse_HW = given_HW > 0.5
    solved_HW = binarise(solve(image_HW3, given_HW))
    both, either = (solved_HW & coarse_HW).sum(), (solved_HW | coarse_HW).sum()
    return solved_HW if 2 * both > either else coarse_HW


def _cells(image_HW3: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the cell (x, y, luma, chroma, chroma) of every pixel in row-major order (P, 5)."""
    height, width = image_HW3.shape[:2]
    y_HW, x_HW = np.mgrid[:height, :width]
    yuv_HW3 = image_HW3 @ _YUV.T + [0, 128, 128]
    values_P5 = np.concatenate([np.stack([x_HW, y_HW], axis=2), yuv_HW3], axis=2).reshape(-1, 5)
    return (values_P5 / _CELL).astype(np.int64)


def _neighbours(
    vertices_V: NDArray[np.int64], step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of vertices a step apart, as indices into the sorted vertices."""
    place = np.searchsorted(vertices_V, vertices_V + step).clip(max=len(vertices_V) - 1)
    here = np.flatnonzero(vertices_V[place] == vertices_V + step)
    return here, place[here]
