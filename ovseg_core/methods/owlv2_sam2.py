"""OWLv2 and SAM 2: boxes of phrases by a detector, their masks by a promptable network.

As detector and SAM are put together since Grounded SAM (Ren et al., 2024, arXiv 2401.14159): each
box that the detector is sure enough of is a prompt, and the one mask for it is the object. A
detector is also sure of what is not there, so CLIP says first which labels an image may show.
Images are encoded once, whatever is searched for; words cost a product and SAM's mask decoder
(docs/methods.md 9c).

Shapes: B images, N boxes of one image, Q phrases, K classes (0 is background), h w SAM's masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from ovseg_core.backbones.owlv2 import OWLV2, EncodedPatches, Owlv2
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.sam.prompted import SAM, EmbeddedImages, PromptedSam
from ovseg_core.backbones.text.text_encoder import (
    TemplateSet,
    TextEncoder,
    best_of_class,
    templates_of,
)
from ovseg_core.images.batch import Image
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.images.resize.published_sizes import limited_size
from ovseg_core.methods.shared.presence_gate import (
    GatedText,
    GateOptions,
    PresenceGate,
    gate_of,
)
from ovseg_core.segmenter import MethodCard, ScoreMaps, ScoreOnly, Segmenter, TextMatrix
from schemas.config import ClipConfig, WeightsName
from schemas.records import Share
from schemas.vocabulary import Vocabulary

CARD = MethodCard(
    title="OWLv2 + SAM 2",
    paper="Scaling Open-Vocabulary Object Detection",
    arxiv="2306.09683",
    parts="boxes of words by OWLv2, a mask for each box by SAM 2; CLIP as a gate",
    clip=ClipConfig(model="ViT-B-32", pretrained="laion2b_s34b_b79k"),
    weights="OWLv2 base patch16 ensemble, SAM 2.1 tiny, CLIP ViT-B/32 laion2b_s34b_b79k",
    licence="Apache-2.0 (OWLv2, SAM 2), MIT (CLIP)",
    figures="OWLv2 on SA-Co/Gold: 17.3 cgF1 (SAM 3: 54.1), as SAM 3's authors report",
    finds_instances=True,
)
_PROMPTS_AT_ONCE = 64
_MAP_ELEMENTS = 1 << 24
"""Of the score map of one image, all classes together: 64 MB. With more than 256 classes it is
coarser than SAM's masks of 256 x 256."""


class Options(GateOptions):
    """Options of the method `owlv2_sam2`."""

    detector: WeightsName = f"hf-hub:{OWLV2.example}"
    """An OWLv2 of transformers: `hf-hub:ORG/REPO` or `local-dir:FOLDER`."""
    sam: WeightsName = f"hf-hub:{SAM.example}"
    """A SAM or SAM 2 of transformers: `hf-hub:ORG/REPO`, `local-dir:FOLDER` or `embedded`."""
    box_threshold: Annotated[Share, ScoreOnly()] = 0.1
    """Boxes are dropped whose score for their label is not above this."""
    nms_iou: Annotated[Share, ScoreOnly()] = 0.5
    """Of two boxes of one label with a larger IoU the one of the lower score is dropped. Masks of
    different labels compete as all instances do."""
    max_boxes: Annotated[PositiveInt, ScoreOnly()] = 100
    """Of more boxes of an image those with the highest scores stay."""
    templates: Annotated[TemplateSet, ScoreOnly()] = "diy"
    """Prompt templates where the vocabulary gives none."""


