"""Score maps as a segmenter gives them, without one: smooth random cosines at patch resolution.

Imports only torch and numpy at the top, so that an earlier commit can be measured with it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GRID_HW = (30, 40)
"""Patches of 16 pixels in an image whose short side is resized to 480."""
COARSE_HW = (6, 8)


def smooth_cosines(num_classes: int, seed: int) -> Tensor:
    """Return one level of an image: float32 (K, 30, 40), as wide apart as CLIP's cosines are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, num_classes, *COARSE_HW, generator=generator)
    fine = torch.randn(1, num_classes, *GRID_HW, generator=generator)
    smooth = F.interpolate(coarse, GRID_HW, mode="bicubic") + 0.1 * fine
    return 0.2 + 0.02 * smooth[0]
