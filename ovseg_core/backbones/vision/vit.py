"""A timm vision transformer, unmodified: the last block's queries, keys, values, and final tokens.

Reads DINO v1, DINOv2 (with registers or without) and MAE, each with its own interpolation of
position embeddings (docs/methods.md 0.3, 1.7). What is returned is float32 and on the network's
device, whatever precision the blocks were computed in (`compute.py`).

Shapes: B images, L tokens (prefix first), N patches = h * w, P prefix tokens (class, registers), C
width, H heads in BHLd (elsewhere pixels: H W), d head width, h w patches, I J cells of any grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ovseg_core.backbones.compute import Compute, call
from ovseg_core.backbones.vision.load_vit import LoadedVit
from ovseg_core.images.resize.position_embedding import PositionInterpolation, PositionTable
from ovseg_core.images.resize.published_sizes import pad_br

FeatureKind = Literal["q", "k", "v", "tokens"]

_TOKENS_PER_FORWARD = {"cpu": 1 << 10, "cuda": 1 << 17}
"""Tokens of a forward pass; more do not fit into a CPU's cache."""


class DenseBackbone(Protocol):
    """A frozen network that gives feature maps; normalises, resizes and pads by itself."""

    @property
    def multiple_px(self) -> int:
        """Input sides that are multiples of this are covered by whole cells; 1: any side is."""
        ...

    @property
    def feature_kinds(self) -> tuple[FeatureKind, ...]:
        """The kinds of features that `features` can return."""
        ...

    def features(self, pixels_B3HW: Tensor, kind: FeatureKind) -> Tensor:
        """Return feature maps (B, C, I, J) of images of one size, not normalised.

        Args:
            pixels_B3HW: pixel values 0..255 on the network's device. Any number of images: they
                are processed in batches of bounded memory.
            kind: `tokens`: the final features; `q`, `k`, `v`: those of the last block.
        """
        ...


