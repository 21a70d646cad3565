"""Hierarchical network that fuses CLIP's text features with an image pyramid, trained with labels.

The paper gives the equations, numbered here, and the loss. It names no backbone, width, optimiser,
schedule or size: lines and defaults marked "ours" are choices made here (docs/methods.md 10).

Shapes: T text rows (Q, D); r_i feature maps of level i = 1..3, the finest first, after FC_i
(B, C, h_i, w_i); N_i = h_i * w_i cells; S side of a training view.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from ovseg_core.segmenter import MethodCard
from ovseg_core.training.students import (
    ABSENT_LOGIT,
    UNLABELLED,
    Optimisation,
    StudentOptions,
    TextShape,
    TotalLoss,
)
from ovseg_core.training.students.shared.pyramid import TIMMS_OWN, Pyramid, PyramidOptions
from ovseg_core.training.students.shared.views import RandomViews, ViewSteps
from schemas.config import ClipConfig, WeightsName
from schemas.errors import ConfigError

CARD = MethodCard(
    title="Text-fusion network",
    paper="Hierarchical fusion of CLIP's text features with an image pyramid (S003), supervised",
    arxiv="",
    parts="CNN pyramid; text tokens and multi-head attention per level; pairwise and triple fusion",
    clip=ClipConfig(model="ViT-B-16", pretrained="openai"),
    weights="an ImageNet CNN that the paper does not name; its own weights were not published",
    licence="that of the backbone's weights",
    figures="IoU of single classes only. CamVid: sky 91.6, fence 45.6, pole 35.7, tree 75.4, "
    "sidewalk 81.9. Cityscapes: road 97.6, wall 48.5, fence 50.7, traffic light 65.4, "
    "traffic sign 70.9",
)

NUM_LEVELS = 3
_PROBE = 1, 3, 64, 96
"""Shape of an image that shows which weights are used."""


class Options(StudentOptions, PyramidOptions):
    """Options of the student `text_fusion`; all defaults are ours."""

    steps: PositiveInt = 3_700
    """Training steps; the default is 80 epochs of CamVid's 367 images."""
    batch: PositiveInt = 8
    """Images per step, over all workers."""
    size_px: PositiveInt = 360
    """Side of a training view: 360 for CamVid, 768 for Cityscapes."""
    backbone: Annotated[str, Field(max_length=100)] = "resnet50.a1_in1k"
    """timm architecture that gives a pyramid of feature maps, with the tag of its weights."""
    backbone_weights: WeightsName = TIMMS_OWN
    """Weights that the training starts from: `timm`: those of timm, trained on ImageNet; `random`;
    or a file (path or URL). A trained student does not need them."""
    finest_px: Literal[4, 8] = 8
    """Pixels of a cell of the finest of the three levels; the others have twice and four times as
    many. 4: thin objects are seen, attention takes sixteen times the work."""
    width: PositiveInt = 256
    """Channels of all levels, a multiple of `heads`."""
    heads: PositiveInt = 8
    """Heads of the attention."""
    text: bool = True
    """False: the ablation without text; attention sees the image's own cells only."""
    hierarchy: bool = True
    """False: the ablation without hierarchy; the coarsest level alone, no fusion of levels."""
    head: Literal["conv", "text"] = "conv"
    """`conv`: an output for each phrase of the training, closed set; `text`: features times a
    projection of the text rows, which can be asked for other words."""
    learning_rate: PositiveFloat = 1e-4
    """Learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Weight decay of AdamW."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Range of the random factor by which an image is resized."""
    distort: bool = True
    """Change brightness, contrast, saturation and hue of the views at random."""

    @model_validator(mode="after")
    def _consistent(self) -> "Options":
        if self.width % self.heads:
            raise ValueError(
                f"width: expected a multiple of heads ({self.heads}), got {self.width}"
            )
        if self.head == "text" and not self.text:
            raise ValueError("head: the head `text` reads the text; text=false needs head=conv")
        return self


