"""What every method is to the rest of the house: images -> features -> scores at patch resolution.

Shapes: B images, K classes (0 is background), Q text rows, D joint width, H W pixels, h w patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from ovseg_core.images.batch import Image
from ovseg_core.refine.pamr import Refinement
from ovseg_core.resize.stitching import Stitch
from schemas.base import Frozen
from schemas.config import ClipConfig
from schemas.vocabulary import Vocabulary


class MethodOptions(Frozen):
    """Base of every part's `Options`: frozen, unknown keys refused, docstrings are the help."""


@dataclass(frozen=True)
class MethodCard:
    """What `ovseg methods` shows of a method.

    Attributes:
        title: name of the method as published.
        paper: title of the paper.
        arxiv: its arXiv id.
        parts: what it is composed of, in a line.
        clip: the CLIP that a job gets which names none.
        weights: the backbones it was published with.
        licence: of those weights.
        published: mean IoU in percent by benchmark, as published (not measured here).
    """

    title: str
    paper: str
    arxiv: str
    parts: str
    clip: ClipConfig
    weights: str
    licence: str
    published: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TextMatrix:
    """The words of a job as rows of the joint space.

    Attributes:
        rows_QD: unit rows, on the method's device.
        class_index_Q: int64 class of each row; 0 is background, k is label k (from 1).
        num_classes: K, one more than the number of labels.
    """

    rows_QD: Tensor
    class_index_Q: Tensor
    num_classes: int


@dataclass(frozen=True)
class DecisionRule:
    """Softmax over all phrases, then the best phrase of each class (methods.md 1.5, 6.3).

    Attributes:
        class_index_Q: int64 class of each row of a level.
        num_classes: K; a class without phrases has probability 0.
        probability_threshold: a pixel whose winner has less is background.
        area_threshold: a label that wins no more than this share of the pixels that are not
            background loses them all to the others (SCLIP); 0: every label stays.
    """

    class_index_Q: Tensor
    num_classes: int
    probability_threshold: float = 0.0
    area_threshold: float = 0.0


@dataclass(frozen=True)
class ScoreMaps:
    """Scores of a batch at patch resolution; nothing here has the size of an image times K.

    Attributes:
        levels: `levels[b]` is a tuple of (K, h, w), or of (Q, h, w) under a `rule`; the score map
            of image b is the mean over its levels after bilinear (align_corners False) enlargement
            to the canvas.
        canvas_hw: where the argmax is taken; None: the image's own size. The label map then goes
            to the image's size by nearest neighbour, floor(i * in / out).
        objectness: for each image (h, w) in [0, 1], enlarged bilinearly to the canvas; None where
            the method has none.
        fusion: how objectness T enters. `complement_product`: M_0 (1 - T), M_k T (CLIP-DIY).
            `foreground_gate`: background where T <= 0.5, else argmax over labels.
        domain: what the levels hold. `score` is decided like `cosine`, but not bounded, and
            relative to the other phrases (CLIP Surgery).
        logit_scale: cosines times this, through softmax, are the probabilities of the score
            columns; no use in the domain `prob`.
        stitches: for each image where the patches of its one level lie, if they are of windows;
            None: they are spread evenly over the image.
        rule: how cosines of phrases become labels; None: levels are of classes, the best wins. In
            the domain `prob` levels are of classes always, and only its thresholds count.
        refinement: what happens to the enlarged scores before the decision; None: nothing.
        regions: for each image integer maps (h, w) of its regions, -1 is none, enlarged to the
            canvas by nearest. After the decision every region takes the label of most of its
            pixels, map by map; pixels that `foreground_gate` closes have no part in it. None: no
            vote.
    """

    levels: tuple[tuple[Tensor, ...], ...]
    canvas_hw: tuple[int, int] | None
    objectness: tuple[Tensor, ...] | None
    fusion: Literal["none", "complement_product", "foreground_gate"]
    domain: Literal["cosine", "score", "prob"]
    logit_scale: float
    stitches: tuple[Stitch, ...] | None = None
    rule: DecisionRule | None = None
    refinement: Refinement | None = None
    regions: tuple[tuple[Tensor, ...], ...] | None = None


class Features(Protocol):
    """What a method knows of a batch before it is told the words; each method has its own."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...


class Segmenter(Protocol):
    """A method with its backbones loaded.

    Attributes:
        decode_side_px: the method needs no more than this many pixels on the short side, so a
            decoder may deliver less than the file holds; 0: it wants every pixel.
    """

    decode_side_px: int

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary as rows; computed once for each vocabulary."""
        ...

    def encode(self, images: Sequence[Image]) -> Any:
        """Return everything that does not depend on the words."""
        ...

    def score(self, features: Any, text: TextMatrix) -> ScoreMaps:
        """Return the score maps of encoded images for these words."""
        ...
