"""NACLIP and the variants of its ablation, against the authors' repository."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.dense.last_block import AttentionPolicy, Neighbourhood, SoftmaxSum, gaussian_bias
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.methods import naclip
from tests.golden import reference
from tests.golden.window_methods import Stages, assert_equal

BARE = ("naclip", "kk", "nonly")
"""Variants without residual and MLP."""


def _sigma() -> float:
    return reference.constants("naclip")["gaussian_std"]


def _near(trunk: TrunkFeatures) -> Neighbourhood:
    return Neighbourhood(trunk.grid_hw, _sigma(), torch.device("cpu"))


def _near_only(trunk: TrunkFeatures) -> AttentionPolicy:
    """The Gaussian times the mean product of a query's and a key's length, over sqrt d.

    The factor is not documented by the authors; it was found from these numbers.
    """

    def attend(q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
        lengths = [one.norm(dim=-1).mean(dim=-1) for one in (q_BHLd, k_BHLd)]
        factor = (lengths[0] * lengths[1]).mean() * q_BHLd.shape[-1] ** -0.5
        return (factor * gaussian_bias(trunk.grid_hw, _sigma())).softmax(dim=-1) @ v_BHLd

    return attend


POLICIES: dict[str, Callable[[TrunkFeatures], AttentionPolicy]] = {
    "naclip": _near,
    "naclip_vanillaarch": _near,
    "nonly": _near_only,
    "kk": lambda _: SoftmaxSum(("kk",)),
    "csa": lambda _: SoftmaxSum(("qq", "kk")),
    "vanilla": lambda _: SoftmaxSum(("qk",)),
}


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Callable[..., Any]]]:
    stages = Stages.of("naclip", tmp_path_factory.mktemp("golden"))

    def method(scale: str, steps: str | None) -> WindowSegmenter:
        options = naclip.Options(
            logit_scale=float(scale),
            pamr_steps=int(steps or 0),
            sigma_patches=_sigma(),
            **stages.sizes(),
        )
        return naclip.build(options, stages.backbones)

    def class_prob(key: str, image: str, **given: Any) -> Tensor:
        classes = stages.class_prob(method(**given), key, image)
        return classes / classes.sum(dim=0)

    def gaussian(image: str) -> Tensor:
        patch = stages.backbones.clip.patch_px
        height, width = reference.image(image).shape[1:]
        return gaussian_bias((height // patch, width // patch), _sigma())

    slide = r"(?P<key>slide_scale(?P<scale>\d+)(_pamr(?P<steps>\d+))?\.(?P<image>[^.]+))"
    return [
        (r"gaussian_addition\.(?P<image>.+)", gaussian),
        (
            r"(?P<name>[^.]+)\.(?P<image>[^.]+)\.features",
            lambda name, image: stages.features(image, POLICIES[name], name not in BARE),
        ),
        (
            r"(?P<name>[^.]+)\.(?P<image>[^.]+)\.logits_up",
            lambda name, image: stages.logits_up(image, POLICIES[name], name not in BARE),
        ),
        (slide + r"\.class_prob", class_prob),
        (
            slide + r"\.labels",
            lambda key, image, **given: stages.labels(method(**given), key, image),
        ),
    ]


@pytest.mark.parametrize("key", reference.keys("naclip"))
def test_naclip_is_the_authors(key: str, checks: list[tuple[str, Callable[..., Any]]]) -> None:
    assert_equal("naclip", key, checks)
