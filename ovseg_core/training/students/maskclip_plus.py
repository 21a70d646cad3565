"""MaskCLIP+ (Zhou et al., ECCV 2022): a student learns MaskCLIP's labels, then its own.

The logits of a cell are the products of its feature with the text rows of the labels, which are
never trained: f . T_q, T unit, f not normalised (docs/methods.md 4.3). So a student can be asked
for words that it never learned. In the paper the labels come from MaskCLIP; here from any method.

Shapes: B images, K classes, Q phrases, D text width, S side of a training view, h w cells, C_i
channels of a map of the backbone.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ovseg_core.segmenter import MethodCard
from ovseg_core.training.students import (
    IGNORED,
    UNLABELLED,
    Optimisation,
    StudentOptions,
    TextShape,
    TotalLoss,
)
from ovseg_core.training.students.shared.pyramid import TIMMS_OWN, Pyramid, PyramidOptions
from ovseg_core.training.students.shared.views import RandomViews, ViewSteps
from schemas.config import ClipConfig, WeightsName

CARD = MethodCard(
    title="MaskCLIP+",
    paper="Extract Free Dense Labels from CLIP",
    arxiv="2112.01071",
    parts="dilated ResNet, summed dilated convolutions, text rows as classifier; self-training",
    clip=ClipConfig(model="ViT-B-16-quickgelu", pretrained="openai"),
    weights="ImageNet ResNet-101; teachers: CLIP ResNet-50x16 (VOC20), ViT-B/16 (the others)",
    licence="that of the teacher's weights",
    published={"VOC20": 67.5, "Context59": 31.1, "Stuff": 18.0},
)

_ASPP_DILATIONS = 6, 12, 18, 24


class Options(StudentOptions, PyramidOptions):
    """Options of the student `maskclip_plus`; the schedule's defaults are those of VOC's paper."""

    steps: PositiveInt = 2000
    """Training steps."""
    batch: PositiveInt = 16
    """Images per step, over all workers."""
    size_px: PositiveInt = 512
    """Side of a training view."""
    backbone: Annotated[str, Field(max_length=100)] = "convnext_nano"
    """timm architecture that gives a pyramid of feature maps. The paper's is `resnet101`."""
    backbone_weights: WeightsName = TIMMS_OWN
    """Weights that the training starts from: `timm`: those of timm, trained on ImageNet; `random`;
    or a file (path or URL). A trained student does not need them."""
    head: Literal["pyramid", "aspp"] = "pyramid"
    """`pyramid`: all maps of the backbone, summed from coarse to fine (ours, faster). `aspp`: the
    paper's: four dilated convolutions on the last map at stride 8, summed."""
    channels: PositiveInt = 128
    """Width of the pyramid's maps; without effect on `aspp`."""
    loss_px: PositiveInt = 1
    """The loss is taken at every so many pixels in both directions; 1: at all, as published."""
    learning_rate: PositiveFloat = 0.01
    """Learning rate of the first step; it falls with the power 0.9 of the steps left."""
    min_learning_rate: Annotated[float, Field(ge=0)] = 1e-4
    """Learning rate of the last step."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """`sgd` with momentum 0.9, as published, or `adamw`."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Of the optimiser."""
    self_training_from: Annotated[float, Field(ge=0, le=1)] = 1.0
    """From this share of the steps on pixels that nobody has labelled are learned from the
    student's own predictions, no longer from the teacher's. Published: 0.1 where some classes are
    labelled, 1 (never) where none is."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Range of the random factor by which an image is resized."""
    distort: bool = True
    """Change brightness, contrast, saturation and hue of the views at random."""

    @property
    def trains_itself(self) -> bool:
        """Whether it learns its own predictions at some step."""
        return self.self_training_from < 1


