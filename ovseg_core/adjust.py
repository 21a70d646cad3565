"""Feature adjustment (methods.md 9.3): what a window as a whole has of a phrase is taken off.

The report that names it is loose, so both of its readings are here; neither could be checked
against code. Shapes: W windows of one image, D joint width, Q text rows, h w patches.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.recipe import Scoring
from ovseg_core.segmenter import TextMatrix

Adjustment = Literal["none", "literal", "surgery"]

CLASS_SCALE = 2.0
"""Multiplies the cosines of the whole window before their softmax over the phrases (9.2)."""


def literal(unit_WDhw: Tensor, class_WD: Tensor, rows_QD: Tensor) -> Tensor:
    """Return F_n T_q - f T_q (W, Q, h, w): the window's own cosine is taken off."""
    patches_WQhw = torch.einsum("qd,bdhw->bqhw", rows_QD, unit_WDhw)
    return patches_WQhw - (class_WD @ rows_QD.T)[:, :, None, None]


def surgery(unit_WDhw: Tensor, class_WD: Tensor, rows_QD: Tensor) -> Tensor:
    """Return F_n (w_q T_q - R) (W, Q, h, w): CLIP Surgery's redundant features are taken off.

    w is the softmax of the window's cosines, of mean one, and R the mean of w_q T_q.
    """
    weights_WQ = (CLASS_SCALE * class_WD @ rows_QD.T).softmax(dim=1)
    weights_WQ = weights_WQ / weights_WQ.mean(dim=1, keepdim=True)
    weighted_WQD = weights_WQ[:, :, None] * rows_QD
    text_WQD = weighted_WQD - weighted_WQD.mean(dim=1, keepdim=True)
    return torch.einsum("bqd,bdhw->bqhw", text_WQD, unit_WDhw)


def adjusted(reading: Literal["literal", "surgery"]) -> Scoring:
    """Return cosines after the adjustment; the reader supplies the windows' embeddings.

    Args:
        reading: which of the two.
    """
    adjust = literal if reading == "literal" else surgery

    def maps(unit_WDhw: Tensor, extra_WDhw: Tensor, text: TextMatrix, scale: float) -> Tensor:
        class_WD = F.normalize(extra_WDhw[:, :, 0, 0], dim=1)
        return adjust(unit_WDhw, class_WD, text.rows_QD)

    return Scoring(maps, "cosine")
