"""The bilateral solver on masks with a known answer."""

import numpy as np

from ovseg_core.training.heads.shared import bilateral_solver


def _square(height: int = 96, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """A red square on blue-grey, and its mask."""
    true = np.zeros((height, width), bool)
    true[20:61, 33:90] = True
    image = np.where(true[..., None], [200, 40, 40], [90, 110, 130]).astype(np.uint8)
    return image, true


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_refine_aligns_a_coarse_mask_with_the_edges() -> None:
    image, true = _square()
    coarse = true[4::8, 4::8]
    before = bilateral_solver.resize_mask(coarse, true.shape) > 0.5
    after = bilateral_solver.refine(image, coarse)
    assert _iou(after, true) > max(0.97, _iou(before, true))


def test_refine_keeps_a_mask_that_the_solver_removes() -> None:
    """Without edges one patch of foreground is smoothed away, so the patch itself is kept."""
    image = np.full((64, 80, 3), 120, np.uint8)
    patch = np.zeros((8, 10))
    patch[3, 4] = 1
    kept = bilateral_solver.refine(image, patch)
    assert np.array_equal(kept, bilateral_solver.resize_mask(patch, (64, 80)) > 0.5)


def test_binarise_selects_components() -> None:
    soft = np.zeros((20, 30))
    soft[2:6, 2:6] = 1  # 16 pixels
    soft[10:18, 10:20] = 1  # 80 pixels, with a hole
    soft[13, 14] = 0
    multi, single = (
        bilateral_solver.binarise(soft, "multi"),
        bilateral_solver.binarise(soft, "single"),
    )
    assert multi.sum() == 96
    assert single.sum() == 80
    assert multi[13, 14]


def test_binarise_corner_cases_as_published() -> None:
    assert bilateral_solver.binarise(np.zeros((4, 5)), "single").all()
    assert not bilateral_solver.binarise(np.zeros((4, 5)), "multi").any()
    mostly = np.ones((10, 10))
    mostly[0] = 0  # the foreground is the largest label: what is kept is the background
    assert np.array_equal(bilateral_solver.binarise(mostly, "multi"), mostly < 0.5)
