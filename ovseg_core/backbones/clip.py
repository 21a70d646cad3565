"""CLIP by open_clip, unmodified: pooled embeddings, text, and the trunk up to the last block.

Nothing is patched and no hook is registered; the dense methods read the last block's weights
themselves (`last_block`). Shapes: B images, L tokens (class token first), C trunk width, D joint
width, H W pixels, h w patches, R the side of the square network input.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ovseg_core.backbones.load_clip import LoadedClip
from ovseg_core.backbones.position_embedding import PositionInterpolation, PositionTable
from ovseg_core.resize.published_sizes import pad_br
from schemas.errors import WeightsError

_PROMPTS_PER_FORWARD = 256
_IMAGES_PER_FORWARD = {"cpu": 128, "cuda": 512}
"""What one pass takes by default: stays near a CPU's cache, and fills a GPU."""


@dataclass(frozen=True)
class TrunkFeatures:
    """The image tower before its last block.

    Attributes:
        tokens_BLC: output of the last block but one.
        grid_hw: patches by (rows, columns); L = 1 + h * w.
        taps: by block index, the output of that block's `ln_2` (B, L, C).
        blocks: by block index, that block's output (B, L, C).
        guides: by name, further maps (B, C, I, J) of the same images on a grid of their own.
    """

    tokens_BLC: Tensor
    grid_hw: tuple[int, int]
    taps: dict[int, Tensor]
    blocks: dict[int, Tensor]
    guides: dict[str, Tensor] = field(default_factory=dict)

    def each(self, change: Callable[[Tensor], Tensor]) -> "TrunkFeatures":
        """Return the state with every tensor changed."""
        return replace(
            self,
            tokens_BLC=change(self.tokens_BLC),
            taps={key: change(value) for key, value in self.taps.items()},
            blocks={key: change(value) for key, value in self.blocks.items()},
            guides={key: change(value) for key, value in self.guides.items()},
        )

    def apart(self) -> list["TrunkFeatures"]:
        """Return the state of each image by itself (batches of one)."""
        return [
            self.each(lambda part, one=slice(i, i + 1): part[one])
            for i in range(len(self.tokens_BLC))
        ]

    @staticmethod
    def joined(states: "Sequence[TrunkFeatures]") -> "TrunkFeatures":
        """Return states of images of one size as one batch."""
        first = states[0]
        return replace(
            first,
            tokens_BLC=torch.cat([one.tokens_BLC for one in states]),
            taps={key: torch.cat([one.taps[key] for one in states]) for key in first.taps},
            blocks={key: torch.cat([one.blocks[key] for one in states]) for key in first.blocks},
            guides={key: torch.cat([one.guides[key] for one in states]) for key in first.guides},
        )


