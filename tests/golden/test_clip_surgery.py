"""CLIP Surgery, its display maps and its points against the authors' repository."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.dense.encoder import DenseFeatures
from ovseg_core.dense.scoring import surgery_rows
from ovseg_core.images.resize.pillow_passes import BICUBIC, resize_in_passes
from ovseg_core.methods import clip_surgery
from ovseg_core.methods.clip_surgery import display_maps, point_prompts
from ovseg_core.segmenter import TextMatrix, encode_images
from tests.golden import reference


class Stages:
    """Every stage of the method at one size."""

    def __init__(self, side: int, backbones: Any) -> None:
        constants = reference.constants("clip_surgery")
        self.side = side
        self.clip = backbones.clip
        options = clip_surgery.Options(
            short_side_px=side, second_path_blocks=constants["blocks"], logit_scale=1.0
        )
        self.encoder = clip_surgery.SurgeryEncoder(self.clip, options, constants["blocks"])
        self.method = clip_surgery.build(options, backbones)
        rows = reference.weights()["text.matrix"]
        self.text = TextMatrix(rows, torch.arange(len(rows)), len(rows))

    def pixels(self, name: str) -> Tensor:
        squashed = resize_in_passes(reference.image(name), (self.side, self.side), BICUBIC)
        return self.clip.normalise(squashed)[None]

    @functools.cache  # noqa: B019 - lives as long as the module's fixture
    def dense(self, name: str) -> DenseFeatures:
        return self.encoder.encode_dense(self.encoder.encode_trunk(self.pixels(name)))

    def features_raw(self, name: str) -> Tensor:
        dense = self.dense(name)
        return torch.cat([dense.class_tokens_BD[:, None], dense.patches_BDhw.flatten(2).mT], dim=1)

    def features(self, name: str) -> Tensor:
        return torch.nn.functional.normalize(self.features_raw(name), dim=2)

    def plain_similarity(self, name: str) -> Tensor:
        return self.features(name) @ self.text.rows_QD.T

    def surgery_similarity(self, name: str) -> Tensor:
        """The row of the class token by the formula; the patches' as production code has them."""
        features = self.features(name)
        rows = surgery_rows(features[:, 0], self.text.rows_QD)
        return torch.cat([features[:, :1] @ rows.mT, self.scores(name).flatten(2).mT], dim=1)

    def surgery_redundant(self, name: str, empty: Tensor, count: int) -> Tensor:
        some = TextMatrix(self.text.rows_QD[:count], torch.arange(count), count)
        features = DenseFeatures(self.features(name).mT[..., None])
        scores = clip_surgery.without_empty_text(features, some, empty)
        return scores[..., 0].mT

    def scores(self, name: str) -> Tensor:
        """(1, Q, h, w), from a batch with an image of another size."""
        images = [reference.image(name), reference.image("img1")[:, 8:]]
        maps = self.method.score(encode_images(self.method, images), self.text)
        return maps.levels[0][0][None]

    def similarity_map(self, name: str) -> Tensor:
        height, width = reference.image(name).shape[1:]
        step = slice(None, None, int(reference.constants("clip_surgery")["sub"].removeprefix("::")))
        return display_maps(self.scores(name)[0], (height, width))[:, step, step]

    def points(self, name: str, query: str) -> tuple[Tensor, Tensor]:
        height, width = reference.image(name).shape[1:]
        threshold = reference.constants("clip_surgery")["t"]
        return point_prompts(self.scores(name)[0, int(query)], (height, width), threshold)


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Callable[..., Any]]]:
    folder = tmp_path_factory.mktemp("golden")
    backbones = reference.backbones(folder, reference.constants("clip_surgery")["activation"])

    @functools.cache
    def at(side: str) -> Stages:
        return Stages(int(side), backbones)

    def redundant(side: str, image: str) -> Tensor:
        empty = torch.from_numpy(reference.tensors("clip_surgery")["redundant_text"])[0]
        theirs: NDArray[Any] = reference.tensors("clip_surgery")[
            f"R{side}.{image}.surgery_redundant"
        ]
        return at(side).surgery_redundant(image, empty, theirs.shape[-1])

    def stage(name: str) -> tuple[str, Callable[..., Any]]:
        return each + name, lambda side, image: getattr(at(side), name)(image)

    each = r"R(?P<side>\d+)\.(?P<image>[^.]+)\."
    names = ["features_raw", "features", "plain_similarity", "surgery_similarity"]
    return [
        *(stage(name) for name in [*names, "similarity_map"]),
        (each + "pixels", lambda side, image: at(side).pixels(image)[..., ::4, ::4]),
        (each + "surgery_redundant", redundant),
        (
            each + r"points_q(?P<query>\d+)",
            lambda side, image, query: at(side).points(image, query)[0],
        ),
        (
            each + r"point_labels_q(?P<query>\d+)",
            lambda side, image, query: at(side).points(image, query)[1],
        ),
    ]


def compared() -> list[str]:
    """All keys but the inputs."""
    inputs = ("constants", "redundant_text")
    return [key for key in reference.keys("clip_surgery") if key not in inputs]


@pytest.mark.parametrize("key", compared())
def test_clip_surgery_is_the_authors(
    key: str, checks: list[tuple[str, Callable[..., Any]]]
) -> None:
    theirs = reference.tensors("clip_surgery")[key]
    reference.assert_alike(np.asarray(reference.computed(key, checks)), theirs)
