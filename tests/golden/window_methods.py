"""Golden stages that SCLIP, ClearCLIP and NACLIP have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.canvas import kept_labels, score_map
from ovseg_core.decision.decide import decide
from ovseg_core.decision.values import class_probabilities
from ovseg_core.dense.last_block import AttentionPolicy, dense_patches
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.images.resize.bilinear import MeanMap
from ovseg_core.segmenter import ScoreMaps, TextMatrix, encode_images
from tests.golden import reference

RULE = "scale01"
"""The position rule of all three (README)."""

Policy = Callable[[TrunkFeatures], AttentionPolicy]


@dataclass(frozen=True)
class Stages:
    """Every stage of a method of one reference file."""

    file: str
    backbones: Backbones

    @classmethod
    def of(cls, file: str, folder: Path) -> "Stages":
        return cls(file, reference.backbones(folder, reference.constants(file)["activation"]))

    @property
    def text(self) -> TextMatrix:
        index = reference.weights()["text.class_index"].long()
        return TextMatrix(reference.weights()["text.matrix"], index, int(index.max()) + 1)

    @property
    def step(self) -> slice:
        return slice(None, None, int(reference.constants(self.file)["sub"].removeprefix("::")))

    def sizes(self) -> dict[str, int]:
        """The window options; images are taken as they are."""
        constants = reference.constants(self.file)
        crop, stride = constants["crop"], constants["stride"]
        return {"short_side_px": 0, "window_px": crop, "stride_px": stride}

    def dense(self, image: str, policy: Policy, residual: bool) -> Tensor:
        """(1, D, h, w) of a whole image cut to whole patches."""
        pixels = reference.image(image)[None]
        state = self.backbones.clip.forward_trunk(self.backbones.clip.normalise(pixels), RULE)
        return dense_patches(self.backbones.clip, state, policy(state), residual)

    def features(self, image: str, policy: Policy, residual: bool) -> Tensor:
        return self.dense(image, policy, residual).flatten(2).transpose(1, 2)

    def logits_up(self, image: str, policy: Policy, residual: bool) -> Tensor:
        unit = torch.nn.functional.normalize(self.dense(image, policy, residual)[0], dim=0)
        cosines = torch.einsum("qd,dhw->qhw", self.text.rows_QD, unit)
        patch = self.backbones.clip.patch_px
        size = (cosines.shape[1] * patch, cosines.shape[2] * patch)
        return MeanMap([cosines], size).rows(slice(0, size[0]))[None, :, self.step, self.step]

    def maps(self, method: WindowSegmenter, image: str) -> ScoreMaps:
        """The image in a batch with a larger one, so that windows of both go together."""
        images = [reference.image(image), reference.image("img1")]
        return method.score(encode_images(method, images), self.text)

    def size(self, key: str) -> tuple[int, int]:
        height, width = reference.tensors(self.file)[f"{key}.ori_shape"].tolist()
        return height, width

    def class_prob(self, method: WindowSegmenter, key: str, image: str) -> Tensor:
        maps, size = self.maps(method, image), self.size(key)
        assert maps.rule is not None
        scores, whole = score_map(maps, 0, size), slice(0, size[0])
        probs = class_probabilities(scores.rows(whole) * maps.logit_scale, maps.rule)
        kept = kept_labels(maps, scores, [whole])
        probs = probs if kept is None else probs * kept[:, None, None]
        return probs[:, self.step, self.step]

    def labels(self, method: WindowSegmenter, key: str, image: str) -> NDArray[np.uint8]:
        sizes = [self.size(key), (50, 70)]
        return decide(self.maps(method, image), sizes)[0].label_map.astype(np.uint8)


def assert_equal(file: str, key: str, checks: list[tuple[str, Callable[..., Any]]]) -> None:
    """Compare one key; constants and sizes are what the others are computed from."""
    if key == "constants" or key.endswith(".ori_shape"):
        return
    ours = reference.computed(key, checks)
    compare = reference.assert_same_labels if key.endswith(".labels") else reference.assert_alike
    compare(ours, reference.tensors(file)[key])
