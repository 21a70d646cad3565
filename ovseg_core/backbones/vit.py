"""A timm vision transformer, unmodified: the last block's queries, keys, values, and final tokens.

Reads DINO v1, DINOv2 (with registers or without) and MAE, each with its own position rule
(methods.md 0.3, 1.7). Shapes: B images, L tokens (prefix first), N patches = h * w, C width, H
heads in BHLd, d head width, h w patches, I J any grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ovseg_core.backbones.load_vit import LoadedVit
from ovseg_core.backbones.position_embedding import PositionInterpolation, PositionTable
from ovseg_core.resize.published_sizes import pad_br

Feature = Literal["q", "k", "v", "tokens"]

_TOKENS_PER_FORWARD = {"cpu": 1 << 10, "cuda": 1 << 17}
"""Tokens in one pass: more fall out of a CPU's cache."""


class DenseBackbone(Protocol):
    """A frozen network as a map of features; each owns its normalisation, resize and padding."""

    @property
    def multiple_px(self) -> int:
        """Whole cells cover an image whose sides are multiples of this; 1: they cover any image."""
        ...

    @property
    def features(self) -> tuple[Feature, ...]:
        """What `map` can return."""
        ...

    def map(self, pixels_B3HW: Tensor, feature: Feature) -> Tensor:
        """Return the features (B, C, I, J) of images of one size, not normalised.

        Args:
            pixels_B3HW: grey levels 0..255, on the network's device. Any number of images: they
                go through in parts of bounded memory.
            feature: `tokens` are the final features; `q`, `k`, `v` the last block's.
        """
        ...


def in_parts(
    pixels_B3HW: Tensor, tokens_per_image: int, read: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return `read` of all images, so many at a time as memory allows."""
    device = pixels_B3HW.device.type
    most = _TOKENS_PER_FORWARD.get(device, _TOKENS_PER_FORWARD["cpu"])
    return torch.cat([read(part) for part in pixels_B3HW.split(max(most // tokens_per_image, 1))])


@dataclass(frozen=True)
class VitFeatures:
    """The network at its last block.

    Attributes:
        tokens_BLC: input of the last block.
        qkv_3BLC: queries, keys and values of the last block, heads side by side, before any norm.
        grid_hw: patches by (rows, columns).
    """

    tokens_BLC: Tensor
    qkv_3BLC: Tensor
    grid_hw: tuple[int, int]


class TimmViT:
    """A self-supervised vision transformer, read only.

    Args:
        loaded: the timm model on `device`, with its normalisation.
        device: where it runs.
        rule: how the position table is read at other grids; None: the way of the model's family.
    """

    features: tuple[Feature, ...] = ("tokens", "q", "k", "v")

    def __init__(
        self, loaded: LoadedVit, device: torch.device, rule: PositionInterpolation | None = None
    ) -> None:
        """Keep the network."""
        self.model: Any = loaded.model  # a module's attributes are dynamic
        self.device = device
        self.rule: PositionInterpolation = rule or _family_rule(self.model, loaded.tag)
        self._mean_311 = torch.tensor(loaded.mean, device=device).view(3, 1, 1)
        self._std_311 = torch.tensor(loaded.std, device=device).view(3, 1, 1)
        self.patch_px: int = self.model.patch_embed.patch_size[0]
        self.multiple_px = self.patch_px
        self.dim: int = self.model.embed_dim
        self._num_heads: int = self.model.blocks[-1].attn.num_heads
        self._num_prefix: int = self.model.num_prefix_tokens
        self._prefix_has_position = not self.model.no_embed_class
        self._positions = PositionTable(
            self.model.pos_embed.detach()[0],
            self.model.patch_embed.grid_size,
            self._num_prefix if self._prefix_has_position else 0,
        )

    def map(self, pixels_B3HW: Tensor, feature: Feature) -> Tensor:
        """Return one feature (B, C, h, w) of images of one size; see `DenseBackbone`."""
        rows, columns = (-(-side // self.patch_px) for side in pixels_B3HW.shape[-2:])
        return in_parts(
            pixels_B3HW, rows * columns, lambda part: self.feature_map(self.run(part), feature)
        )

    def run(self, pixels_B3HW: Tensor) -> VitFeatures:
        """Run the network up to its last block, at any size.

        Args:
            pixels_B3HW: grey levels 0..255. Normalised by the network's own constants, then
                padded with zeros (the mean colour) at the right and the bottom to whole patches.
        """
        normal = (pixels_B3HW.float() / 255 - self._mean_311) / self._std_311
        patches_BChw = self.model.patch_embed.proj(pad_br(normal, self.patch_px))
        grid_hw = (patches_BChw.shape[-2], patches_BChw.shape[-1])
        x = self.model.norm_pre(self._embed(patches_BChw.flatten(2).transpose(1, 2), grid_hw))
        for block in self.model.blocks[:-1]:
            x = block(x)
        last = self.model.blocks[-1]
        qkv_BL3C = last.attn.qkv(last.norm1(x)).unflatten(-1, (3, -1))
        return VitFeatures(x, qkv_BL3C.permute(2, 0, 1, 3), grid_hw)

    def feature_map(self, state: VitFeatures, feature: Feature) -> Tensor:
        """Return one feature (B, C, h, w), not normalised.

        Args:
            state: what `run` returned.
            feature: queries, keys or values of the last block (heads side by side), or the final
                tokens after the network's norm.
        """
        if feature == "tokens":
            tokens_BLC = self.model.norm(self.model.blocks[-1](state.tokens_BLC))
        else:
            tokens_BLC = state.qkv_3BLC["qkv".index(feature)]
        return tokens_BLC[:, self._num_prefix :].transpose(1, 2).unflatten(2, state.grid_hw)

    def class_attention(self, state: VitFeatures) -> Tensor:
        """Return the last block's attention of the class token to the patches (B, H, N).

        The softmax runs over all tokens, so the rows sum to less than one.
        """
        attention = self.model.blocks[-1].attn
        q_BHLd, k_BHLd = (
            part.unflatten(-1, (self._num_heads, -1)).transpose(1, 2) for part in state.qkv_3BLC[:2]
        )
        class_BH1d = attention.q_norm(q_BHLd[:, :, :1])
        logits_BHL = (class_BH1d @ attention.k_norm(k_BHLd).transpose(-2, -1))[:, :, 0]
        return (logits_BHL * attention.scale).softmax(-1)[..., self._num_prefix :]

    @property
    def num_heads(self) -> int:
        """Number of attention heads of the last block."""
        return self._num_heads

    def _embed(self, patches_BNC: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        positions_LC = self._positions.at(self.rule, grid_hw)
        prefix = [self.model.cls_token, self.model.reg_token]
        prefix_BPC = [
            token.expand(len(patches_BNC), -1, -1) for token in prefix if token is not None
        ]
        if self._prefix_has_position:
            return torch.cat([*prefix_BPC, patches_BNC], dim=1) + positions_LC
        return torch.cat([*prefix_BPC, patches_BNC + positions_LC], dim=1)


def _family_rule(model: Any, tag: str) -> PositionInterpolation:
    if model.num_reg_tokens:
        return "antialias"
    return "size" if tag.startswith("mae") else "scale01"
