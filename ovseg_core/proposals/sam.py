"""Proposals of SAM or SAM 2: masks for a grid of points (Kirillov et al., ICCV 2023, section D).

As the authors' automatic mask generator without crops: three masks for each point; of them those
that the network thinks good and that do not depend on the threshold; of masks with nearly the same
box the best. All of it is done on the device at the masks' own resolution, for several images and
points at once, and only the masks that stay are enlarged later.

Shapes: B images, P points at once, N masks, M side of the network's masks, h w the part of them
that shows the image.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from ovseg_core.backbones.file_formats.needed_files import NeededWeights
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.sam.prompted import SAM, EmbeddedImages, PromptedImages, PromptedSam
from ovseg_core.images.batch import Image
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.proposals import WHERE, Proposer
from ovseg_core.proposals.shared.overlaps import best_by_box, mask_boxes
from ovseg_core.proposals.shared.tiles import TiledProposer
from ovseg_core.segmenter import PluginOptions
from schemas.config import EMBEDDED, WeightsName
from schemas.records import Share

PUBLISHED = f"hf-hub:{SAM.example}"
"""SAM 2.1 tiny."""
PROMPTABLE = True
_PROMPTS_AT_ONCE = {"cpu": 64, "cuda": 1024}


class Thresholds(NamedTuple):
    """Least predicted IoU and least stability of a mask."""

    iou: float
    stability: float


PUBLISHED_THRESHOLDS = Thresholds(0.8, 0.92)
"""Those of SAM 2's automatic mask generator."""
EMBEDDED_THRESHOLDS = Thresholds(0.3, 0.5)
"""Chosen on drawn scenes of the split `development`."""


class Options(PluginOptions):
    """Options of the proposer `sam`; the defaults are the authors'."""

    weights: WeightsName = ""
    """A SAM or SAM 2 of transformers: `hf-hub:ORG/REPO`, `local-dir:FOLDER` or `embedded`; empty:
    the embedded one in a job with embedded models, else SAM 2.1 tiny."""
    points_per_side: Annotated[PositiveInt, Field(le=128)] | None = None
    """The grid has so many points a side; small objects need more. Null: the published 32, or
    fewer for a network whose input has less than 320 pixels a side: one every 10 pixels."""
    min_predicted_iou: Share | None = None
    """Masks of which the network predicts a lower IoU are dropped; null: the published 0.8, or 0.3
    for the embedded network, which is small and unsure."""
    min_stability: Share | None = None
    """Masks are dropped that change more than so when the threshold moves by `stability_offset`:
    the IoU of the mask above and below it; null: the published 0.92, or 0.5 for the embedded."""
    stability_offset: PositiveFloat = 1.0
    """In logits."""
    max_box_iou: Share = 0.7
    """Of two masks whose boxes have a larger IoU the one of the lower predicted IoU is dropped."""
    max_proposals: PositiveInt = 300
    """Of more masks those with the highest predicted IoU stay."""
    tile_px: Annotated[int, Field(ge=64)] | None = None
    """Larger images are looked at as a whole and in overlapping tiles of this side, for objects
    that are too small in the whole; an object that a tile's border cuts stays one. Of a tile
    four times its share of `max_proposals` are looked at, at least 16. Null: only as a whole."""

    def needed_weights(self, backbones: Backbones, where: str) -> Iterator[NeededWeights]:
        """Yield the network."""
        yield NeededWeights(f"{where}.options.weights", self.network(backbones))

    def network(self, backbones: Backbones) -> str:
        """Return the name of the network."""
        return self.weights or backbones.embedded_or(PUBLISHED)


