"""SAM 3, fused as SegEarth-OV3 does: the instances and the pixels of each phrase, and its presence.

SAM 3 answers a phrase in three ways (Carion et al., 2025): objects, each with a mask and a score; a
probability of every pixel; and how probable it is that the image shows the phrase at all.
SegEarth-OV3 (Li et al., 2025) makes one map of them (docs/methods.md 9b). An image and a phrase are
each encoded once; what costs is decoding the pairs, so CLIP says first which labels an image may
show. SAM 3 is asked for the bare phrase: templates are CLIP's.

Shapes: B images, P phrases decoded at once, Q phrases, K classes (0 is background), L tokens of a
phrase, R objects that are looked for, M side of SAM 3's masks, h w of the score map, N instances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.sam3 import SAM3, EncodedImages, FoundObjects, PhraseTokens, Sam3
from ovseg_core.backbones.text.text_encoder import unit_rows
from ovseg_core.images.batch import Image
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.methods.shared.presence_gate import (
    GatedText,
    GateOptions,
    PresenceGate,
    gate_of,
)
from ovseg_core.segmenter import MethodCard, ScoreMaps, ScoreOnly, Segmenter, TextMatrix
from schemas.config import ClipConfig, WeightsName
from schemas.records import Share
from schemas.vocabulary import Vocabulary, is_background

CARD = MethodCard(
    title="SAM 3 (SegEarth-OV3)",
    paper="SegEarth-OV3: Exploring SAM 3 for Open-Vocabulary Semantic Segmentation in Remote "
    "Sensing Images",
    arxiv="2512.08730",
    parts="SAM 3's instances, pixels and presence of each label, one map of them; CLIP as a gate",
    clip=ClipConfig(model="ViT-B-32", pretrained="laion2b_s34b_b79k"),
    weights=f"SAM 3 {SAM3.example} (gated), CLIP ViT-B/32 laion2b_s34b_b79k",
    licence="SAM License (SAM 3; it forbids military and other uses), MIT (CLIP)",
    published={
        "VOC21": 79.8,
        "Context60": 53.4,
        "Object": 72.0,
        "VOC20": 96.8,
        "Context59": 59.2,
        "Stuff": 42.8,
        "Cityscapes": 69.7,
        "ADE": 37.6,
    },
    finds_instances=True,
)
_MAP_ELEMENTS = 1 << 25
"""Of the score map of one image, all classes together: 128 MB. Of more than 400 labels the maps are
coarser than SAM 3's 288 x 288."""


class Options(GateOptions):
    """Options of the method `sam3`."""

    weights: WeightsName = f"hf-hub:{SAM3.example}"
    """A SAM 3 of transformers: `hf-hub:ORG/REPO` or `local-dir:FOLDER`."""
    probability_threshold: Annotated[float, Field(ge=0, lt=1), ScoreOnly()] = 0.5
    """A pixel whose best label has a lower score is background; 0: none is."""
    instance_threshold: Annotated[Share, ScoreOnly()] = 0.5
    """Instances are dropped whose score, times the presence of their label, is not above this."""
    max_instances: Annotated[PositiveInt, ScoreOnly()] = 300
    """Of more instances of an image those with the highest scores stay."""
    competition: Annotated[bool, ScoreOnly()] = False
    """A label's score at a pixel is multiplied by its share of all labels' scores there, so that
    what several labels claim alike becomes background; not in the paper."""
    phrases_per_forward: Annotated[NonNegativeInt, ScoreOnly()] = 0
    """Phrases decoded at once, which bounds memory; 0: a default for the device."""

    @property
    def finds_background(self) -> bool:
        """Whether there is a threshold of the score."""
        return self.probability_threshold > 0


@dataclass(frozen=True)
class Sam3Text(GatedText):
    """The phrases of a vocabulary as SAM 3 reads them, and as the gate does.

    The unit rows are means of the tokens; masks are made of the tokens.

    Attributes:
        tokens_QLC: of SAM 3's text encoder.
        is_token_QL: bool; False: padding.
        is_asked_Q: bool; False: `background`, which is what no label fits, and a phrase that reads
            like an earlier one.
    """

    tokens_QLC: Tensor
    is_token_QL: Tensor
    is_asked_Q: Tensor


@dataclass(frozen=True)
class Sam3Features:
    """A batch as it is encoded.

    Attributes:
        images: by SAM 3.
        crops_BND: crops by CLIP, for the gate; None without one.
    """

    images: EncodedImages
    crops_BND: Tensor | None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def image(self, index: int) -> "Sam3Features":
        """Return the features of one image, as those of a batch of one."""
        crops_BND = None if self.crops_BND is None else self.crops_BND[index : index + 1]
        return Sam3Features(self.images.image(index), crops_BND)