@dataclass(frozen=True)
class PromptedFeatures:
    """A batch as the networks have encoded it.

    Attributes:
        patches: boxes, and what a phrase's score is read of.
        embedded: what SAM's mask decoder reads.
        crops_BND: crops by CLIP, for the gate; None without one.
    """

    patches: EncodedPatches
    embedded: EmbeddedImages
    crops_BND: Tensor | None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.patches)

    def image(self, index: int) -> "PromptedFeatures":
        """Return the features of one image, as those of a batch of one."""
        crops_BND = None if self.crops_BND is None else self.crops_BND[index : index + 1]
        return PromptedFeatures(self.patches.image(index), self.embedded.image(index), crops_BND)


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image that are prompts, by falling score.

    Attributes:
        boxes_N4: left, top, right, bottom in pixels, inside the image.
        scores_NK: in [0, 1], of the best phrase of each class.
    """

    boxes_N4: Tensor
    scores_NK: Tensor


class Owlv2Sam2(Segmenter[PromptedFeatures]):
    """The method; see the module.

    Args:
        detector: finds the boxes.
        sam: makes their masks.
        gate: says which labels an image may show; None: all are searched for in all images.
        options: the method's.
    """

    def __init__(
        self, detector: Owlv2, sam: PromptedSam, gate: PresenceGate | None, options: Options
    ) -> None:
        self._detector = detector
        self._sam = sam
        self._gate = gate
        self._options = options
        self._text = TextEncoder(detector, templates_of(options.templates))
        self.decode_side_px = max(detector.input_px, sam.input_px)

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary's text matrix, in the detector's space."""
        text = self._text.matrix(vocabulary)
        if self._gate is None:
            return text
        gate_rows_QD = self._gate.text_matrix(vocabulary).rows_QD
        return GatedText(text.rows_QD, text.class_index_Q, text.num_classes, gate_rows_QD)

    def encode(self, images: Sequence[Image]) -> PromptedFeatures:
        """Return what the networks make of a batch."""
        crops_BND = None if self._gate is None else self._gate.encode(images)
        return PromptedFeatures(self._detector.encode(images), self._sam.embed(images), crops_BND)

    @torch.inference_mode()
    def score(self, features: PromptedFeatures, text: TextMatrix) -> ScoreMaps:
        """Return the instances of each image, and score maps that follow from them."""
        levels: list[tuple[Tensor, ...]] = []
        instances: list[Proposals] = []
        for index, searched in enumerate(self._searched(features, text)):
            found = self.boxes(features.patches, index, searched)
            image = features.embedded.image(index)
            masks_Nhw, ious_N = self._masks(image, found.boxes_N4)
            instances.append(Proposals(masks_Nhw, ious_N, None, found.scores_NK))
            levels.append((self._score_map(masks_Nhw, found.scores_NK),))
        return ScoreMaps(
            levels=tuple(levels),
            canvas_hw=None,
            objectness=None,
            fusion="none",
            domain="prob",
            logit_scale=1.0,
            proposals=tuple(instances),
        )

    def _searched(self, features: PromptedFeatures, text: TextMatrix) -> list[TextMatrix]:
        """Return the rows that are searched for in each image; those of background always are."""
        if self._gate is None or features.crops_BND is None:
            return [text] * len(features)
        assert isinstance(text, GatedText)
        return [
            TextMatrix(text.rows_QD[kept_Q], text.class_index_Q[kept_Q], text.num_classes)
            for kept_Q in self._gate.passing_rows(features.crops_BND, text)
        ]

    def boxes(self, patches: EncodedPatches, index: int, text: TextMatrix) -> Boxes:
        """Return the boxes of one image that are objects of a label."""
        from torchvision.ops import batched_nms, clip_boxes_to_image

        options, features_NC = self._options, patches.features_BNC[index]
        if not text.class_index_Q.any():  # no label is searched for
            no_N4, no_NK = (features_NC.new_zeros(0, width) for width in (4, text.num_classes))
            return Boxes(no_N4, no_NK)
        best_N, rows_N = self._detector.best_phrases(features_NC, text.rows_QD)
        labels_N = text.class_index_Q[rows_N]
        boxes_N4 = clip_boxes_to_image(patches.boxes_BN4[index], patches.sizes_hw[index])
        has_area_N = (boxes_N4[:, 2:] > boxes_N4[:, :2]).all(1)
        sure = (has_area_N & (best_N > options.box_threshold) & (labels_N > 0)).nonzero()[:, 0]
        kept = batched_nms(boxes_N4[sure], best_N[sure], labels_N[sure], options.nms_iou)
        kept = sure[kept[: options.max_boxes]]
        scores_NQ = self._detector.scores(features_NC[kept], text.rows_QD)
        scores_NK = best_of_class(scores_NQ[:, :, None, None], text, absent=0.0)[:, :, 0, 0]
        return Boxes(boxes_N4[kept], scores_NK)

    def _masks(self, image: EmbeddedImages, boxes_N4: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mask of each box (N, h, w), logits, and its predicted IoU (N) in [0, 1]."""
        input_hw = image.inputs_hw[0]
        masks = [boxes_N4.new_zeros(0, *self._sam.mask_hw(input_hw))]
        ious = [boxes_N4.new_zeros(0)]
        for some_P4 in boxes_N4.split(_PROMPTS_AT_ONCE) if len(boxes_N4) else ():
            logits, predicted = self._sam.masks(image, boxes_BP4=some_P4[None], multimask=False)
            masks.append(self._sam.of_image(logits[0, :, 0], input_hw))
            ious.append(predicted[0, :, 0].clamp(0, 1))
        return torch.cat(masks), torch.cat(ious)

    def _score_map(self, masks_Nhw: Tensor, scores_NK: Tensor) -> Tensor:
        """Return the score map (K, h, w) in [0, 1] that follows from instances.

        A label has at a pixel what its best instance has, the lower of the mask's probability and
        of s / (s + box_threshold): both are above 1/2 where the mask is and the score counts. What
        is left to 1 is background.
        """
        num_classes, threshold = scores_NK.shape[1], self._options.box_threshold
        size_hw = masks_Nhw.shape[1], masks_Nhw.shape[2]
        inside_Nhw = masks_Nhw.sigmoid()
        if num_classes * size_hw[0] * size_hw[1] > _MAP_ELEMENTS:
            side = int((_MAP_ELEMENTS / num_classes) ** 0.5)
            size_hw = limited_size(size_hw, side)
            inside_Nhw = F.adaptive_avg_pool2d(inside_Nhw, size_hw)
        sure_NK = scores_NK / (scores_NK + threshold).clamp(min=1e-12)
        map_Khw = masks_Nhw.new_zeros(num_classes, *size_hw)
        for inside_hw, score_K, sure_K in zip(inside_Nhw, scores_NK, sure_NK, strict=True):
            labels = (score_K[1:] > threshold).nonzero()[:, 0] + 1
            own = torch.minimum(inside_hw, sure_K[labels, None, None])
            map_Khw[labels] = torch.maximum(map_Khw[labels], own)
        map_Khw[0] = 1 - map_Khw[1:].amax(0)
        return map_Khw


def build(options: Options, backbones: Backbones) -> Owlv2Sam2:
    """Return the method with its networks loaded.

    Raises:
        ConfigError: transformers is missing, or another major version.
        WeightsError: weights that cannot be found, fetched or used.
    """
    detector = backbones.owlv2(options.detector, "method.options.detector")
    sam = backbones.prompted_sam(options.sam, "method.options.sam")
    return Owlv2Sam2(detector, sam, gate_of(options, backbones), options)
