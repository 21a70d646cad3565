"""CLIP-DIY, stage by stage, against the authors' evaluation script."""

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.backbones.clip import Clip
from ovseg_core.decision.decide import decide
from ovseg_core.decision.values import complement_product
from ovseg_core.images.resize.bilinear import MeanMap
from ovseg_core.methods.clip_diy import ClipDiy, CropFeatures, Options, build
from ovseg_core.segmenter import ScoreMaps, TextMatrix, encode_images
from schemas.config import NamedOptions
from tests.golden import reference

SAMPLED_CROPS = ((0, 0), (1, 4), (2, 10))
"""(scale, crop of that scale) of the pixels that the set keeps (README)."""


def _step(name: str) -> slice:
    """A stride as the constants write it: `::8`."""
    return slice(None, None, int(reference.constants("clip_diy")[name].removeprefix("::")))


class Stages:
    """Every stage of the method for one set of reference weights; each is computed once."""

    def __init__(self, method: ClipDiy, clip: Clip) -> None:
        self.method = method
        self.clip = clip
        rows = torch.from_numpy(reference.tensors("clip_diy")["text"])
        self.text = TextMatrix(rows, torch.arange(len(rows)), len(rows))

    @functools.cached_property
    def names(self) -> list[str]:
        kept = (key.rpartition(".")[0] for key in reference.tensors("clip_diy"))
        return sorted({name for name in kept if name})

    @functools.cached_property
    def features(self) -> CropFeatures:
        """All images in one batch, whatever their sizes."""
        return encode_images(self.method, [reference.image(name) for name in self.names])

    @functools.cached_property
    def maps(self) -> ScoreMaps:
        return self.method.score(self.features, self.text)

    def index(self, image: str) -> int:
        return self.names.index(image)

    def image256(self, image: str) -> Tensor:
        return self.method.squash(reference.image(image))

    def saliency(self, image: str) -> Tensor:
        return self.features.objectness[self.index(image)]

    def pixels(self, image: str) -> Tensor:
        crops = self.method.pyramid.cut(self.image256(image)[None], self.clip.input_px)[0]
        counts = [level.shape[1] * level.shape[2] for level in self.maps.levels[0]]
        places = [sum(counts[:scale]) + number for scale, number in SAMPLED_CROPS]
        return self.clip.normalise(crops[places])

    def embeddings(self, image: str) -> Tensor:
        return self.features.crops_BND[self.index(image)]

    def cosines(self, image: str, scale: str) -> Tensor:
        return self.maps.levels[self.index(image)][int(scale)]

    def enlarged(self, image: str, scale: str) -> Tensor:
        level = self.cosines(image, scale)
        return MeanMap([level], self.maps.canvas_hw).rows(slice(0, self.maps.canvas_hw[0]))

    def mean(self, image: str) -> Tensor:
        scales = range(len(self.maps.levels[0]))
        return torch.stack([self.enlarged(image, str(scale)) for scale in scales]).mean(0)

    def fused(self, image: str) -> Tensor:
        return complement_product(self.mean(image), self.saliency(image))

    def labels(self, image: str, maps: ScoreMaps | None = None) -> NDArray[np.uint16]:
        sizes = [reference.image(name).shape[1:] for name in self.names]
        return decide(maps or self.maps, sizes)[self.index(image)].label_map

    def labels_no_saliency(self, image: str) -> NDArray[np.uint16]:
        without = replace(self.features, objectness=None)
        return self.labels(image, self.method.score(without, self.text))


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    folder = tmp_path_factory.mktemp("golden")
    constants = reference.constants("clip_diy")
    backbones = reference.backbones(folder, constants["activation"])
    head = {"head": reference.found_head(folder)}
    options = Options(
        scales=tuple(constants["crop_sizes"]),
        stride_divisor=constants["stride_div"],
        objectness=NamedOptions(name="found", options=head),
    )
    return Stages(build(options, backbones), backbones.clip)


@pytest.fixture(scope="module")
def checks(stages: Stages) -> list[tuple[str, Callable[..., Any]]]:
    coarse, fine = _step("map_sub"), _step("mean_sub")
    return [
        (r"text", lambda: stages.text.rows_QD),
        (r"constants", lambda: stages.clip.input_px),
        (r"(?P<image>.+)\.image256", stages.image256),
        (r"(?P<image>.+)\.saliency256", stages.saliency),
        (r"(?P<image>.+)\.pixels_sample", stages.pixels),
        (r"(?P<image>.+)\.crop_embeds", stages.embeddings),
        (r"(?P<image>.+)\.scale(?P<scale>\d)_patch_cosines", stages.cosines),
        (
            r"(?P<image>.+)\.scale(?P<scale>\d)_map_sub",
            lambda image, scale: stages.enlarged(image, scale)[:, coarse, coarse],
        ),
        (r"(?P<image>.+)\.mean_map", lambda image: stages.mean(image)[:, fine, fine]),
        (r"(?P<image>.+)\.fused_map", lambda image: stages.fused(image)[:, fine, fine]),
        (r"(?P<image>.+)\.labels", stages.labels),
        (r"(?P<image>.+)\.labels_no_saliency", stages.labels_no_saliency),
    ]


@pytest.mark.parametrize("key", reference.keys("clip_diy"))
def test_clip_diy_is_the_authors(key: str, checks: list[tuple[str, Callable[..., Any]]]) -> None:
    expected = reference.tensors("clip_diy")[key]
    ours = reference.computed(key, checks)
    if key == "constants":
        assert int(ours) == json.loads(str(expected))["encoder_input"]
    elif key.endswith((".labels", ".labels_no_saliency")):
        reference.assert_same_labels(ours, expected)
    else:
        reference.assert_alike(ours, expected)
