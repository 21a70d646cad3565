"""CLIP by open_clip, unmodified: image and text embeddings, and the trunk up to the last block.

Nothing is patched and no hook is registered: the dense methods apply the last block's weights
themselves (`dense/last_block.py`; docs/methods.md 1.6). What is returned is float32 and on the
network's device, whatever precision the blocks were computed in (`compute.py`).

Shapes: B images, L tokens (class token first), C trunk width, D joint width, H W pixels, h w
patches, R side of the square network input, H heads in BHLd, d head width.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.compute import Compute
from ovseg_core.backbones.load_clip import LoadedClip
from ovseg_core.backbones.text.tokenizer import embed_in_parts
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.pillow_passes import centre_square
from ovseg_core.images.resize.position_embedding import PositionInterpolation, PositionTable
from schemas.errors import WeightsError

logger = logging.getLogger(__name__)

_IMAGES_PER_FORWARD = {"cpu": 128, "cuda": 512}
"""Default batch of a forward pass: small enough for a CPU's cache, large enough for a GPU."""


@dataclass(frozen=True)
class TrunkFeatures:
    """CLIP's image encoder before its last block, for a batch of images of one size.

    Attributes:
        tokens_BLC: output of the last block but one, class token first.
        grid_hw: rows and columns of patches; L = 1 + h * w.
        ln2: output of `ln_2` (B, L, C) of the requested blocks, by the index that was requested.
        blocks: output (B, L, C) of the requested blocks, by index.
        extra_maps: maps (B, C, I, J) of the same images that a method adds, by name, such as those
            of a second network; each on a grid of its own.
    """

    tokens_BLC: Tensor
    grid_hw: tuple[int, int]
    ln2: dict[int, Tensor] = field(default_factory=dict)
    blocks: dict[int, Tensor] = field(default_factory=dict)
    extra_maps: dict[str, Tensor] = field(default_factory=dict)

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> "TrunkFeatures":
        """Return the features with `function` applied to every tensor."""
        return replace(
            self,
            tokens_BLC=function(self.tokens_BLC),
            ln2={key: function(value) for key, value in self.ln2.items()},
            blocks={key: function(value) for key, value in self.blocks.items()},
            extra_maps={key: function(value) for key, value in self.extra_maps.items()},
        )

    def unbind(self) -> list["TrunkFeatures"]:
        """Return the features of each image as a batch of one."""
        return [
            self.map_tensors(lambda tensor, one=slice(i, i + 1): tensor[one])
            for i in range(len(self.tokens_BLC))
        ]

    @staticmethod
    def cat(parts: "Sequence[TrunkFeatures]") -> "TrunkFeatures":
        """Concatenate batches of images of one size into one batch."""
        first = parts[0]
        return replace(
            first,
            tokens_BLC=torch.cat([one.tokens_BLC for one in parts]),
            ln2={key: torch.cat([one.ln2[key] for one in parts]) for key in first.ln2},
            blocks={key: torch.cat([one.blocks[key] for one in parts]) for key in first.blocks},
            extra_maps={
                key: torch.cat([one.extra_maps[key] for one in parts]) for key in first.extra_maps
            },
        )