class MaskClipPlusNetwork(nn.Module):
    """Backbone, head and text rows; see `StudentNetwork`."""

    is_open = True

    def __init__(self, options: Options, text_width: int, pretrained: str) -> None:
        super().__init__()
        self.text_width = text_width
        if options.head == "aspp":
            self.backbone = Pyramid(options.backbone, pretrained, (-1,), output_stride=8)
            self.head: nn.Module = Aspp(self.backbone.channels[-1], text_width)
            self.stride_px = self.backbone.strides[-1]
        else:
            self.backbone = Pyramid(options.backbone, pretrained)
            # A map finer than 4 px costs most of the time and knows little.
            self._first = next(i for i, px in enumerate(self.backbone.strides) if px >= 4)
            channels = self.backbone.channels[self._first :]
            self.head = PyramidHead(channels, options.channels, text_width)
            self.stride_px = self.backbone.strides[self._first]
        self._takes_all = options.head == "pyramid"

    def encode(self, pixels_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Return one map of features (B, D, h, w)."""
        maps = self.backbone(pixels_B3HW)
        return (self.head(maps[self._first :] if self._takes_all else maps),)

    def classify(self, features: tuple[Tensor, ...], rows_QD: Tensor) -> Tensor:
        """Return f . T_q (B, Q, h, w)."""
        return torch.einsum("bdhw,qd->bqhw", features[0], rows_QD)

    def forward(self, pixels_B3HW: Tensor, rows_QD: Tensor) -> Tensor:
        """Return the logits (B, Q, h, w) of pixel values 0..255."""
        return self.classify(self.encode(pixels_B3HW), rows_QD)


class Aspp(nn.Module):
    """The paper's head: four 3x3 convolutions of different dilation, batch norm, ReLU, summed."""

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, text_width, 3, padding=rate, dilation=rate, bias=False),
                nn.BatchNorm2d(text_width),
                nn.ReLU(inplace=True),
            )
            for rate in _ASPP_DILATIONS
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return features (B, D, h, w) of the last map."""
        return torch.stack([branch(maps[-1]) for branch in self.branches]).sum(dim=0)


class PyramidHead(nn.Module):
    """All maps of the backbone, from the coarsest to the finest (feature pyramid; ours).

    Every map gets `channels` by a 1x1 convolution; the coarser sum is enlarged and added. Group
    norm, so that the result does not depend on how a batch is spread over workers.
    """

    def __init__(self, channels: list[int], width: int, text_width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.smooth = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.Conv2d(width, 2 * width, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, text_width, 1),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return features (B, D, h, w) at the size of the first map."""
        total = self.lateral[-1](maps[-1])
        for lateral, finer in zip(
            reversed(list(self.lateral)[:-1]), reversed(maps[:-1]), strict=True
        ):
            size = finer.shape[2:]
            enlarged = F.interpolate(total, size=size, mode="bilinear", align_corners=False)
            total = lateral(finer) + enlarged
        return self.smooth(total)


class MaskClipPlusTask(RandomViews):
    """The training; see `StudentTask`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        scale, distort = options.scale, options.distort
        super().__init__(ViewSteps(options.size_px, options.max_side_px, scale, distort=distort))
        self.optimisation = Optimisation(
            options.optimiser,
            options.steps,
            options.learning_rate,
            options.weight_decay,
            min_learning_rate=options.min_learning_rate,
        )

    def loss(
        self,
        logits_BKhw: Tensor,
        labels_BSS: Tensor,
        teacher_BSS: Tensor,
        step: int,
        known_K: Tensor | None = None,
    ) -> TotalLoss:
        """Return the cross-entropy of the pixels that count, unlabelled ones filled."""
        grid = self._options.loss_px
        middle = grid // 2
        labels_BSS = labels_BSS[:, middle::grid, middle::grid]
        teacher_BSS = teacher_BSS[:, middle::grid, middle::grid]
        size = labels_BSS.shape[1:]
        logits = F.interpolate(logits_BKhw, size=size, mode="bilinear", align_corners=False)
        fill_BSS = teacher_BSS
        if step >= self._options.self_training_from * self._options.steps:
            own = logits.detach()
            if known_K is not None and not bool(known_K.all()):
                # An unlabelled pixel is of no class that people have labelled everywhere.
                own = own.masked_fill(known_K.view(1, -1, 1, 1), -torch.inf)
            fill_BSS = torch.where(teacher_BSS == IGNORED, teacher_BSS, own.argmax(dim=1))
        targets_BSS = torch.where(labels_BSS == UNLABELLED, fill_BSS, labels_BSS)
        total = F.cross_entropy(logits, targets_BSS, ignore_index=IGNORED, reduction="sum")
        return TotalLoss(total, (targets_BSS != IGNORED).sum())


def build_network(options: Options, text: TextShape, pretrained: str) -> MaskClipPlusNetwork:
    """Return the network with random first weights, those of its backbone apart.

    Raises:
        ConfigError: an architecture that gives no pyramid.
        WeightsError: a file that does not fit it.
    """
    return MaskClipPlusNetwork(options, text.width, pretrained)


def build_task(options: Options, seed: int) -> MaskClipPlusTask:
    """Return the training; it has no random numbers of its own."""
    return MaskClipPlusTask(options)
