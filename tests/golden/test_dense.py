"""What CLIP-DINOiser's file holds of MaskCLIP and of the two networks' maps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.geometry import pad_br
from ovseg_core.methods import maskclip
from ovseg_core.objectness import found
from ovseg_core.segmenter import TextMatrix
from ovseg_core.value_path import ValueReader
from tests.golden import reference

READ = ("maskclip_feat", "maskclip_prob", "tap_ln2", "dino_v_unit", "found_prob_patch8")
"""The tensors of the parts that exist; the rest of the file belongs to CLIP-DINOiser itself."""


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Callable[..., Any]]]:
    folder = tmp_path_factory.mktemp("golden")
    constants = reference.constants("clip_dinoiser")
    backbones = reference.backbones(folder, constants["activation"])
    teacher = reference.backbones(folder, constants["activation"], vision="dino16").vision
    options = maskclip.Options(short_side_px=0, window_px=0, logit_scale=constants["temperature"])
    method = maskclip.build(options, backbones)
    head = found.build(found.Options(head=reference.found_head(folder)), backbones)
    rows = reference.weights()["text.matrix"]
    text = TextMatrix(rows, torch.arange(len(rows)), len(rows))

    def padded(image: str) -> Tensor:
        return pad_br(reference.image(image)[None], backbones.clip.patch_px)

    def probabilities(image: str) -> Tensor:
        features = method.encode([reference.image(image)])
        return method.score(features, text).levels[0][0][None]

    def tap(image: str) -> Tensor:
        block = constants["feats_idx"]
        return backbones.clip.trunk(padded(image), "size", [block]).taps[block][:, 1:]

    def values(image: str) -> Tensor:
        values = teacher.feature_map(teacher.run(padded(image)), "v")
        return F.normalize(values, dim=1).flatten(2)

    def foreground(image: str) -> Tensor:
        return head.patch_logits(backbones.vision.run(padded(image))).sigmoid()

    def features(image: str) -> Tensor:
        reader = ValueReader(backbones.clip, options)
        return reader.finish(reader.read(backbones.clip.normalise(padded(image))))

    return [
        (r"(?P<image>.+)\.maskclip_feat", features),
        (r"(?P<image>.+)\.maskclip_prob", probabilities),
        (r"(?P<image>.+)\.tap_ln2", tap),
        (r"(?P<image>.+)\.dino_v_unit", values),
        (r"(?P<image>.+)\.found_prob_patch8", foreground),
    ]


@pytest.mark.parametrize(
    "key", [key for key in reference.keys("clip_dinoiser") if key.endswith((*READ, "missing"))]
)
def test_dense_maps_are_the_authors(key: str, checks: list[tuple[str, Callable[..., Any]]]) -> None:
    ours = reference.computed(key, checks)
    reference.assert_alike(ours, reference.tensors("clip_dinoiser")[key])
