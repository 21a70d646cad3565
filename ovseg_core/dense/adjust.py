"""Scores less what patches have in common for all words (CLIP Surgery; methods.md 9.2, 9.3).

Shapes: W windows of one image, D joint width, Q text rows, h w patches.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.dense.options import Scoring, cosines
from ovseg_core.segmenter import TextMatrix

Adjustment = Literal["none", "literal", "surgery"]
"""Feature adjustment (9.3). The report that names it is loose and could not be checked against
code: `literal` takes the window's own cosine off, `surgery` is CLIP Surgery's subtraction."""


def directions(class_WD: Tensor, rows_QD: Tensor) -> Tensor:
    """Return what patches are multiplied with (W, Q, D): w_t T_t - R, R = mean of w_t T_t (9.2).

    Args:
        class_WD: the images' embeddings, unit.
        rows_QD: the phrases, unit.
    """
    weights_WQ = (2 * class_WD @ rows_QD.T).softmax(dim=1) * len(rows_QD)  # mean 1
    weighted_WQD = weights_WQ[:, :, None] * rows_QD
    return weighted_WQD - weighted_WQD.mean(dim=1, keepdim=True)


def surgery(unit_WDhw: Tensor, extra_WEhw: Tensor, text: TextMatrix, scale: float) -> Tensor:
    """Return the scores less what all phrases share (W, Q, h, w).

    The further channels are the windows' embeddings, the same at every patch.
    """
    class_WD = F.normalize(extra_WEhw[:, :, 0, 0], dim=1)
    return torch.einsum("nqd,ndhw->nqhw", directions(class_WD, text.rows_QD), unit_WDhw)


def literal(unit_WDhw: Tensor, extra_WEhw: Tensor, text: TextMatrix, scale: float) -> Tensor:
    """Return F_n T_q - f T_q (W, Q, h, w): the window's own cosine is taken off."""
    class_WD11 = F.normalize(extra_WEhw[:, :, :1, :1], dim=1)
    patches_WQhw = cosines(unit_WDhw, extra_WEhw, text, scale)
    return patches_WQhw - cosines(class_WD11, extra_WEhw, text, scale)


def adjusted(reading: Literal["literal", "surgery"]) -> Scoring:
    """Return the scoring of one reading; the reader supplies the windows' embeddings."""
    return Scoring(literal if reading == "literal" else surgery, "score")