class Sam3Segmenter(Segmenter[Sam3Features]):
    """The method; see the module.

    Args:
        sam3: the network.
        gate: says which labels an image may show; None: all are looked for in all images.
        options: the method's.
    """

    def __init__(self, sam3: Sam3, gate: PresenceGate | None, options: Options) -> None:
        self._sam3 = sam3
        self._gate = gate
        self._options = options
        self._known: dict[str, Sam3Text] = {}
        self.decode_side_px = sam3.input_px

    @torch.inference_mode()
    def text_matrix(self, vocabulary: Vocabulary) -> Sam3Text:
        """Return the vocabulary's phrases, encoded."""
        key = vocabulary.content_hash
        if key not in self._known:
            self._known = {key: self._encoded(vocabulary)}
        return self._known[key]

    def encode(self, images: Sequence[Image]) -> Sam3Features:
        """Return what the networks make of a batch without words."""
        crops_BND = None if self._gate is None else self._gate.encode(images)
        return Sam3Features(self._sam3.encode(images), crops_BND)

    @torch.inference_mode()
    def score(self, features: Sam3Features, text: TextMatrix) -> ScoreMaps:
        """Return the score maps of the classes, and the instances of each image.

        A label that the gate does not let through is not decoded, and has the score 0.
        """
        assert isinstance(text, Sam3Text)
        decoded_BQ = self._decoded(features, text)
        found = [
            self._found(features.images, index, text, decoded_Q.nonzero()[:, 0])
            for index, decoded_Q in enumerate(decoded_BQ)
        ]
        return ScoreMaps(
            levels=tuple((level_Khw,) for level_Khw, _ in found),
            canvas_hw=None,
            objectness=None,
            fusion="none",
            domain="prob",
            logit_scale=1.0,
            proposals=tuple(instances for _, instances in found),
        )

    def _encoded(self, vocabulary: Vocabulary) -> Sam3Text:
        phrases = [(phrase, 0) for phrase in vocabulary.background]
        for number, label in enumerate(vocabulary.labels, start=1):
            phrases += [(phrase, number) for phrase in label.phrases]
        device = self._sam3.device
        read = self._sam3.encode_text([phrase for phrase, _ in phrases])
        counted_QL1 = read.is_token_PL[:, :, None].float()
        means_QC = (read.tokens_PLC * counted_QL1).sum(1) / counted_QL1.sum(1)
        gate_rows_QD = means_QC.new_zeros(len(phrases), 0)
        if self._gate is not None:
            gate_rows_QD = self._gate.text_matrix(vocabulary).rows_QD
        rows_QD = unit_rows(means_QC, phrases, self._sam3.weights_file)
        # Of phrases that read alike the first gets every pixel, as is warned.
        groups = rows_QD.mul(1e5).round().unique(dim=0, return_inverse=True)[1].tolist()
        first = {group: row for row, group in reversed(list(enumerate(groups)))}
        return Sam3Text(
            rows_QD=rows_QD,
            class_index_Q=torch.tensor([number for _, number in phrases], device=device),
            num_classes=1 + len(vocabulary.labels),
            tokens_QLC=read.tokens_PLC,
            is_token_QL=read.is_token_PL,
            is_asked_Q=torch.tensor(
                [
                    first[groups[row]] == row and (number > 0 or not is_background(phrase))
                    for row, (phrase, number) in enumerate(phrases)
                ],
                device=device,
            ),
            gate_rows_QD=gate_rows_QD,
        )

    def _decoded(self, features: Sam3Features, text: Sam3Text) -> Tensor:
        """Return which phrases are decoded for each image, bool (B, Q)."""
        if self._gate is None or features.crops_BND is None:
            return text.is_asked_Q.expand(len(features), -1)
        return self._gate.passing_rows(features.crops_BND, text) & text.is_asked_Q

    def _found(
        self, images: EncodedImages, index: int, text: Sam3Text, decoded: Tensor
    ) -> tuple[Tensor, Proposals]:
        """Return the score map of one image (K, h, w), and its instances.

        Args:
            images: encoded.
            index: of the image.
            text: the phrases.
            decoded: the rows of those that are looked for.
        """
        side = map_side(text.num_classes, images.maps[0].shape[-1])
        map_Khw = images.maps[0].new_zeros(text.num_classes, side, side)
        best = _BestInstances(text.num_classes, self._options, map_Khw)
        at_once = self._options.phrases_per_forward or self._sam3.phrases_at_once(images)
        for rows in decoded.split(at_once) if len(decoded) else ():
            phrases = PhraseTokens(text.tokens_QLC[rows], text.is_token_QL[rows])
            objects = self._sam3.find(images, index, phrases)
            classes_P = text.class_index_Q[rows]
            best.add(objects, classes_P)
            fused_Phw = F.adaptive_avg_pool2d(fused(objects), side)
            for number, fused_hw in zip(classes_P.tolist(), fused_Phw, strict=True):
                torch.maximum(map_Khw[number], fused_hw, out=map_Khw[number])
        if self._options.competition:
            map_Khw = map_Khw.square() / map_Khw.sum(0).clamp(min=1e-12)
        return against_background(map_Khw, self._options.probability_threshold), best.proposals()