class Clip:
    """A frozen open_clip model.

    Args:
        loaded: the open_clip model on `device`, with its tokenizer and normalisation.
        compute: where and how it runs.

    Attributes:
        visual: the image encoder.
        compute: where and how it runs.
        patch_px: side of a patch.
        input_px: side of the square input that it was trained with.
        dim: D.
        width: C.
        weights_file: the local file, for messages.
        logit_scale: cosine similarities times this are logits (1 / temperature).

    Raises:
        WeightsError: the image encoder is not a plain vision transformer.
    """

    def __init__(self, loaded: LoadedClip, compute: Compute) -> None:
        # `Any`: a module's attributes are dynamic, and these are read one by one.
        self.visual: Any = _plain_vit(loaded.model)
        self.model: Any = loaded.model
        self.tokenizer = loaded.tokenizer
        self.weights_file = loaded.file
        self.compute = compute
        self._run_block = compute.compiled(run_block)
        self.device = device = compute.device
        self._mean_311 = torch.tensor(loaded.mean, device=device).view(3, 1, 1)
        self._std_311 = torch.tensor(loaded.std, device=device).view(3, 1, 1)
        self.patch_px: int = self.visual.patch_size[0]
        self.input_px: int = self.visual.image_size[0]
        self.dim: int = self.visual.output_dim
        self._num_tokens: int = self.model.vocab_size
        self.width: int = self.visual.conv1.out_channels
        self.logit_scale = float(self.model.logit_scale.detach().exp())
        self._positions = PositionTable(
            self.visual.positional_embedding.detach(), self.visual.grid_size
        )

    def with_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> "Clip":
        """Return the same network with another normalisation of pixels in [0, 1]."""
        other = copy.copy(self)
        other._mean_311 = torch.tensor(mean, device=self.device).view(3, 1, 1)
        other._std_311 = torch.tensor(std, device=self.device).view(3, 1, 1)
        return other

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return pixel values 0..255 (..., 3, H, W) of any dtype as network input (float32)."""
        return (pixels.float() / 255 - self._mean_311) / self._std_311

    def denormalise(self, input_B3HW: Tensor) -> Tensor:
        """Return network input as pixel values 0..255 (float32, not rounded)."""
        return (input_B3HW * self._std_311 + self._mean_311) * 255

    @property
    def black(self) -> Tensor:
        """The network input (3,) of a black pixel."""
        return self.normalise(torch.zeros_like(self._mean_311)).flatten()

    def encode_images(self, pixels_B3RR: Tensor, images_per_forward: int = 0) -> Tensor:
        """Return the image embeddings (B, D), not normalised to unit length.

        Args:
            pixels_B3RR: pixel values 0..255, at the input size.
            images_per_forward: batch of one forward pass, to bound memory; 0: a default for the
                device.
        """
        size = images_per_forward or _IMAGES_PER_FORWARD.get(self.device.type, 128)
        parts = (self.normalise(part) for part in pixels_B3RR.split(size))
        return torch.cat([self.pool_trunk(self.forward_trunk(part, "size")) for part in parts])

    def image_vectors(self, images: Sequence[Image]) -> Tensor:
        """Return the unit vectors (B, D) of whole images, float32, in one forward pass each.

        Args:
            images: uint8 (3, H, W) on the CPU, of any sizes; resized and cropped as in CLIP's own
                preprocessing, see `centre_square`.
        """
        squares_B3RR = torch.stack([centre_square(image, self.input_px) for image in images])
        return F.normalize(self.encode_images(squares_B3RR.to(self.device)), dim=-1)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return the text embeddings (number of prompts, D), not normalised to unit length.

        Raises:
            WeightsError: the tokenizer is not that of the text encoder.
        """
        ids_PL = self.tokenizer.prompt_ids(prompts, self._num_tokens, self.weights_file)
        return embed_in_parts(ids_PL.to(self.device), self.model.encode_text)

    def forward_trunk(
        self,
        input_B3HW: Tensor,
        interpolation: PositionInterpolation,
        return_ln2: Sequence[int] = (),
        return_blocks: Sequence[int] = (),
    ) -> TrunkFeatures:
        """Run the image encoder up to its last block on normalised input of any size.

        Args:
            input_B3HW: normalised; remainders of a patch at the right and the bottom are dropped.
            interpolation: how position embeddings are interpolated to the grid.
            return_ln2: blocks (negative: from the end) whose `ln_2` output is returned as well.
            return_blocks: blocks (from the start, before the last) whose output is returned as
                well.
        """
        with self.compute.forward():
            return self._forward_trunk(input_B3HW, interpolation, return_ln2, return_blocks)

    def _forward_trunk(
        self,
        input_B3HW: Tensor,
        interpolation: PositionInterpolation,
        return_ln2: Sequence[int],
        return_blocks: Sequence[int],
    ) -> TrunkFeatures:
        patches_BChw = self.visual.conv1(input_B3HW)
        grid_hw = (patches_BChw.shape[-2], patches_BChw.shape[-1])
        patches_BNC = patches_BChw.flatten(2).transpose(1, 2)
        class_B1C = self.visual.class_embedding.expand(len(patches_BNC), 1, -1)
        x = torch.cat([class_B1C, patches_BNC], dim=1) + self._positions.at(interpolation, grid_hw)
        x = self.visual.ln_pre(x)
        blocks = self.visual.transformer.resblocks
        requested_ln2 = {index % len(blocks): index for index in return_ln2}
        ln2: dict[int, Tensor] = {}
        outputs: dict[int, Tensor] = {}
        for number, block in enumerate(blocks[:-1]):
            if number in requested_ln2:
                x = attended(block, x)
                normal = block.ln_2(x)
                x = x + block.ls_2(block.mlp(normal))
                ln2[requested_ln2[number]] = normal
            else:
                x = self._run_block(block, x)
            if number in return_blocks:
                outputs[number] = x
        return TrunkFeatures(x, grid_hw, ln2, outputs)

    def pool_trunk(self, trunk: TrunkFeatures) -> Tensor:
        """Return the image embeddings (B, D) of CLIP's own last block, not normalised.

        Where the class token is the embedding, the block runs for it alone.
        """
        num_needed = 1 if self.visual.pool_type == "tok" else trunk.tokens_BLC.shape[1]
        block = self.visual.transformer.resblocks[-1]
        return self.pool(self.compute.run(self._run_block, block, trunk.tokens_BLC, num_needed))

    def pool(self, tokens_BLC: Tensor) -> Tensor:
        """Pool tokens after the last block into image embeddings (B, D), not normalised.

        Takes the class token or the mean of the patches, whichever the model was trained with. The
        class token is enough where it is taken.
        """
        by_class_token = self.visual.pool_type == "tok"
        if self.visual.final_ln_after_pool:
            raw_BC = tokens_BLC[:, 0] if by_class_token else tokens_BLC[:, 1:].mean(dim=1)
            return self.visual.ln_post(raw_BC) @ self.visual.proj
        tokens_BLD = self.project(tokens_BLC)
        return tokens_BLD[:, 0] if by_class_token else tokens_BLD[:, 1:].mean(dim=1)

    def project(self, tokens_BLC: Tensor) -> Tensor:
        """Project tokens after the last block to the joint space (B, L, D), not normalised."""
        return self.visual.ln_post(tokens_BLC) @ self.visual.proj


