"""OWLv2: for each patch of an image a box, and a score of any phrase (Minderer et al., 2023).

The detector is that of transformers, unmodified. Boxes and the patches' features do not depend on
phrases, so an image is encoded once, whatever is searched for. What is returned is float32 and on
the network's device.

Shapes: B images, S side of the network's square input, N patches of it, C width of its features,
Q phrases, D width of the text rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg_core.backbones.checkpoint import LOAD_FAILURES, one_line
from ovseg_core.backbones.compute import Compute
from ovseg_core.backbones.file_formats.transformers_folder import (
    HubWeights,
    LoadedNetwork,
    NetworkFamily,
)
from ovseg_core.backbones.text.tokenizer import Tokenizer, embed_in_parts, load_tokenizer
from ovseg_core.backbones.vision.vit import in_batches
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.images.resize.published_sizes import limit_side
from schemas.errors import WeightsError

OWLV2 = NetworkFamily(
    title="OWLv2",
    example="google/owlv2-base-patch16-ensemble",
    classes={"owlv2": ("Owlv2ForObjectDetection", "Owlv2ImageProcessor")},
    weights=HubWeights(620_000_000, "Apache-2.0"),
)
_PATCHES_AT_ONCE = 1024
_MAX_SIDE = 2
"""Images with a side of more than so many S are reduced to it: the processor pads to a square at
the image's own size, which for one of 20,000 pixels is 5 GB."""


@dataclass(frozen=True)
class EncodedPatches:
    """A batch of encoded images.

    Attributes:
        features_BNC: of which a phrase's score is read.
        boxes_BN4: left, top, right, bottom, in pixels of each image; they may reach beyond it.
        sizes_hw: of each image.
    """

    features_BNC: Tensor
    boxes_BN4: Tensor
    sizes_hw: tuple[SizeHW, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sizes_hw)

    def image(self, index: int) -> "EncodedPatches":
        """Return one image of the batch, as a batch of one."""
        part = slice(index, index + 1)
        return EncodedPatches(self.features_BNC[part], self.boxes_BN4[part], self.sizes_hw[part])


class Owlv2:
    """A frozen OWLv2.

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
        self._encode = compute.compiled(self._model.image_embedder)
        self.device = compute.device
        self.weights_file = loaded.file
        self.input_px: int = self._model.config.vision_config.image_size

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return the text embeddings (number of prompts, D), not normalised to unit length.

        Raises:
            WeightsError: the tokenizer is not that of the text encoder.
        """
        num_tokens = self._model.config.text_config.vocab_size
        ids_PL = self._tokenizer.prompt_ids(prompts, num_tokens, self.weights_file)
        embed = self._model.owlv2.get_text_features
        return embed_in_parts(
            ids_PL.to(self.device), lambda part_PL: embed(input_ids=part_PL).pooler_output
        )

    def encode(self, images: Sequence[Image]) -> EncodedPatches:
        """Encode images (3, H, W), uint8, of any sizes."""
        small = [limit_side(image, _MAX_SIDE * self.input_px) for image in images]
        pixels_B3SS = self._processor(
            images=small, input_data_format="channels_first", return_tensors="pt"
        )["pixel_values"]
        num_patches = self._model.num_patches_height * self._model.num_patches_width
        map_BhwC = in_batches(pixels_B3SS, num_patches, self._feature_map)
        features_BNC = map_BhwC.flatten(1, 2)
        centres_BN4 = self._compute.run(self._model.box_predictor, features_BNC, map_BhwC)
        centre_BN2, size_BN2 = centres_BN4.split(2, dim=-1)
        shares_BN4 = torch.cat([centre_BN2 - size_BN2 / 2, centre_BN2 + size_BN2 / 2], dim=-1)
        # Boxes are relative to a square: the image is padded at the right or the bottom.
        sizes_hw = tuple((image.shape[1], image.shape[2]) for image in images)
        sides_B = shares_BN4.new_tensor([max(size) for size in sizes_hw])
        return EncodedPatches(features_BNC, shares_BN4 * sides_B[:, None, None], sizes_hw)

    def scores(self, features_NC: Tensor, rows_QD: Tensor) -> Tensor:
        """Return the score of each patch for each phrase (N, Q) in [0, 1]; they do not compete.

        Args:
            features_NC: of an image, or of some of its patches.
            rows_QD: unit rows of phrases.
        """
        return self._model.class_predictor(features_NC[None], rows_QD[None])[0][0].sigmoid()

    def best_phrases(self, features_NC: Tensor, rows_QD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the highest score of each patch (N) and the int64 row of its phrase (N)."""
        parts = [
            self.scores(some, rows_QD).max(dim=1) for some in features_NC.split(_PATCHES_AT_ONCE)
        ]
        return torch.cat([it.values for it in parts]), torch.cat([it.indices for it in parts])

    def _feature_map(self, pixels_B3SS: Tensor) -> Tensor:
        with self._compute.forward():
            return self._encode(pixels_B3SS.to(self.device))[0].float()


def tokenizer_of(loaded: LoadedNetwork, option: str) -> Tokenizer:
    """Return the tokenizer of a network's folder, or of its repository on the hub.

    Args:
        loaded: a network with CLIP's text encoder.
        option: dotted option that named it, for messages.

    Raises:
        WeightsError: there is none, or it cannot be had or read.
    """
    folder = Path(loaded.file).parent
    settings = {
        "context_length": loaded.model.config.text_config.max_position_embeddings,
        "hf_tokenizer_name": loaded.repository or str(folder),
    }
    try:
        return load_tokenizer(settings, None if loaded.repository else folder)
    except LOAD_FAILURES as error:
        raise WeightsError(
            f"{option}: the tokenizer of {settings['hf_tokenizer_name']} cannot be loaded: "
            f"{one_line(error)}; expected the network's own tokenizer.json, or vocab.json and "
            "merges.txt"
        ) from error
