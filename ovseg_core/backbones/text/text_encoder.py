"""Embed the phrases of a vocabulary as unit rows of CLIP's joint space: the text matrix.

Formulas and template sets: docs/methods.md 1.5.

Shapes: Q phrases (rows), P prompts (phrases in their templates), D joint width, K classes (0 is
background), B images, h w patches. float32 on the network's device.
"""

import logging
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.segmenter import TextMatrix
from schemas.errors import WeightsError
from schemas.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

TemplateSet = Literal["diy", "t80", "t85", "plain"]

_SCENE = tuple(
    f"{opening} in the scene."
    for opening in (
        "there is a {}",
        "there is the {}",
        "this is a {}",
        "this is the {}",
        "this is one {}",
    )
)


def templates_of(name: TemplateSet) -> tuple[str, ...]:
    """Return a published set of prompt templates, each with one `{}`.

    Args:
        name: `diy`: CLIP-DIY's one template; `plain`: the phrase alone; `t80`: OpenAI's ImageNet
            templates; `t85`: those and five of scenes (MaskCLIP).
    """
    if name == "diy":
        return ("a photo of a {}",)
    if name == "plain":
        return ("{}",)
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    t80 = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    return t80 if name == "t80" else t80 + _SCENE


_CACHED_VOCABULARIES = 8
_CACHED_PHRASES = 4096


class PromptEncoder(Protocol):
    """A network that embeds texts: CLIP, or a detector with CLIP's text encoder.

    Attributes:
        device: where it is.
        weights_file: its local file, for messages.
    """

    device: torch.device
    weights_file: str

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return embeddings (number of prompts, D), not normalised to unit length."""
        ...


class TextEncoder:
    """Text matrices for one method, cached by vocabulary; phrase embeddings are cached as well.

    Args:
        clip: embeds the prompts.
        templates: the method's templates, for labels and vocabularies without their own.
        background_templates: the method's templates of background phrases; None: `templates`.
    """

    def __init__(
        self,
        clip: PromptEncoder,
        templates: tuple[str, ...],
        background_templates: tuple[str, ...] | None = None,
    ) -> None:
        self._clip = clip
        self._templates = templates
        self._background_templates = background_templates or templates
        self._cache: dict[str, TextMatrix] = {}
        self._rows_D: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the text matrix: background phrases first, then the phrases of each label.

        A row is the mean of the phrase's unit embeddings over the templates, normalised again.
        A label's own templates take precedence over the vocabulary's, those over the method's.

        Raises:
            WeightsError: embeddings that are not finite.
        """
        key = vocabulary.content_hash
        if key not in self._cache:
            if len(self._cache) >= _CACHED_VOCABULARIES:
                self._cache.pop(next(iter(self._cache)))
            self._cache[key] = self._compute(vocabulary)
        return self._cache[key]

    @torch.inference_mode()
    def _compute(self, vocabulary: Vocabulary) -> TextMatrix:
        phrases = [(phrase, 0, self._background_templates) for phrase in vocabulary.background]
        for number, label in enumerate(vocabulary.labels, start=1):
            templates = label.templates or vocabulary.templates or self._templates
            phrases += [(phrase, number, templates) for phrase in label.phrases]
        self._embed([(phrase, templates) for phrase, _, templates in phrases])
        means_QD = torch.stack(
            [self._rows_D[phrase, templates] for phrase, _, templates in phrases]
        )
        numbered = [(phrase, number) for phrase, number, _ in phrases]
        rows_QD = unit_rows(means_QD, numbered, self._clip.weights_file)
        index_Q = torch.tensor([number for _, number in numbered], device=self._clip.device)
        return TextMatrix(rows_QD, index_Q, 1 + len(vocabulary.labels))

    def _embed(self, phrases: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        """Compute the mean embeddings of phrases that are not cached, in one batch."""
        if len(self._rows_D) + len(phrases) > _CACHED_PHRASES:
            self._rows_D.clear()
        new = [key for key in dict.fromkeys(phrases) if key not in self._rows_D]
        prompts = [template.replace("{}", phrase) for phrase, many in new for template in many]
        if not prompts:
            return
        units_PD = F.normalize(self._clip.encode_text(prompts), dim=-1)
        rows = units_PD.split([len(templates) for _, templates in new])
        self._rows_D |= {key: row.mean(dim=0) for key, row in zip(new, rows, strict=True)}


def unit_rows(means_QD: Tensor, phrases: Sequence[tuple[str, int]], weights_file: str) -> Tensor:
    """Return embeddings of phrases (Q, D) at unit length, with a warning of labels that are equal.

    Args:
        means_QD: of any length.
        phrases: with the class of each.
        weights_file: the text encoder's, for messages.

    Raises:
        WeightsError: embeddings that are not finite.
    """
    if not means_QD.isfinite().all():
        raise WeightsError(
            f"the text encoder of {weights_file} returns NaN or infinity for "
            f"{phrases[int((~means_QD.isfinite()).any(1).int().argmax())][0]!r}: its weights "
            "overflow; give others"
        )
    rows_QD = F.normalize(means_QD, dim=-1)
    _warn_of_equal_rows(rows_QD, phrases)
    return rows_QD


def _warn_of_equal_rows(rows_QD: Tensor, phrases: Sequence[tuple[str, int]]) -> None:
    """Warn of labels that no method can distinguish, as their prompts are the same tokens."""
    # Rounded, as the embedding of a prompt depends on its batch in the last digit.
    inverse_Q = rows_QD.mul(1e5).round().unique(dim=0, return_inverse=True)[1].tolist()
    first: dict[int, int] = {}
    for row, group in enumerate(inverse_Q):
        twin = first.setdefault(group, row)
        if phrases[twin][1] != phrases[row][1]:
            logger.warning(
                "this CLIP cannot distinguish %r and %r (it ignores capitals and reads "
                "only the first words of a long name): the first gets every pixel",
                phrases[twin][0],
                phrases[row][0],
            )


def best_of_class(rows_BQhw: Tensor, text: TextMatrix, absent: float) -> Tensor:
    """Return class scores (B, K, h, w): the maximum over each class's rows.

    Args:
        rows_BQhw: scores of the text rows.
        text: maps rows to classes.
        absent: score of a class without rows (background without phrases).
    """
    batch, _, height, width = rows_BQhw.shape
    classes_BKhw = rows_BQhw.new_full((batch, text.num_classes, height, width), absent)
    index_Q = text.class_index_Q
    if rows_BQhw.device.type != "cpu" or torch.compiler.is_compiling():
        index_BQhw = index_Q.view(1, -1, 1, 1).expand_as(rows_BQhw)
        return classes_BKhw.scatter_reduce(1, index_BQhw, rows_BQhw, "amax", include_self=False)
    # On a CPU whole maps are compared, the n-th rows of all classes at once: eight times faster.
    order_Q = index_Q.argsort(stable=True)
    sorted_Q = index_Q[order_Q]
    number_Q = torch.arange(len(sorted_Q)) - torch.searchsorted(sorted_Q, sorted_Q)
    for number in range(int(number_Q.amax()) + 1 if len(number_Q) else 0):
        is_next_Q = number_Q == number
        classes, best = sorted_Q[is_next_Q], rows_BQhw.index_select(1, order_Q[is_next_Q])
        if number:
            best = torch.maximum(classes_BKhw.index_select(1, classes), best)
        classes_BKhw.index_copy_(1, classes, best)
    return classes_BKhw
