"""SAM and SAM 2 as they are prompted: points, boxes or coarse masks -> masks.

The networks are those of transformers, unmodified; an image is encoded once, whatever it is asked
for. What is returned is float32 and on the network's device.

Shapes: B images, P prompts of each, n points of a prompt, R masks for a prompt (3, or 1), S side of
the network's input, M side of its masks (S / 4), H W pixels of an image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.compute import Compute
from ovseg_core.backbones.file_formats.transformers_folder import (
    HubWeights,
    LoadedNetwork,
    NetworkFamily,
)
from ovseg_core.embedded import SAM_FOLDER
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.images.resize.published_sizes import resize_linear

SAM = NetworkFamily(
    title="SAM or SAM 2",
    example="facebook/sam2.1-hiera-tiny",
    classes={
        "sam": ("SamModel", "SamImageProcessor"),
        "sam2": ("Sam2Model", "Sam2ImageProcessor"),
        "sam2_video": ("Sam2Model", "Sam2ImageProcessor"),
    },
    embedded=SAM_FOLDER,
    weights=HubWeights(156_000_000, "Apache-2.0"),
)


@dataclass(frozen=True)
class EmbeddedImages:
    """A batch of encoded images.

    Attributes:
        maps: what the mask decoder reads, (B, C, h, w) each; SAM 2 has finer ones before the last.
        sizes_hw: of each image.
        inputs_hw: the part of the network's square that shows each image, from its upper left.
    """

    maps: tuple[Tensor, ...]
    sizes_hw: tuple[SizeHW, ...]
    inputs_hw: tuple[SizeHW, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sizes_hw)

    def image(self, index: int) -> "EmbeddedImages":
        """Return one image of the batch, as a batch of one."""
        part = slice(index, index + 1)
        maps = tuple(one[part] for one in self.maps)
        return EmbeddedImages(maps, self.sizes_hw[part], self.inputs_hw[part])


class PromptedSam:
    """A frozen SAM.

    Args:
        loaded: the network.
        compute: where and how it runs.

    Attributes:
        input_px: S.
        mask_px: M.
    """

    def __init__(self, loaded: LoadedNetwork, compute: Compute) -> None:
        self._model: Any = loaded.model
        self._processor: Any = loaded.processor
        self._compute = compute
        self.device = compute.device
        self._is_padded = loaded.processor.size.longest_edge is not None
        prompts = self._model.config.prompt_encoder_config
        self.input_px: int = prompts.image_size
        self.mask_px: int = 4 * self.input_px // prompts.patch_size

    def embed(self, images: Sequence[Image]) -> EmbeddedImages:
        """Encode images (3, H, W), uint8, of any sizes."""
        wide_enough = [self._wide_enough(image) for image in images]
        read = self._processor(images=wide_enough, return_tensors="pt")
        with self._compute.forward():
            maps = self._model.get_image_embeddings(read["pixel_values"].to(self.device))
        found = maps if isinstance(maps, list | tuple) else (maps,)
        sizes = tuple((image.shape[1], image.shape[2]) for image in images)
        square = (self.input_px, self.input_px)
        inputs = tuple(self._resized(size) if self._is_padded else square for size in sizes)
        return EmbeddedImages(tuple(one.float() for one in found), sizes, inputs)

    def masks(
        self,
        images: EmbeddedImages,
        points_BPn2: Tensor | None = None,
        boxes_BP4: Tensor | None = None,
        coarse_BMM: Tensor | None = None,
        *,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the masks of prompts.

        Args:
            images: the batch.
            points_BPn2: x and y of points that are inside, in pixels of their image.
            boxes_BP4: left, top, right, bottom, in pixels of their image.
            coarse_BMM: logits of a mask on the network's square, with one prompt an image.
            multimask: three masks for each prompt, for one that may mean several things; else one.

        Returns:
            Logits (B, P, R, M, M) on the network's square, see `of_image`; the IoU that the network
            predicts for each (B, P, R).
        """
        prompts: dict[str, Any] = {}
        if points_BPn2 is not None:
            points = points_BPn2 * self._scales(images)[:, None, None]
            prompts["input_points"] = points
            prompts["input_labels"] = torch.ones(
                points.shape[:3], dtype=torch.int64, device=self.device
            )
        if boxes_BP4 is not None:
            prompts["input_boxes"] = boxes_BP4 * self._scales(images).repeat(1, 2)[:, None]
        if coarse_BMM is not None:
            prompts["input_masks"] = coarse_BMM[:, None]
        *finer, last = images.maps
        maps = [*finer, last] if finer else last
        with self._compute.forward():
            found = self._model(image_embeddings=maps, multimask_output=multimask, **prompts)
        return found.pred_masks.float(), found.iou_scores.float()

    def mask_hw(self, input_hw: SizeHW) -> SizeHW:
        """Return the size of the part of masks that shows an image."""
        rows, columns = (max(1, round(side * self.mask_px / self.input_px)) for side in input_hw)
        return rows, columns

    def of_image(self, logits_NMM: Tensor, input_hw: SizeHW) -> Tensor:
        """Return the part of masks that shows the image (N, h, w), without the padding."""
        rows, columns = (side * self.mask_px / self.input_px for side in input_hw)
        size = self.mask_hw(input_hw)
        if (rows, columns) == size:
            return logits_NMM[:, : size[0], : size[1]]
        ys, xs = (
            (torch.arange(num, device=logits_NMM.device) + 0.5) / num * share / self.mask_px * 2 - 1
            for num, share in zip(size, (rows, columns), strict=True)
        )
        grid = torch.stack([xs[None].expand(size), ys[:, None].expand(size)], dim=-1)[None]
        return F.grid_sample(
            logits_NMM[None], grid, mode="bilinear", padding_mode="border", align_corners=False
        )[0]

    def _resized(self, size_hw: SizeHW) -> SizeHW:
        """Return the size to which the processor reduces an image (its `_get_preprocess_shape`)."""
        scale = self.input_px / max(size_hw)
        return max(int(size_hw[0] * scale + 0.5), 1), max(int(size_hw[1] * scale + 0.5), 1)

    def _wide_enough(self, image: Image) -> Image:
        """Return an image of whose shorter side the processor leaves a pixel."""
        height, width = image.shape[1:]
        least = math.ceil(max(height, width) / (2 * self.input_px)) if self._is_padded else 1
        return resize_linear(image, (max(height, least), max(width, least)))

    def _scales(self, images: EmbeddedImages) -> Tensor:
        """Return the factors of x and y (B, 2) from pixels of each image to those of the square."""
        pairs = zip(images.sizes_hw, images.inputs_hw, strict=True)
        factors = [(new[1] / old[1], new[0] / old[0]) for old, new in pairs]
        return torch.tensor(factors, device=self.device)


