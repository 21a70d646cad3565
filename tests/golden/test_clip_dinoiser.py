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
from ovseg_core.decision.decide import decide, score_map
from ovseg_core.dense.affinity import cosine_affinity, threshold_affinity
from ovseg_core.dense.attention import identity
from ovseg_core.dense.last_block import dense_features
from ovseg_core.dense.options import probabilities
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.heads.shared.dinoiser_model import tap_map
from ovseg_core.methods import clip_dinoiser
from ovseg_core.resize.published_sizes import pad_br
from ovseg_core.segmenter import ScoreMaps, TextMatrix
from tests.golden import reference

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
            least_affinity=constants["gamma"],
            sure=constants["delta"],
            logit_scale=constants["temperature"],
            short_side_px=0,
            window_px=constants["crop"],
            stride_px=constants["stride"],
        )

    def method(self, variant: str, background: bool) -> WindowSegmenter:
        return clip_dinoiser.build(self.options(variant, background), self.backbones)

    def reader(self, variant: str) -> clip_dinoiser.PoolingReader:
        return clip_dinoiser.read_with(self.options(variant), self.backbones)

    def state(self, image: str, variant: str) -> TrunkFeatures:
        """Of the whole image as one window, padded with black."""
        pixels = pad_br(reference.image(image)[None], self.backbones.clip.patch_px)
        return self.reader(variant).read(self.backbones.clip.normalise(pixels))

    def tapped(self, image: str) -> TrunkFeatures:
        pixels, tap = reference.image(image)[None], reference.constants(FILE)["feats_idx"]
        return self.backbones.clip.forward_trunk_from_pixels(pixels, "size", [tap])

    def features(self, image: str) -> Tensor:
        return dense_features(self.backbones.clip, self.tapped(image), identity)

    def maskclip_prob(self, image: str) -> Tensor:
        unit = F.normalize(self.features(image), dim=1)
        return probabilities(unit, unit, self.text, reference.constants(FILE)["temperature"])

    def values(self, image: str) -> Tensor:
        return F.normalize(self.state(image, "dino").extra_maps["affinity"], dim=1).flatten(2)

    def affinity(self, image: str, variant: str, least: float = -2.0) -> Tensor:
        guide = self.state(image, variant).extra_maps["affinity"]
        return threshold_affinity(cosine_affinity(guide), least).unflatten(2, guide.shape[2:])

    def pooled(self, image: str) -> Tensor:
        reader = self.reader("dino")
        return reader.finish(self.state(image, "dino"))[:, : self.backbones.clip.dim]

    def foreground(self, image: str) -> Tensor:
        return self.state(image, "dino").extra_maps["foreground"]

    def prob(self, image: str, variant: str, bare: str | None) -> Tensor:
        reader, options = self.reader(variant), self.options(variant, not bare)
        both = reader.finish(self.state(image, variant))
        unit = F.normalize(both[:, : self.backbones.clip.dim], dim=1)
        extra = both[:, self.backbones.clip.dim :]
        return clip_dinoiser.with_background(options).maps(
            unit, extra, self.text, options.logit_scale
        )

    def objectness(self, image: str) -> Tensor:
        heads = self.reader("learned").heads
        return heads.objectness(tap_map(self.tapped(image)))

    def slid(self, image: str, variant: str, bare: str | None) -> tuple[ScoreMaps, tuple[int, int]]:
        """The image in a batch with a larger one, so that windows of both go together."""
        method = self.method(variant, not bare)
        images = [reference.image(image), reference.image("img1")]
        height, width = reference.tensors(FILE)[f"slide.{image}.ori_shape"].tolist()
        return method.score(method.encode(images), self.text), (height, width)

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
        (one + "dino_pooled_feat", stages.pooled),
        (one + "found_prob_patch8", stages.foreground),
        (
            one + "found_prob_resized",
            lambda image: stages.reader("dino").finish(stages.state(image, "dino"))[:, -1:],
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