class _BestInstances:
    """The instances of one image with the highest scores.

    Args:
        num_classes: K.
        options: the method's.
        like: has the device.
    """

    def __init__(self, num_classes: int, options: Options, like: Tensor) -> None:
        self._num_classes = num_classes
        self._options = options
        self._masks_NMM = like.new_zeros(0, *like.shape[1:], dtype=torch.float16)
        self._scores_N = like.new_zeros(0)
        self._classes_N = like.new_zeros(0, dtype=torch.int64)

    def add(self, objects: FoundObjects, classes_P: Tensor) -> None:
        """Take those of some phrases' objects that are sure enough; background is none."""
        scores_PR = objects.scores_PR * objects.presence_P[:, None]
        sure = (scores_PR > self._options.instance_threshold) & (classes_P > 0)[:, None]
        if not sure.any():
            return
        # As the library enlarges them: probabilities, not logits. Inside is above 0 here.
        masks_NMM = (objects.masks_PRMM[sure].sigmoid() - 0.5).half()
        if len(self._scores_N):
            masks_NMM = torch.cat([self._masks_NMM, masks_NMM])
        scores_N = torch.cat([self._scores_N, scores_PR[sure]])
        classes_N = torch.cat([self._classes_N, classes_P[:, None].expand_as(sure)[sure]])
        kept = scores_N.argsort(descending=True, stable=True)[: self._options.max_instances]
        self._masks_NMM, self._scores_N = masks_NMM[kept], scores_N[kept]
        self._classes_N = classes_N[kept]

    def proposals(self) -> Proposals:
        """Return them with the score of their class, by falling score."""
        probs_NK = self._scores_N.new_zeros(len(self._scores_N), self._num_classes)
        probs_NK.scatter_(1, self._classes_N[:, None], self._scores_N[:, None])
        return Proposals(self._masks_NMM, torch.ones_like(self._scores_N), None, probs_NK)


def build(options: Options, backbones: Backbones) -> Sam3Segmenter:
    """Return the method with its networks loaded.

    Raises:
        ConfigError: transformers is missing, or another major version.
        WeightsError: weights that cannot be found, fetched or used.
    """
    sam3 = backbones.sam3(options.weights, "method.options.weights")
    return Sam3Segmenter(sam3, gate_of(options, backbones), options)


def map_side(num_classes: int, mask_side: int) -> int:
    """Return the side of the score map of one image, at most that of SAM 3's masks."""
    return min(mask_side, max(int((_MAP_ELEMENTS / num_classes) ** 0.5), 1))


def fused(objects: FoundObjects) -> Tensor:
    """Return one map of each phrase (P, M, M) in [0, 1] (SegEarth-OV3).

    A pixel has what its best instance says, the mask's probability times the score, or the
    semantic head, whichever is higher; times the presence of the phrase.
    """
    # A phrase at a time: its masks are the largest of all.
    instances_PMM = torch.stack(
        [
            (masks_RMM.sigmoid() * scores_R[:, None, None]).amax(0)
            for masks_RMM, scores_R in zip(objects.masks_PRMM, objects.scores_PR, strict=True)
        ]
    )
    both_PMM = torch.maximum(instances_PMM, objects.semantic_PMM.sigmoid())
    return both_PMM * objects.presence_P[:, None, None]


def against_background(map_Khw: Tensor, threshold: float) -> Tensor:
    """Return the scores with that of background: what the best label s leaves, 1 - s.

    Labels and background are weighted so that a label wins where s is above the threshold.

    Args:
        map_Khw: in [0, 1]; of class 0 that of its phrases, which compete. Used up.
        threshold: in [0, 1).
    """
    left_hw = 1 - map_Khw[1:].amax(0)
    own = min(1.0, (1 - threshold) / max(threshold, 1e-12))
    map_Khw *= own
    left_hw *= own * threshold / (1 - threshold)
    torch.maximum(map_Khw[0], left_hw, out=map_Khw[0])
    return map_Khw
