"""Which labels an image may show at all, by CLIP: only these are searched for.

A network that goes from text to instances decodes an image once for each label, and finds with
confidence what is not there. CLIP tells what a crop shows, which is what it was trained for, and
the crops of CLIP-DIY cost less than two labels of SAM 3. The rule is ours (docs/methods.md 14.6).

Shapes: B images, N crops, P side of the squashed image, D CLIP's joint width, K classes with
background first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovseg_core.backbones.clip import Clip
from ovseg_core.backbones.file_formats.needed_files import NeededWeights
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TextEncoder, templates_of
from ovseg_core.dense.scoring import label_presence
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.crop_pyramid import CLIP_DIY
from ovseg_core.images.resize.published_sizes import resize_linear
from ovseg_core.segmenter import MethodOptions, TextMatrix
from schemas.records import Share
from schemas.vocabulary import Vocabulary

_CROPS = CLIP_DIY


class GateOptions(MethodOptions):
    """Options of the methods that go from text to instances."""

    score_asks_networks: ClassVar[bool] = True

    gate_min_presence: Share = 0.5
    """A label is searched for in an image if CLIP takes any crop for one of the label's phrases,
    with at least this probability; 0: every label is, and no CLIP is loaded."""

    def needed_weights(self, backbones: Backbones, where: str) -> Iterator[NeededWeights]:
        """Yield what the options name, and CLIP where there is a gate."""
        needed = super().needed_weights(backbones, where)
        return (one for one in needed if self.gate_min_presence or one.kind != "clip")


@dataclass(frozen=True)
class GatedText(TextMatrix):
    """The phrases of a vocabulary as a method reads them, and as the gate does.

    Attributes:
        gate_rows_QD: unit rows of CLIP; (Q, 0) without a gate.
    """

    gate_rows_QD: Tensor


class PresenceGate:
    """The gate.

    Args:
        clip: embeds crops and phrases.
        min_presence: the least probability, as `GateOptions.gate_min_presence`.
    """

    def __init__(self, clip: Clip, min_presence: float) -> None:
        self._clip = clip
        self._min_presence = min_presence
        self._text = TextEncoder(clip, templates_of("diy"))

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary's rows for this gate; background phrases compete."""
        return self._text.matrix(vocabulary)

    def encode(self, images: Sequence[Image]) -> Tensor:
        """Return the embeddings (B, N, D) of crops of images (3, H, W), uint8, of any sizes."""
        side_px = _CROPS.side_px
        squares = [resize_linear(image, (side_px, side_px)) for image in images]
        squares_B3PP = torch.stack(squares).to(self._clip.device)
        crops = _CROPS.cut(squares_B3PP, self._clip.input_px)
        return self._clip.encode_images(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])

    def presence(self, crops_BND: Tensor, text: TextMatrix) -> Tensor:
        """Return how probable it is that each image shows each class (B, K), in [0, 1].

        Args:
            crops_BND: from `encode`.
            text: from `text_matrix`.
        """
        scale = self._clip.logit_scale
        return torch.stack([label_presence(crops_ND, text, scale) for crops_ND in crops_BND])

    def passes(self, crops_BND: Tensor, text: TextMatrix) -> Tensor:
        """Return which classes are searched for, bool (B, K); background is: it competes.

        Args:
            crops_BND: from `encode`.
            text: from `text_matrix`.
        """
        passes_BK = self.presence(crops_BND, text) >= self._min_presence
        passes_BK[:, 0] = True
        return passes_BK

    def passing_rows(self, crops_BND: Tensor, text: GatedText) -> Tensor:
        """Return which phrases are searched for, bool (B, Q): those of the classes that pass.

        Args:
            crops_BND: from `encode`.
            text: of the method.
        """
        rows = TextMatrix(text.gate_rows_QD, text.class_index_Q, text.num_classes)
        return self.passes(crops_BND, rows)[:, text.class_index_Q]


def gate_of(options: GateOptions, backbones: Backbones) -> PresenceGate | None:
    """Return the gate of a method, None if its options want none.

    Raises:
        WeightsError: a CLIP that cannot be found, fetched or used.
    """
    least = options.gate_min_presence
    return PresenceGate(backbones.clip, least) if least else None