def run_block(block: Any, x_BLC: Tensor, num_needed: int | None = None) -> Tensor:
    """Return the output of one of CLIP's blocks, for all tokens or for the first ones (B, n, C).

    By hand, as PyTorch's attention module copies its weights for every image under autocast.

    Args:
        block: of an image encoder.
        x_BLC: its input, as all tokens are attended to.
        num_needed: n; None: all.
    """
    x_BnC = attended(block, x_BLC, num_needed)
    return x_BnC + block.ls_2(block.mlp(block.ln_2(x_BnC)))


def attended(block: Any, x_BLC: Tensor, num_needed: int | None = None) -> Tensor:
    """Return the tokens after a block's attention and skip connection; see `run_block`."""
    q_BHnd, k_BHLd, v_BHLd = qkv(block, x_BLC, num_needed)
    mixed_BnC = F.scaled_dot_product_attention(q_BHnd, k_BHLd, v_BHLd).transpose(1, 2).flatten(2)
    return x_BLC[:, :num_needed] + block.ls_1(block.attn.out_proj(mixed_BnC))


def qkv(block: Any, x_BLC: Tensor, num_needed: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries (B, H, n, d), keys and values (B, H, L, d) of a block for its input tokens.

    Args:
        block: of an image encoder.
        x_BLC: its input.
        num_needed: n, how many tokens' queries are needed, from the first; None: all.
    """
    attention, normal_BLC = block.attn, block.ln_1(x_BLC)
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if num_needed is None or num_needed == x_BLC.shape[1]:
        parts = F.linear(normal_BLC, weight, bias).chunk(3, -1)
    else:
        width = x_BLC.shape[2]
        queries_BnC = F.linear(normal_BLC[:, :num_needed], weight[:width], bias[:width])
        parts = queries_BnC, *F.linear(normal_BLC, weight[width:], bias[width:]).chunk(2, -1)
    q_BHnd, k_BHLd, v_BHLd = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts
    )
    return q_BHnd, k_BHLd, v_BHLd


def _plain_vit(model: Any) -> Any:
    """Return the image encoder if `forward_trunk` can run it."""
    from open_clip.transformer import VisionTransformer

    visual = model.visual
    if not isinstance(visual, VisionTransformer):
        raise WeightsError(
            f"the CLIP image encoder is a {type(visual).__name__}; ovseg reads open_clip's plain "
            "VisionTransformer only, for example ViT-B-32 or ViT-L-14 (no ResNet, ConvNeXt, SigLIP)"
        )
    if visual.attn_pool is not None or visual.pool_type == "none":
        raise WeightsError(
            "the CLIP image encoder has an attention pool; ovseg needs a class token or the mean"
        )
    if not hasattr(visual.transformer.resblocks[-1], "attention"):
        raise WeightsError("the CLIP image encoder has custom blocks, which ovseg does not read")
    for name in ("image_size", "patch_size"):
        height, width = getattr(visual, name)
        if height != width:
            raise WeightsError(f"ovseg needs a square CLIP input, got {name} {height} x {width}")
    return visual