class Clip:
    """An open_clip model, read only.

    Args:
        loaded: the open_clip model on `device`, with its tokenizer and normalisation.
        device: where it runs.

    Raises:
        WeightsError: the image tower is not a plain vision transformer.
    """

    def __init__(self, loaded: LoadedClip, device: torch.device) -> None:
        """Check that the tower can be read by hand and keep it."""
        # `Any`: a module's attributes are dynamic, and these are read one by one.
        self.visual: Any = _readable_tower(loaded.model)
        self.model: Any = loaded.model
        self.tokenizer = loaded.tokenizer
        self.device = device
        self._mean_311 = torch.tensor(loaded.mean, device=device).view(3, 1, 1)
        self._std_311 = torch.tensor(loaded.std, device=device).view(3, 1, 1)
        self.patch_px: int = self.visual.patch_size[0]
        self.input_px: int = self.visual.image_size[0]
        self.dim: int = self.visual.output_dim
        self.logit_scale = float(self.model.logit_scale.detach().exp())
        self._positions = PositionTable(
            self.visual.positional_embedding.detach(), self.visual.grid_size
        )

    def with_pixels(self, mean: Sequence[float], std: Sequence[float]) -> "Clip":
        """Return the same network behind another normalisation of pixels in [0, 1]."""
        other = copy.copy(self)
        other._mean_311 = torch.tensor(mean, device=self.device).view(3, 1, 1)
        other._std_311 = torch.tensor(std, device=self.device).view(3, 1, 1)
        return other

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return grey levels 0..255 (..., 3, H, W) as the input of the network."""
        return (pixels.float() / 255 - self._mean_311) / self._std_311

    def denormalise(self, input_B3HW: Tensor) -> Tensor:
        """Return the network's input as grey levels 0..255, not rounded."""
        return (input_B3HW * self._std_311 + self._mean_311) * 255

    @property
    def black(self) -> Tensor:
        """The network's input (3,) of a black pixel."""
        return self.normalise(torch.zeros_like(self._mean_311)).flatten()

    def embed(self, pixels_B3RR: Tensor, per_forward: int = 0) -> Tensor:
        """Return the pooled embeddings (B, D) of images of the input size, not normalised.

        Args:
            pixels_B3RR: grey levels 0..255.
            per_forward: images in one pass through the tower, to bound memory; 0: what suits the
                device.
        """
        per_forward = per_forward or _IMAGES_PER_FORWARD.get(self.device.type, 128)
        parts = [self.visual(self.normalise(part)) for part in pixels_B3RR.split(per_forward)]
        return torch.cat(parts)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return the text embeddings (number of prompts, D), not normalised."""
        tokens = self.tokenizer(list(prompts)).to(self.device)
        return torch.cat(
            [self.model.encode_text(part) for part in tokens.split(_PROMPTS_PER_FORWARD)]
        )

    def trunk(
        self, pixels_B3HW: Tensor, rule: PositionInterpolation, taps: Sequence[int] = ()
    ) -> TrunkFeatures:
        """Run the image tower up to its last block, at any size.

        Args:
            pixels_B3HW: grey levels 0..255; padded with black at the right and the bottom to whole
                patches before normalisation (CLIP-DINOiser's way).
            rule: how the position table is read at this grid.
            taps: block indices (negative: from the end) whose `ln_2` output is wanted.
        """
        return self.read(self.normalise(pad_br(pixels_B3HW, self.patch_px)), rule, taps)

    def read(
        self,
        input_B3HW: Tensor,
        rule: PositionInterpolation,
        taps: Sequence[int] = (),
        keep: Sequence[int] = (),
    ) -> TrunkFeatures:
        """Run the image tower up to its last block on a network input; see `trunk`.

        Args:
            input_B3HW: normalised; what does not fill a patch at the right and the bottom is left
                out.
            rule: how the position table is read at this grid.
            taps: block indices (negative: from the end) whose `ln_2` output is wanted.
            keep: block indices (from the start, the last block not among them) whose output is.
        """
        patches_BChw = self.visual.conv1(input_B3HW)
        grid_hw = (patches_BChw.shape[-2], patches_BChw.shape[-1])
        patches_BNC = patches_BChw.flatten(2).transpose(1, 2)
        class_B1C = self.visual.class_embedding.expand(len(patches_BNC), 1, -1)
        x = torch.cat([class_B1C, patches_BNC], dim=1) + self._positions.at(rule, grid_hw)
        x = self.visual.ln_pre(x)
        blocks = self.visual.transformer.resblocks
        wanted = {index % len(blocks): index for index in taps}
        tapped: dict[int, Tensor] = {}
        kept: dict[int, Tensor] = {}
        for number, block in enumerate(blocks[:-1]):
            if number in wanted:
                x, tapped[wanted[number]] = _run_tapped(block, x)
            else:
                x = block(x)
            if number in keep:
                kept[number] = x
        return TrunkFeatures(x, grid_hw, tapped, kept)

    def pooled(self, state: TrunkFeatures) -> Tensor:
        """Return the embeddings (B, D) of images read so far, not normalised.

        The last block is run as it is; the result is what CLIP itself says of the whole image.
        """
        return self.pool(self.visual.transformer.resblocks[-1](state.tokens_BLC))

    def pool(self, tokens_BLC: Tensor) -> Tensor:
        """Return what tokens after the last block say of the whole image (B, D), not normalised.

        The class token, or the mean of the patches, as the model was trained.
        """
        last = self.visual.pool_type == "tok"
        if self.visual.final_ln_after_pool:
            raw_BC = tokens_BLC[:, 0] if last else tokens_BLC[:, 1:].mean(dim=1)
            return self.visual.ln_post(raw_BC) @ self.visual.proj
        tokens_BLD = self.project(tokens_BLC)
        return tokens_BLD[:, 0] if last else tokens_BLD[:, 1:].mean(dim=1)

    def project(self, tokens_BLC: Tensor) -> Tensor:
        """Return tokens after the last block in the joint space (B, L, D), not normalised."""
        return self.visual.ln_post(tokens_BLC) @ self.visual.proj


def _run_tapped(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x + block.ls_1(block.attention(block.ln_1(x)))
    tap = block.ln_2(x)
    return x + block.ls_2(block.mlp(tap)), tap


def _readable_tower(model: Any) -> Any:
    from open_clip.transformer import VisionTransformer

    tower = model.visual
    if not isinstance(tower, VisionTransformer):
        raise WeightsError(
            f"the CLIP image tower is a {type(tower).__name__}; ovseg reads open_clip's plain "
            "VisionTransformer only, for example ViT-B-32 or ViT-L-14 (no ResNet, ConvNeXt, SigLIP)"
        )
    if tower.attn_pool is not None or tower.pool_type == "none":
        raise WeightsError(
            "the CLIP image tower has an attention pool; ovseg needs a class token or mean"
        )
    if not hasattr(tower.transformer.resblocks[-1], "attention"):
        raise WeightsError("the CLIP image tower has custom blocks, which ovseg does not read")
    for name in ("image_size", "patch_size"):
        height, width = getattr(tower, name)
        if height != width:
            raise WeightsError(f"ovseg needs a square CLIP input, got {name} {height} x {width}")
    return tower