class TextFusionNetwork(nn.Module):
    """The network, a `StudentNetwork`.

    Args:
        backbone: pixel values 0..255 (B, 3, H, W) to three feature maps, the finest first; without
            hierarchy to one.
        channels: of the feature maps.
        stride_px: of the finest of them.
        text: phrases of the training, and their width.
        options: width and switches.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        stride_px: int,
        text: TextShape,
        options: Options,
    ) -> None:
        super().__init__()
        self.text_width, self.stride_px = text.width, stride_px
        self.is_open = options.head == "text"
        self.backbone = backbone
        self._has_text, self._has_hierarchy = options.text, options.hierarchy
        width = options.width
        self.image_fc = nn.ModuleList(nn.Conv2d(one, width, 1) for one in channels)
        self.image_norm = nn.ModuleList(nn.LayerNorm(width) for _ in channels)
        if options.text:
            self.text_fc = nn.ModuleList(nn.Linear(text.width, width) for _ in channels)
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(width, options.heads, batch_first=True) for _ in channels
        )
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in channels)
        if options.hierarchy:
            self.pair_fc = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in range(NUM_LEVELS))
            self.triple_fc = nn.Conv2d(NUM_LEVELS * width, width, 1)
        if self.is_open:
            self.head = nn.Linear(text.width, width)
            self.log_scale = nn.Parameter(torch.tensor(10.0).log())
            self.bias = nn.Parameter(torch.tensor(-3.0))
        else:
            self.head = nn.Conv2d(width, text.num_phrases, 1)

    def encode(self, pixels_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Return FC_i(r_i), float (B, C, h_i, w_i), the finest first."""
        maps = self.backbone(pixels_B3HW)
        return tuple(fc(r_i) for fc, r_i in zip(self.image_fc, maps, strict=True))

    def classify(self, features: tuple[Tensor, ...], rows_QD: Tensor) -> Tensor:
        """Return the logits (B, Q, h_1, w_1) of phrases."""
        n = [self._attend(level, r, rows_QD) for level, r in enumerate(features)]
        fused_BChw = self._fuse(*n) if self._has_hierarchy else n[0]
        if not self.is_open:
            return self.head(fused_BChw)
        words_QC = F.normalize(self.head(rows_QD * rows_QD.shape[1] ** 0.5), dim=1)
        unit_BChw = F.normalize(fused_BChw, dim=1)
        similarity_BQhw = torch.einsum("bchw,qc->bqhw", unit_BChw, words_QC)
        return similarity_BQhw * self.log_scale.exp() + self.bias

    def forward(self, pixels_B3HW: Tensor, rows_QD: Tensor) -> Tensor:
        """Return `classify(encode(pixels), rows)`."""
        return self.classify(self.encode(pixels_B3HW), rows_QD)

    def _attend(self, level: int, r_BChw: Tensor, rows_QD: Tensor) -> Tensor:
        """Return n_i, (B, C, h_i, w_i): the cells of a level, having read the text."""
        batch, _, height, width = r_BChw.shape
        r_BNC = self.image_norm[level](r_BChw.flatten(2).transpose(1, 2))
        tokens = r_BNC
        if self._has_text:
            text_QC = self.text_fc[level](
                rows_QD * rows_QD.shape[1] ** 0.5
            )  # (1-3) E_i = unsqueeze(FC_ri(T))
            text_BQC = text_QC[None].expand(batch, -1, -1)
            tokens = torch.cat([text_BQC, r_BNC], dim=1)  # (4, 6, 8) E_i = [E_i, FC_i(r_i)]
        # (5, 7, 9) n_i = MultiHead(E_i, r_i); ours: r_i asks, E_i answers; residual, LayerNorm
        read_BNC, _ = self.attention[level](r_BNC, tokens, tokens, need_weights=False)
        n_BNC = self.norm[level](r_BNC + read_BNC)
        return n_BNC.transpose(1, 2).unflatten(2, (height, width))

    def _fuse(self, n_1: Tensor, n_2: Tensor, n_3: Tensor) -> Tensor:
        """Return the fused features (B, C, h_1, w_1)."""
        size_hw = n_1.shape[2:]  # ours: the coarser levels are enlarged to the finest
        n_2, n_3 = (
            F.interpolate(n, size=size_hw, mode="bilinear", align_corners=False) for n in (n_2, n_3)
        )
        r_31 = self.pair_fc[0](torch.cat([n_3, n_1], dim=1))  # (10)
        r_32 = self.pair_fc[1](torch.cat([n_3, n_2], dim=1))  # (11)
        r_12 = self.pair_fc[2](torch.cat([n_1, n_2], dim=1))  # (12)
        r_f = self.triple_fc(torch.cat([n_1, n_2, n_3], dim=1))  # (13)
        return r_31 + r_32 + r_12 + r_f  # ours: the aggregation is a sum


