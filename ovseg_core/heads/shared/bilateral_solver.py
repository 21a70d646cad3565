"""FOUND's bilateral solver: a mask drawn to the edges of its image (methods.md 3.3).

Pixels near in place and colour share a vertex of a coarse five-dimensional grid; the mask is made
smooth among neighbouring vertices and read back. Used to make training targets, never at inference.
Shapes: H W pixels, P = H * W, V vertices, 5 dimensions (x, y, luma, two chromas).
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
"""Side of a vertex: pixels, pixels, luma, chroma, chroma."""
_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""BT.601."""
_SMOOTHNESS = 256
_CONFIDENCE = 0.999
_DIAGONAL_FLOOR = 1e-5


@dataclass(frozen=True)
class _Grid:
    """The vertices of one image.

    Attributes:
        splat_VP: sums pixels into vertices; its transpose reads them back.
        blur_VV: 10 on the diagonal, 1 for each neighbour one step away in one dimension.
    """

    splat_VP: sparse.csr_array
    blur_VV: sparse.csr_array

    @classmethod
    def of(cls, image_HW3: NDArray[np.uint8]) -> "_Grid":
        cells_P5 = _cells(image_HW3)
        # One step in a dimension is one stride of a mixed-radix number with room at both ends.
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

    def bistochastised(self) -> tuple[FloatMap, FloatMap]:
        """Return the diagonals of Dn and Dm after ten iterations n <- sqrt(n m / blur(n))."""
        mass_V = self.splat_VP.sum(axis=1)
        n_V = np.ones(len(mass_V))
        for _ in range(10):
            n_V = np.sqrt(n_V * mass_V / (self.blur_VV @ n_V))
        return n_V, n_V * (self.blur_VV @ n_V)


def solve(image_HW3: NDArray[np.uint8], mask_HW: FloatMap) -> FloatMap:
    """Return the mask, smooth where the image is and free to change at its edges (H, W).

    Args:
        image_HW3: RGB.
        mask_HW: in [0, 1], of the image's size; may be soft.
    """
    grid = _Grid.of(image_HW3)
    n_V, m_V = grid.bistochastised()
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


def cut(soft_HW: FloatMap, keep: Keep = "multi") -> NDArray[np.bool_]:
    """Cut a solved mask at one half, fill its holes and choose among its components.

    Args:
        soft_HW: what `solve` returned.
        keep: `multi`: all but the largest label, the background counted as one; `single`: the
            second largest only. Where the foreground is the largest label, `multi` thus keeps the
            background; without any component `single` is all ones. Both as published.
    """
    filled_HW = ndimage.binary_fill_holes(soft_HW > 0.5)
    labels_HW, count = ndimage.label(filled_HW)  # pyright: ignore[reportGeneralTypeIssues]
    if keep == "single" and not count:
        return np.ones(soft_HW.shape, dtype=bool)
    by_size = np.argsort(np.bincount(labels_HW.ravel(), minlength=count + 1), kind="stable")
    return labels_HW == by_size[-2] if keep == "single" else labels_HW != by_size[-1]


def enlarged(mask_hw: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Return a patch mask at the size of its image, bilinear; it enters the solver soft."""
    height, width = size_hw
    soft_hw = mask_hw.astype(np.float32)
    wide_HW = cv2.resize(soft_hw, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide_HW, dtype=np.float32)


def sharpened(image_HW3: NDArray[np.uint8], mask_hw: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the solver's mask of a patch mask (H, W), or the patch mask itself, enlarged.

    The solver's is taken only where it agrees with what it was given: IoU above one half.
    """
    given_HW = enlarged(mask_hw, image_HW3.shape[:2])
    coarse_HW = given_HW > 0.5
    solved_HW = cut(solve(image_HW3, given_HW))
    both, either = (solved_HW & coarse_HW).sum(), (solved_HW | coarse_HW).sum()
    return solved_HW if 2 * both > either else coarse_HW


def _cells(image_HW3: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the cell of every pixel in scan order (P, 5); columns x, y, luma, chroma, chroma."""
    height, width = image_HW3.shape[:2]
    y_HW, x_HW = np.mgrid[:height, :width]
    yuv_HW3 = image_HW3 @ _YUV.T + [0, 128, 128]
    values_P5 = np.concatenate([np.stack([x_HW, y_HW], axis=2), yuv_HW3], axis=2).reshape(-1, 5)
    return (values_P5 / _CELL).astype(np.int64)


def _neighbours(
    vertices_V: NDArray[np.int64], step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of vertices (as indices into the sorted list) that lie a step apart."""
    place = np.searchsorted(vertices_V, vertices_V + step).clip(max=len(vertices_V) - 1)
    here = np.flatnonzero(vertices_V[place] == vertices_V + step)
    return here, place[here]
