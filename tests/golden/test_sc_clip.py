"""SC-CLIP against the authors' repository."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.dense.outliers import local_outlier_factor
from ovseg_core.methods.sc_clip import Options, SelfCalibratedEncoder
from tests.golden import reference


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Callable[..., Any]]]:
    constants = reference.constants("sc_clip")
    folder = tmp_path_factory.mktemp("golden")
    clip = reference.backbones(folder, constants["activation"]).clip
    options = Options(
        middle_block=constants["pre_adjust_idx"],
        early_block=constants["post_adjust_idx"],
        summed_blocks=(constants["multi_start_idx"], constants["multi_end_idx"]),
        class_token_weight=constants["res_cls"],
        beta=constants["beta"],
        outlier_neighbours=constants["n_neighbors"],
        outlier_share=constants["contamination"],
        position_rule=constants["position_rule"],
    )
    encoder = SelfCalibratedEncoder(clip, options)

    def pixels(image: str) -> Tensor:
        return clip.normalise(reference.image(image)[None])

    def trunk(image: str) -> TrunkFeatures:
        return encoder.encode_trunk(pixels(image))

    def dense(image: str) -> Tensor:
        return encoder.encode_dense(trunk(image)).patches_BDhw

    def cosine(image: str) -> Tensor:
        unit = torch.nn.functional.normalize(dense(image), dim=1)
        return torch.einsum("qd,bdhw->bqhw", reference.weights()["text.matrix"], unit)

    def factor(image: str) -> Tensor:
        patches = trunk(image).tokens_BLC[:, 1:]
        return local_outlier_factor(patches, constants["n_neighbors"])[0]

    def outliers(image: str) -> Tensor:
        return encoder.outliers(trunk(image))[0].nonzero()[:, 0]

    return [
        (r"(?P<image>.+)\.features", lambda image: dense(image).flatten(2).transpose(1, 2)),
        (r"(?P<image>.+)\.cosine", cosine),
        (r"(?P<image>.+)\.outliers", outliers),
        (r"(?P<image>.+)\.lof", factor),
    ]


@pytest.mark.parametrize("key", reference.keys("sc_clip"))
def test_sc_clip_is_the_authors(key: str, checks: list[tuple[str, Callable[..., Any]]]) -> None:
    if key != "constants":
        reference.assert_alike(reference.computed(key, checks), reference.tensors("sc_clip")[key])
