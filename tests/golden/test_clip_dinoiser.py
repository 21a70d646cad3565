"""CLIP-DINOiser, with MaskCLIP's features and the networks' maps that it is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.decision.canvas import score_map
from ovseg_core.decision.decide import decide
from ovseg_core.dense.affinity import cosine_affinity, threshold_affinity
from ovseg_core.dense.encoder import DenseFeatures
from ovseg_core.dense.last_block import dense_patches, identity
from ovseg_core.dense.scoring import patch_probabilities
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.images.resize.published_sizes import pad_br
from ovseg_core.methods import clip_dinoiser
from ovseg_core.segmenter import ScoreMaps, TextMatrix, encode_images
from ovseg_core.training.heads.shared.dinoiser_model import tap_map
from tests.golden import reference
from tests.helpers.tiny_models import trunk_of_pixels

FILE = "clip_dinoiser"
HEADS = {"obj_proj", "bkg_decoder"}


@dataclass(frozen=True)
class Stages:
    """Every stage; both networks and both heads are those of the reference."""

    folder: Path

    @cached_property
    def text(self) -> TextMatrix:
        rows = reference.weights()["text.matrix"]
        return TextMatrix(rows, torch.arange(len(rows)), len(rows))

    @cached_property
    def backbones(self) -> Any:
        activation = reference.constants(FILE)["activation"]
        reference.backbones(self.folder, activation, vision="dino16")
        return reference.backbones(self.folder, activation)

    def options(self, variant: str, background: bool = True) -> clip_dinoiser.Options:
        constants = reference.constants(FILE)
        learned = variant == "learned"
        return clip_dinoiser.Options(
            affinity="learned" if learned else "dino",
            background=("learned" if learned else "found") if background else "none",
            heads=str(_last_pt(self.folder)),
            affinity_network=f"local-dir:{self.folder / 'dino16'}",
            found_head=reference.found_head(self.folder),
            gamma=constants["gamma"],
            delta=constants["delta"],
            logit_scale=constants["temperature"],
            short_side_px=0,
            window_px=constants["crop"],
            stride_px=constants["stride"],
        )

    def method(self, variant: str, background: bool) -> WindowSegmenter:
        return clip_dinoiser.build(self.options(variant, background), self.backbones)

    def encoder(self, variant: str) -> clip_dinoiser.PoolingEncoder:
        return clip_dinoiser.build_encoder(self.options(variant), self.backbones)

    def trunk(self, image: str, variant: str) -> TrunkFeatures:
        """Of the whole image as one window, padded with black."""
        pixels = pad_br(reference.image(image)[None], self.backbones.clip.patch_px)
        return self.encoder(variant).encode_trunk(self.backbones.clip.normalise(pixels))

    def tapped(self, image: str) -> TrunkFeatures:
        pixels, tap = reference.image(image)[None], reference.constants(FILE)["feats_idx"]
        return trunk_of_pixels(self.backbones.clip, pixels, [tap])

    def features(self, image: str) -> Tensor:
        return dense_patches(self.backbones.clip, self.tapped(image), identity)

    def maskclip_prob(self, image: str) -> Tensor:
        features = DenseFeatures(self.features(image)).unit()
        scale = reference.constants(FILE)["temperature"]
        return patch_probabilities(features, self.text, scale)

    def values(self, image: str) -> Tensor:
        return F.normalize(self.trunk(image, "dino").extra_maps["affinity"], dim=1).flatten(2)

    def affinity(self, image: str, variant: str, threshold: float = -2.0) -> Tensor:
        guide = self.trunk(image, variant).extra_maps["affinity"]
        return threshold_affinity(cosine_affinity(guide), threshold).unflatten(2, guide.shape[2:])

    def dense(self, image: str, variant: str) -> DenseFeatures:
        return self.encoder(variant).encode_dense(self.trunk(image, variant))

    def foreground(self, image: str) -> Tensor:
        return self.trunk(image, "dino").extra_maps["objectness"]

    def prob(self, image: str, variant: str, bare: str | None) -> Tensor:
        scoring = clip_dinoiser.with_background(self.options(variant, not bare))
        return scoring.score(self.dense(image, variant).unit(), self.text)

    def objectness(self, image: str) -> Tensor:
        heads = self.encoder("learned").heads
        return heads.objectness(tap_map(self.tapped(image)))

    def slid(self, image: str, variant: str, bare: str | None) -> tuple[ScoreMaps, tuple[int, int]]:
        """The image in a batch with a larger one, so that windows of both go together."""
        method = self.method(variant, not bare)
        images = [reference.image(image), reference.image("img1")]
        height, width = reference.tensors(FILE)[f"slide.{image}.ori_shape"].tolist()
        return method.score(encode_images(method, images), self.text), (height, width)

    def slid_prob(self, image: str, variant: str, bare: str | None) -> Tensor:
        maps, size = self.slid(image, variant, bare)
        step = slice(None, None, int(reference.constants(FILE)["sub"].removeprefix("::")))
        return score_map(maps, 0, size).rows(slice(0, size[0]))[None, :, step, step]

    def slid_labels(self, image: str, variant: str, bare: str | None) -> np.ndarray:
        maps, size = self.slid(image, variant, bare)
        return decide(maps, [size, (50, 70)])[0].label_map.astype(np.uint8)


def _last_pt(folder: Path) -> Path:
    """The heads in the authors' layout."""
    state = reference.part("dinoiser.")
    assert {name.split(".")[0] for name in state} == HEADS
    torch.save({"epoch": 1, "model_state_dict": state}, folder / "last.pt")
    return folder / "last.pt"


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Callable[..., Any]]]:
    stages = Stages(tmp_path_factory.mktemp("golden"))
    gamma = reference.constants(FILE)["gamma"]
    slide, variant = r"slide\.(?P<image>[^.]+)\.", r"(?P<variant>dino|learned)"
    bare, one = r"(?P<bare>_nobkg)?", r"(?P<image>[^.]+)\."
    return [
        (one + "maskclip_feat", stages.features),
        (one + "maskclip_prob", stages.maskclip_prob),
        (one + "tap_ln2", lambda image: stages.tapped(image).ln2[-3][:, 1:]),
        (one + "dino_v_unit", stages.values),
        (one + "dino_affinity", lambda image: stages.affinity(image, "dino", gamma)),
        (one + "dino_pooled_feat", lambda image: stages.dense(image, "dino").patches_BDhw),
        (one + "found_prob_patch8", stages.foreground),
        (
            one + "found_prob_resized",
            lambda image: stages.dense(image, "dino").extra["objectness"],
        ),
        (one + "learned_affinity", lambda image: stages.affinity(image, "learned")),
        (one + "bkg_logit", stages.objectness),
        (one + variant + "_prob" + bare, stages.prob),
        (slide + variant + r"\.prob" + bare, stages.slid_prob),
        (slide + variant + r"\.labels" + bare, stages.slid_labels),
    ]


@pytest.mark.parametrize(
    "key",
    [
        key
        for key in reference.keys(FILE)
        if key != "constants" and not key.endswith(".ori_shape")  # what the others are made from
    ],
)
def test_every_stage_is_the_authors(key: str, checks: list[tuple[str, Callable[..., Any]]]) -> None:
    ours, expected = reference.computed(key, checks), reference.tensors(FILE)[key]
    compare = reference.assert_same_labels if ".labels" in key else reference.assert_alike
    compare(ours, expected)