@dataclass(frozen=True)
class PromptedImages:
    """Encoded images with the network that answers; see `decision.refine.promptable`.

    Attributes:
        sam: the network.
        images: the batch.
    """

    sam: PromptedSam
    images: EmbeddedImages

    def image(self, index: int) -> "PromptedImages":
        """Return one image of the batch, as a batch of one."""
        return PromptedImages(self.sam, self.images.image(index))

    def mask_hw(self, index: int) -> SizeHW:
        """Return the size of the masks of an image, of about its aspect."""
        return self.sam.mask_hw(self.images.inputs_hw[index])

    def refine(
        self, index: int, boxes_P4: Tensor, points_P2: Tensor, coarse_Phw: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return one mask (P, h, w) for each prompt, and its predicted IoU (P)."""
        num, (height, width) = coarse_Phw.shape[0], coarse_Phw.shape[1:]
        one = self.images.image(index)
        # One coarse mask goes with one image: the image is repeated, not copied.
        repeated = EmbeddedImages(
            tuple(maps.expand(num, *maps.shape[1:]) for maps in one.maps),
            one.sizes_hw * num,
            one.inputs_hw * num,
        )
        scale_2 = boxes_P4.new_tensor(one.sizes_hw[0][::-1])
        padding = (0, self.sam.mask_px - width, 0, self.sam.mask_px - height)
        coarse_PMM = F.pad(coarse_Phw, padding, value=float(coarse_Phw.min()))
        logits, ious = self.sam.masks(
            repeated,
            (points_P2 * scale_2)[:, None, None],
            (boxes_P4 * scale_2.repeat(2))[:, None],
            coarse_PMM,
            multimask=False,
        )
        masks_Phw = self.sam.of_image(logits[:, 0, 0], one.inputs_hw[0])
        return masks_Phw, ious[:, 0, 0].clamp(0, 1)