class SamProposer:
    """The proposer; see the module.

    Args:
        sam: the network.
        options: the proposer's.
        thresholds: where the options have none.
    """

    def __init__(self, sam: PromptedSam, options: Options, thresholds: "Thresholds") -> None:
        self._sam = sam
        self._options = options
        given = options.min_predicted_iou, options.min_stability
        pairs = zip(given, thresholds, strict=True)
        self._thresholds = Thresholds(*(usual if own is None else own for own, usual in pairs))
        self.decode_side_px = sam.input_px

    @torch.inference_mode()
    def proposals(self, images: Sequence[Image]) -> tuple[Proposals, ...]:
        """Return the proposals of each image, by falling predicted IoU."""
        return self.prompted_proposals(images)[0]

    @torch.inference_mode()
    def prompted_proposals(
        self, images: Sequence[Image]
    ) -> tuple[tuple[Proposals, ...], PromptedImages]:
        """Return the proposals, and the encoded images, which can be asked for more masks."""
        embedded = self._sam.embed(images)
        found = tuple(self._best(*one) for one in self._masks(embedded))
        return found, PromptedImages(self._sam, embedded)

    def _masks(self, images: EmbeddedImages) -> list[tuple[Tensor, Tensor]]:
        """Return the masks (N, h, w) of each image that are good enough, and their scores."""
        device = self._sam.device
        num_per_side = self._options.points_per_side or min(32, max(self._sam.input_px // 10, 1))
        grid_P2 = point_grid(num_per_side).to(device)
        sizes_B2 = torch.tensor([size[::-1] for size in images.sizes_hw], device=device)
        at_once = max(1, _PROMPTS_AT_ONCE.get(device.type, 64) // len(images))
        kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(len(images))]
        for points_P2 in grid_P2.split(at_once):
            points_BPn2 = (points_P2[None] * sizes_B2[:, None])[:, :, None]
            logits, ious = self._sam.masks(images, points_BPn2, multimask=True)
            for index, input_hw in enumerate(images.inputs_hw):
                kept[index].append(self._good(logits[index], ious[index], input_hw))
        return [(torch.cat(masks), torch.cat(scores)) for masks, scores in map(_unzip, kept)]

    def _good(self, logits: Tensor, ious: Tensor, input_hw: SizeHW) -> tuple[Tensor, Tensor]:
        """Return those of the masks (P, R, M, M) that pass the two thresholds."""
        logits_NMM, ious_N = logits.flatten(0, 1), ious.flatten()
        likely = ious_N > self._thresholds.iou
        masks_Nhw, ious_N = self._sam.of_image(logits_NMM[likely], input_hw), ious_N[likely]
        stable = stability(masks_Nhw, self._options.stability_offset) > self._thresholds.stability
        return masks_Nhw[stable].half(), ious_N[stable]

    def _best(self, masks_Nhw: Tensor, ious_N: Tensor) -> Proposals:
        kept = best_by_box(mask_boxes(masks_Nhw > 0), ious_N, self._options.max_box_iou)
        kept = kept[: self._options.max_proposals]
        return Proposals(masks_Nhw[kept], ious_N[kept].clamp(0, 1))


def build(options: Options, backbones: Backbones) -> Proposer:
    """Load the network.

    Raises:
        ConfigError: transformers is missing, or another major version.
        WeightsError: weights that cannot be found, fetched or used.
    """
    name = options.network(backbones)
    thresholds = EMBEDDED_THRESHOLDS if name == EMBEDDED else PUBLISHED_THRESHOLDS
    sam = backbones.prompted_sam(name, f"{WHERE}.options.weights")
    proposer = SamProposer(sam, options, thresholds)
    if options.tile_px is None:
        return proposer
    return TiledProposer(proposer, options.tile_px, options.max_proposals, options.max_box_iou)


def point_grid(num_per_side: int) -> Tensor:
    """Return x and y (P, 2) of the centres of a grid's cells, as shares of the image, by row."""
    place = (torch.arange(num_per_side) + 0.5) / num_per_side
    y, x = torch.meshgrid(place, place, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def stability(masks_Nhw: Tensor, offset: float) -> Tensor:
    """Return the IoU (N) of each mask above `offset` and above `-offset`; 0 of an empty one."""
    inner = (masks_Nhw > offset).flatten(1).sum(1)
    outer = (masks_Nhw > -offset).flatten(1).sum(1)
    return inner / outer.clamp(min=1)


def _unzip(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [masks for masks, _ in pairs], [scores for _, scores in pairs]
