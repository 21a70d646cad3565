"""Which labels compete in an image: those that CLIP sees in one of its windows as a whole.

A large vocabulary costs accuracy at every pixel; the pooled embedding, which CLIP was trained for,
rules most labels out before the dense decision. Beyond the methods' papers. Shapes: W windows,
D joint width, Q text rows, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.text_encoder import best_of_class
from ovseg_core.segmenter import TextMatrix


def present_rows(pooled_WD: Tensor, text: TextMatrix, scale: float, most: int) -> Tensor:
    """Return which phrases compete, bool (Q): the background's and those of the likeliest labels.

    A label's presence is the highest probability that one of its phrases has in any window.

    Args:
        pooled_WD: embeddings of the windows, not normalised.
        text: all phrases.
        scale: of the cosines before the softmax over phrases.
        most: so many labels stay; ties go to the first.
    """
    cosines_WQ = F.normalize(pooled_WD, dim=1) @ text.rows_QD.T
    best_Q = (cosines_WQ * scale).softmax(dim=1).amax(dim=0)
    presence_K = best_of_class(best_Q[None, :, None, None], text, absent=0.0).flatten()
    order_K = presence_K[1:].sort(descending=True, stable=True).indices + 1
    stays_K = torch.zeros_like(presence_K, dtype=torch.bool)
    stays_K[0] = True
    stays_K[order_K[:most]] = True
    return stays_K[text.class_index_Q]
