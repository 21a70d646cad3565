"""CLIPtrase against the authors' repository, on the centre square that they label."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.canvas import score_map
from ovseg_core.decision.decide import decide
from ovseg_core.dense.last_block import run_last_block
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.pillow_passes import BICUBIC, resize_in_passes
from ovseg_core.methods import cliptrase
from ovseg_core.methods.cliptrase import (
    CORRELATION,
    cluster_maps,
    dbscan,
    denoised,
    median_filtered,
)
from ovseg_core.segmenter import ScoreMaps, TextMatrix, encode_images
from tests.golden import reference

LOGIT_TOLERANCE = 1e-3
"""README: logits are 100 times a cosine."""


class Stages:
    """Every stage of the method at one size."""

    def __init__(self, side: int, backbones: Backbones) -> None:
        constants = reference.constants("cliptrase")
        self.side = side
        self.clip = backbones.clip
        self.given = {
            "short_side_px": side,
            "eps": constants["eps"][str(side)],
            "min_samples": constants["min_samples"][str(side)],
            "logit_scale": constants["logit_scale"],
        }
        self.backbones = backbones
        self.encoder = cliptrase.CliptraseEncoder(self.clip, cliptrase.Options(**self.given))
        self.rows = torch.from_numpy(reference.tensors("cliptrase")["text"])

    def square(self, name: str) -> Image:
        """The image at this short side, its centre cut out."""
        image = reference.image(name)
        height, width = image.shape[1:]
        short = min(height, width)
        resized = resize_in_passes(
            image, (height * self.side // short, width * self.side // short), BICUBIC
        )
        top, left = (round((edge - self.side) / 2) for edge in resized.shape[1:])
        return resized[:, top : top + self.side, left : left + self.side]

    def pixels(self, name: str) -> Tensor:
        return self.clip.normalise(self.square(name))[None]

    def trunk(self, name: str) -> TrunkFeatures:
        return self.encoder.encode_trunk(self.pixels(name))

    def features(self, name: str) -> Tensor:
        tokens = run_last_block(self.clip, self.trunk(name).tokens_BLC, cliptrase.ATTENTION, True)
        return torch.nn.functional.normalize(self.clip.project(tokens), dim=-1)

    def corr(self, name: str) -> Tensor:
        return self.encoder.token_correlation(self.trunk(name))[0]

    def att(self, name: str) -> Tensor:
        """As the encoder returns it."""
        att = self.encoder.encode_dense(self.trunk(name)).extra[CORRELATION][0]
        assert torch.equal(att, denoised(self.corr(name)[None])[0])
        return att

    def clusters(self, name: str) -> NDArray[np.intp]:
        return dbscan(self.att(name), self.given["eps"], self.given["min_samples"])

    def prototypes(self, name: str) -> Tensor:
        return cluster_maps(self.att(name), self.clusters(name), self.trunk(name).grid_hw)

    @functools.cache  # noqa: B019 - lives as long as the module's fixture
    def maps(self, name: str, weighting: bool = False) -> ScoreMaps:
        """In a batch with an image of another size."""
        options = cliptrase.Options(**self.given, class_token_weighting=weighting)
        method = cliptrase.build(options, self.backbones)
        images = [self.square(name), reference.image("img1")[:, 8:]]
        return method.score(encode_images(method, images), self.text(len(self.rows)))

    def text(self, foreground: int) -> TextMatrix:
        """The rows from number `foreground` on are one class."""
        index = torch.arange(len(self.rows)).clamp(max=foreground)
        return TextMatrix(self.rows, index, int(index.max()) + 1)

    def region_map(self, name: str) -> Tensor:
        regions = self.maps(name).regions
        assert regions is not None
        return regions[0][0].to(torch.uint8)

    def logits_up(self, name: str) -> Tensor:
        maps = self.maps(name)
        rows = score_map(maps, 0, (self.side, self.side)).rows(slice(0, self.side))
        step = slice(None, None, 4)
        return rows[None, :, step, step] * maps.logit_scale

    def labels(self, maps: ScoreMaps) -> NDArray[np.uint8]:
        sizes = [(self.side, self.side), (50, 70)]
        return decide(maps, sizes)[0].label_map.astype(np.uint8)

    def labels_voc21(self, name: str) -> NDArray[np.uint8]:
        maps = self.maps(name)
        foreground = reference.constants("cliptrase")["foreground_classes_voc21"]
        text = self.text(foreground)
        assert maps.rule is not None
        rule = replace(maps.rule, class_index_Q=text.class_index_Q, num_classes=text.num_classes)
        return self.labels(replace(maps, rule=rule))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(scope="module")
def checks(folder: Path) -> list[tuple[str, Callable[..., Any]]]:
    backbones = reference.backbones(folder, reference.constants("cliptrase")["activation"])

    @functools.cache
    def at(side: str) -> Stages:
        return Stages(int(side), backbones)

    def before_vote(side: str, image: str) -> NDArray[np.uint8]:
        stages = at(side)
        return stages.labels(replace(stages.maps(image), regions=None))

    each = r"R(?P<side>\d+)\.(?P<image>[^.]+)\."
    return [
        (each + "pixels", lambda side, image: at(side).pixels(image)[..., ::4, ::4]),
        (each + "features", lambda side, image: at(side).features(image)),
        (each + "corr", lambda side, image: at(side).corr(image)),
        (each + "Att", lambda side, image: at(side).att(image)),
        (each + "cluster_labels", lambda side, image: at(side).clusters(image)),
        (each + "logits_up", lambda side, image: at(side).logits_up(image)),
        (each + "prototypes_x4", lambda side, image: at(side).prototypes(image)),
        (
            each + "prototypes_median",
            lambda side, image: median_filtered(at(side).prototypes(image)),
        ),
        (each + "region_map", lambda side, image: at(side).region_map(image)),
        (each + "labels_before_vote", before_vote),
        (each + "labels_plain", lambda side, image: at(side).labels(at(side).maps(image))),
        (
            each + "labels_voc20",
            lambda side, image: at(side).labels(at(side).maps(image, weighting=True)),
        ),
        (each + "labels_voc21", lambda side, image: at(side).labels_voc21(image)),
    ]


def compared() -> list[str]:
    """All keys but the inputs."""
    return [key for key in reference.keys("cliptrase") if key not in ("constants", "text")]


@pytest.mark.parametrize("key", compared())
def test_cliptrase_is_the_authors(key: str, checks: list[tuple[str, Callable[..., Any]]]) -> None:
    ours, theirs = reference.computed(key, checks), reference.tensors("cliptrase")[key]
    name = key.rpartition(".")[2]
    if name == "region_map" or name.startswith("labels_"):
        reference.assert_same_labels(ours, theirs)
    else:
        tolerance = LOGIT_TOLERANCE if name == "logits_up" else reference.TOLERANCE
        reference.assert_alike(ours, theirs, tolerance)