def binary_cross_entropy(logits_BKhw: Tensor, labels_BSS: Tensor) -> TotalLoss:
    """Return the binary cross-entropy of equation (14), summed over pixels and classes.

    Args:
        logits_BKhw: of classes; one without phrases has `ABSENT_LOGIT` everywhere: not counted.
        labels_BSS: int64; pixels below 0 do not count.
    """
    is_class_K = logits_BKhw.detach().amax(dim=(0, 2, 3)) > ABSENT_LOGIT
    classes_K = torch.arange(logits_BKhw.shape[1], device=logits_BKhw.device)[is_class_K]
    logits_BKSS = F.interpolate(
        logits_BKhw[:, is_class_K], size=labels_BSS.shape[1:], mode="bilinear", align_corners=False
    )
    target_BKSS = (labels_BSS[:, None] == classes_K.view(1, -1, 1, 1)).to(logits_BKSS.dtype)
    loss_BKSS = F.binary_cross_entropy_with_logits(logits_BKSS, target_BKSS, reduction="none")
    counts_BSS = labels_BSS >= 0
    total = (loss_BKSS * counts_BSS[:, None]).sum()
    return TotalLoss(total, counts_BSS.sum() * len(classes_K))


class TextFusionTask(RandomViews):
    """The training; see `StudentTask`. Unlabelled pixels always take the teacher's labels."""

    def __init__(self, options: Options) -> None:
        scale, distort = options.scale, options.distort
        super().__init__(ViewSteps(options.size_px, options.max_side_px, scale, distort=distort))
        # The decay of the rate is ours, as the paper says nothing of it.
        self.optimisation = Optimisation(
            "adamw", options.steps, options.learning_rate, options.weight_decay
        )

    def loss(
        self,
        logits_BKhw: Tensor,
        labels_BSS: Tensor,
        teacher_BSS: Tensor,
        step: int,
        known_K: Tensor | None = None,
    ) -> TotalLoss:
        """Return equation (14) of the pixels that count, unlabelled ones filled."""
        targets_BSS = torch.where(labels_BSS == UNLABELLED, teacher_BSS, labels_BSS)
        return binary_cross_entropy(logits_BKhw, targets_BSS)


def build_network(options: Options, text: TextShape, pretrained: str) -> TextFusionNetwork:
    """Return the network with random first weights, those of its backbone apart.

    Raises:
        ConfigError: an architecture without maps of the strides that are needed.
        WeightsError: a file that does not fit it.
    """
    with torch.device("meta"):  # without memory, to learn which maps there are
        strides_px = Pyramid(options.backbone).strides
    wanted_px = [options.finest_px * 2**level for level in range(NUM_LEVELS)]
    missing = [px for px in wanted_px if px not in strides_px]
    if missing:
        raise ConfigError(
            f"student.options.backbone: {options.backbone} has maps of "
            f"{', '.join(map(str, strides_px))} pixels a cell, expected {missing[0]} as well"
        )
    levels = tuple(strides_px.index(px) for px in wanted_px)
    levels = levels if options.hierarchy else levels[-1:]
    backbone = Pyramid(options.backbone, pretrained, levels)
    for name in _unused_weights(options.backbone, levels):
        backbone.get_parameter(name).requires_grad_(False)
    return TextFusionNetwork(backbone, backbone.channels, backbone.strides[0], text, options)


def _unused_weights(architecture: str, levels: tuple[int, ...]) -> set[str]:
    """Return the weights that come after the last map; timm does not always cut them off.

    They are not trained: workers could not agree on a gradient that none of them has.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
        outline = Pyramid(architecture, levels=levels).eval()
        total = torch.stack([one.sum() for one in outline(torch.zeros(_PROBE))]).sum()
        names, weights = zip(*outline.named_parameters(), strict=True)
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
    return {name for name, one in zip(names, gradients, strict=True) if one is None}


def build_task(options: Options, seed: int) -> TextFusionTask:
    """Return the training; it has no random numbers of its own."""
    return TextFusionTask(options)