def in_batches(
    pixels_B3HW: Tensor, tokens_per_image: int, compute: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply `compute` to all images, in batches that fit the device's memory."""
    device = pixels_B3HW.device.type
    limit = _TOKENS_PER_FORWARD.get(device, _TOKENS_PER_FORWARD["cpu"])
    size = max(limit // tokens_per_image, 1)
    return torch.cat([compute(batch) for batch in pixels_B3HW.split(size)])


@dataclass(frozen=True)
class VitFeatures:
    """The network before its last block.

    Attributes:
        tokens_BLC: input of the last block.
        qkv_3BLC: queries, keys and values of the last block, heads side by side, before any norm.
        grid_hw: rows and columns of patches.
    """

    tokens_BLC: Tensor
    qkv_3BLC: Tensor
    grid_hw: tuple[int, int]


class TimmViT:
    """A frozen self-supervised vision transformer.

    Args:
        loaded: the timm model on `device`, with its normalisation.
        device: where it runs.
        interpolation: how position embeddings are interpolated to other grids; None: as the
            model's family does.
    """

    feature_kinds: tuple[FeatureKind, ...] = ("tokens", "q", "k", "v")

    def __init__(
        self,
        loaded: LoadedVit,
        compute: Compute,
        interpolation: PositionInterpolation | None = None,
    ) -> None:
        self.model: Any = loaded.model  # a module's attributes are dynamic
        self._compute = compute
        self._run_block = compute.compiled(call)
        self.device = device = compute.device
        self.interpolation = interpolation or _family_interpolation(self.model, loaded.tag)
        self._mean_311 = torch.tensor(loaded.mean, device=device).view(3, 1, 1)
        self._std_311 = torch.tensor(loaded.std, device=device).view(3, 1, 1)
        self.patch_px: int = self.model.patch_embed.patch_size[0]
        self.multiple_px = self.patch_px
        self.dim: int = self.model.embed_dim
        self.num_heads: int = self.model.blocks[-1].attn.num_heads
        self._num_prefix: int = self.model.num_prefix_tokens
        self._prefix_has_position = not self.model.no_embed_class
        self._positions = PositionTable(
            self.model.pos_embed.detach()[0],
            self.model.patch_embed.grid_size,
            self._num_prefix if self._prefix_has_position else 0,
        )

    def features(self, pixels_B3HW: Tensor, kind: FeatureKind) -> Tensor:
        """Return feature maps (B, C, h, w) of images of one size; see `DenseBackbone`."""
        rows, columns = (-(-side // self.patch_px) for side in pixels_B3HW.shape[-2:])

        def compute(batch_B3HW: Tensor) -> Tensor:
            return self.features_of(self.forward_trunk(batch_B3HW), kind)

        return in_batches(pixels_B3HW, rows * columns, compute)

    def forward_trunk(self, pixels_B3HW: Tensor) -> VitFeatures:
        """Run the network up to its last block on images of any size.

        Args:
            pixels_B3HW: pixel values 0..255. Normalised by the network's own constants, then padded
                with zeros (the mean colour) at the right and the bottom to whole patches.
        """
        normal = (pixels_B3HW.float() / 255 - self._mean_311) / self._std_311
        with self._compute.forward():
            return self._forward_trunk(pad_br(normal, self.patch_px))

    def _forward_trunk(self, input_B3HW: Tensor) -> VitFeatures:
        patches_BChw = self.model.patch_embed.proj(input_B3HW)
        grid_hw = (patches_BChw.shape[-2], patches_BChw.shape[-1])
        x = self._embed(patches_BChw.flatten(2).transpose(1, 2), grid_hw)
        x = self.model.norm_pre(x)
        for block in self.model.blocks[:-1]:
            x = self._run_block(block, x)
        last = self.model.blocks[-1]
        qkv_BL3C = last.attn.qkv(last.norm1(x)).float().unflatten(-1, (3, -1))
        return VitFeatures(x, qkv_BL3C.permute(2, 0, 1, 3), grid_hw)

    def features_of(self, trunk: VitFeatures, kind: FeatureKind) -> Tensor:
        """Return one kind of features (B, C, h, w), not normalised.

        Args:
            trunk: the result of `forward_trunk`.
            kind: queries, keys or values of the last block (heads side by side), or the final
                tokens after the network's norm.
        """
        if kind == "tokens":
            last = self._compute.run(self._run_block, self.model.blocks[-1], trunk.tokens_BLC)
            tokens_BLC = self.model.norm(last)
        else:
            tokens_BLC = trunk.qkv_3BLC["qkv".index(kind)]
        return tokens_BLC[:, self._num_prefix :].transpose(1, 2).unflatten(2, trunk.grid_hw)

    def class_attention(self, trunk: VitFeatures) -> Tensor:
        """Return the last block's attention of the class token to the patches (B, H, N).

        The softmax is over all tokens, so rows sum to less than one.
        """
        attention = self.model.blocks[-1].attn
        q_BHLd, k_BHLd = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in trunk.qkv_3BLC[:2]
        )
        class_BH1d = attention.q_norm(q_BHLd[:, :, :1])
        logits_BHL = (class_BH1d @ attention.k_norm(k_BHLd).transpose(-2, -1))[:, :, 0]
        return (logits_BHL * attention.scale).softmax(-1)[..., self._num_prefix :]

    def _embed(self, patches_BNC: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        positions_LC = self._positions.at(self.interpolation, grid_hw)
        prefix = [self.model.cls_token, self.model.reg_token]
        prefix_BPC = [
            token.expand(len(patches_BNC), -1, -1) for token in prefix if token is not None
        ]
        if self._prefix_has_position:
            return torch.cat([*prefix_BPC, patches_BNC], dim=1) + positions_LC
        return torch.cat([*prefix_BPC, patches_BNC + positions_LC], dim=1)


def _family_interpolation(model: Any, tag: str) -> PositionInterpolation:
    if model.num_reg_tokens:
        return "antialias"
    return "size" if tag.startswith("mae") else "scale01"
