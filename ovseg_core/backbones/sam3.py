"""SAM 3: all objects of a phrase in an image, found in one pass (Carion et al., 2025).

The network is that of transformers, unmodified. An image and a phrase are each encoded once; what
costs is the decoder, which runs for every pair of the two. What is returned is float32 and on the
network's device.

Shapes: B images, P phrases of one image, L tokens of a phrase (32), C width of the tokens, R
objects that are looked for (200), S side of the network's square input, M side of its masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ovseg_core.backbones.compute import Compute
from ovseg_core.backbones.file_formats.transformers_folder import (
    HubWeights,
    LoadedNetwork,
    NetworkFamily,
)
from ovseg_core.backbones.text.tokenizer import PROMPTS_PER_FORWARD, Tokenizer
from ovseg_core.images.batch import Image

_CLASSES = ("Sam3Model", "Sam3ImageProcessor")
SAM3 = NetworkFamily(
    title="SAM 3",
    example="facebook/sam3",
    # The published file holds the tracker for videos as well, which is left out.
    classes={"sam3": _CLASSES, "sam3_video": _CLASSES},
    weights=HubWeights(
        3_400_000_000, "SAM License (not for military uses: read it)", "gated: ask for access first"
    ),
)
_IMAGES_PER_FORWARD = {"cpu": 1, "cuda": 8}
_DECODER_VALUES = {"cpu": 1 << 27, "cuda": 1 << 29}
"""Values of the largest map of all phrases that are decoded at once: 0.5 and 2 GB."""
_MAX_PHRASES_AT_ONCE = 256


@dataclass(frozen=True)
class PhraseTokens:
    """Encoded phrases.

    Attributes:
        tokens_PLC: what the decoder reads.
        is_token_PL: bool; False: padding.
    """

    tokens_PLC: Tensor
    is_token_PL: Tensor


@dataclass(frozen=True)
class EncodedImages:
    """A batch of encoded images, each squashed to a square.

    Attributes:
        maps: from fine to coarse, (B, C, h, w) each.
        positions: of the cells of each map, (1, C, h, w).
    """

    maps: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.maps[0])

    def image(self, index: int) -> "EncodedImages":
        """Return one image of the batch, as a batch of one."""
        maps = tuple(one[index : index + 1] for one in self.maps)
        return EncodedImages(maps, self.positions)


@dataclass(frozen=True)
class FoundObjects:
    """What the decoder finds of some phrases in one image.

    Attributes:
        masks_PRMM: logits of each object's mask.
        scores_PR: in [0, 1], how well each object fits the phrase if the image shows it at all.
        boxes_PR4: left, top, right, bottom, as shares of the image's width and height.
        semantic_PMM: logits of all pixels that the phrase fits.
        presence_P: in [0, 1], whether the image shows the phrase at all.
    """

    masks_PRMM: Tensor
    scores_PR: Tensor
    boxes_PR4: Tensor
    semantic_PMM: Tensor
    presence_P: Tensor


class Sam3:
    """A frozen SAM 3.

    Args:
        loaded: the network.
        tokenizer: of its folder.
        compute: where and how it runs.

    Attributes:
        device: where it is.
        input_px: S.
        weights_file: the local file, for messages.
    """

    def __init__(self, loaded: LoadedNetwork, tokenizer: Tokenizer, compute: Compute) -> None:
        self._model: Any = loaded.model
        self._processor: Any = loaded.processor
        self._tokenizer = tokenizer
        self._compute = compute
        self._encode = compute.compiled(self._model.get_vision_features)
        self._end_id = int(tokenizer.ids([""])[0, 1])
        self.device = compute.device
        self.weights_file = loaded.file
        self.input_px: int = loaded.processor.size.height

    def encode_text(self, prompts: Sequence[str]) -> PhraseTokens:
        """Encode phrases.

        Raises:
            WeightsError: the tokenizer is not that of the text encoder.
        """
        num_known = self._model.config.text_config.vocab_size
        ids_PL = self._tokenizer.prompt_ids(prompts, num_known, self.weights_file).to(self.device)
        # The padding may be the end token as well, so only the first of them counts.
        is_end_PL = (ids_PL == self._end_id).long()
        is_token_PL = is_end_PL.cumsum(dim=1) - is_end_PL == 0
        parts = zip(
            ids_PL.split(PROMPTS_PER_FORWARD),
            is_token_PL.split(PROMPTS_PER_FORWARD),
            strict=True,
        )
        embed = self._model.get_text_features
        tokens = [embed(ids, attention_mask=mask.long()).pooler_output for ids, mask in parts]
        return PhraseTokens(torch.cat(tokens), is_token_PL)

    def encode(self, images: Sequence[Image]) -> EncodedImages:
        """Encode images (3, H, W), uint8, of any sizes."""
        pixels_B3SS = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        at_once = _IMAGES_PER_FORWARD.get(self.device.type, 1)
        parts = [self._encoded(part) for part in pixels_B3SS.split(at_once)]
        maps = tuple(torch.cat(levels) for levels in zip(*(it.maps for it in parts), strict=True))
        return EncodedImages(maps, parts[0].positions)

    def phrases_at_once(self, images: EncodedImages) -> int:
        """Return how many phrases are decoded together, which bounds the memory."""
        _, width, *size = images.maps[0].shape
        num_objects = self._model.config.detr_decoder_config.num_queries
        values = (width + num_objects) * size[0] * size[1]
        limit = _DECODER_VALUES.get(self.device.type, _DECODER_VALUES["cpu"])
        return min(max(limit // values, 1), _MAX_PHRASES_AT_ONCE)

    def find(self, images: EncodedImages, index: int, phrases: PhraseTokens) -> FoundObjects:
        """Return what is found of phrases, `phrases_at_once` at most, in one image of a batch."""
        num = len(phrases.tokens_PLC)
        maps = [level[index : index + 1].expand(num, -1, -1, -1) for level in images.maps]
        positions = [level.expand(num, -1, -1, -1) for level in images.positions]
        # The decoder leaves out the last map. It takes the outputs of its encoders, though it calls
        # one of them a tensor; of these it reads the following.
        seen = SimpleNamespace(
            fpn_hidden_states=(*maps, maps[-1]),
            fpn_position_encoding=(*positions, positions[-1]),
            hidden_states=None,
            attentions=None,
        )
        read = SimpleNamespace(pooler_output=phrases.tokens_PLC)
        with self._compute.forward():
            found = self._model(
                vision_embeds=seen, text_embeds=read, attention_mask=phrases.is_token_PL
            )
        return FoundObjects(
            masks_PRMM=found.pred_masks.float(),
            scores_PR=found.pred_logits.float().sigmoid(),
            boxes_PR4=found.pred_boxes.float(),
            semantic_PMM=found.semantic_seg[:, 0].float(),
            presence_P=found.presence_logits[:, 0].float().sigmoid(),
        )

    def _encoded(self, pixels_B3SS: Tensor) -> EncodedImages:
        with self._compute.forward():
            seen = self._encode(pixels_B3SS.to(self.device))
        return EncodedImages(
            maps=tuple(level.float() for level in seen.fpn_hidden_states[:-1]),
            positions=tuple(level[:1].float() for level in seen.fpn_position_encoding[:-1]),
        )
