"""FOUND and its training-free background, against the authors' repository."""

import functools
from typing import Any

import pytest
from torch import Tensor

from ovseg_core.backbones.vision.vit import VitFeatures
from ovseg_core.objectness import found, found_bkg
from tests.golden import reference


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Any]]:
    folder = tmp_path_factory.mktemp("golden")
    backbones = reference.backbones(folder)
    constants = reference.constants("found")
    assert backbones.vision.patch_px == constants["patch"]
    head = found.build(found.Options(head=reference.found_head(folder)), backbones)
    options = found_bkg.Options(threshold=constants["bkg_threshold"], epsilon=constants["eps"])
    background = found_bkg.build(options, backbones)

    @functools.cache
    def state(image: str) -> VitFeatures:
        return backbones.vision.forward_trunk(reference.image(image)[None])

    def keys(image: str) -> Tensor:
        return backbones.vision.features_of(state(image), "k")

    return [
        (r"(?P<image>.+)\.k_feats", keys),
        (r"(?P<image>.+)\.patch_logits", lambda image: head.patch_logits(state(image))),
        (r"(?P<image>.+)\.prob", lambda image: head.maps([reference.image(image)])[0]),
        (
            r"(?P<image>.+)\.cls_attention",
            lambda image: backbones.vision.class_attention(state(image)),
        ),
        (r"(?P<image>.+)\.bkg_mask", lambda image: background.background(state(image))),
        (r"constants", lambda: reference.tensors("found")["constants"]),
    ]


@pytest.mark.parametrize("key", reference.keys("found"))
def test_found_equals_the_authors(key: str, checks: list[tuple[str, Any]]) -> None:
    expected = reference.tensors("found")[key]
    ours = reference.computed(key, checks)
    if expected.dtype.kind == "U":
        assert str(ours) == str(expected)
    else:
        reference.assert_alike(ours, expected)
