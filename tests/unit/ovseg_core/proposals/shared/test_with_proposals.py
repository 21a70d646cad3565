"""Methods with proposals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ovseg_core.decision.decide import decide
from ovseg_core.images.batch import ImageBatch
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.methods import build_segmenter, check_options
from ovseg_core.proposals import build_proposer
from ovseg_core.proposals.shared.with_proposals import WithoutInstances, WithProposals
from ovseg_core.segmenter import MethodOptions, ScoreMaps, TextMatrix, encode_images
from schemas.config import MaskConfig, NamedOptions
from schemas.errors import ConfigError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones

SIZE_HW = (30, 45)
WORDS = Vocabulary.model_validate(["cat", "dog", "sofa"])


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, Any]:
    """Return the proposer of two images: one region everywhere, one in the right half."""
    (tmp_path / "b").mkdir()
    whole = np.ones((1, 2), np.uint8)
    Image.fromarray(whole).save(tmp_path / "a.png")
    Image.fromarray(whole * np.array([0, 1], np.uint8)).save(tmp_path / "b" / "c.png")
    return {"name": "folder", "options": {"folder": str(tmp_path)}}


def maps_of(method: str, masks: MaskConfig | None = None, **options: Any) -> ScoreMaps:
    part = NamedOptions(name=method, options=options)
    segmenter = build_segmenter(part, tiny_backbones(), masks or MaskConfig())
    images = tuple(random_image(seed, *SIZE_HW) for seed in range(2))
    batch = ImageBatch(images, ("a.jpg", "b/c.jpg"))
    return segmenter.score(encode_images(segmenter, batch), segmenter.text_matrix(WORDS))


def label_maps(maps: ScoreMaps) -> list[np.ndarray]:
    return [one.label_map for one in decide(maps, [SIZE_HW] * 2)]


@pytest.mark.parametrize("method", ["sclip", "clip_diy", "clip_surgery"])
def test_majority_label_wins_in_each_proposal_of_any_method(
    method: str, folder: dict[str, Any]
) -> None:
    plain_a, plain_b = label_maps(maps_of(method))
    voted_a, voted_b = label_maps(maps_of(method, proposals=folder))
    assert len(np.unique(plain_a)) > 1
    assert (voted_a == np.bincount(plain_a.ravel()).argmax()).all()
    half = (plain_b.shape[1] + 1) // 2
    np.testing.assert_array_equal(voted_b[:, :half], plain_b[:, :half])
    assert (voted_b[:, half:] == np.bincount(plain_b[:, half:].ravel()).argmax()).all()


def test_the_vote_can_be_left_out(folder: dict[str, Any]) -> None:
    plain = label_maps(maps_of("sclip"))
    unvoted = label_maps(maps_of("sclip", proposals=folder, region_vote=False))
    np.testing.assert_array_equal(plain, unvoted)


def test_proposals_reach_the_decision_only_for_instances(folder: dict[str, Any]) -> None:
    assert maps_of("sclip", proposals=folder).proposals is None
    found = maps_of("sclip", MaskConfig(segments="instances"), proposals=folder).proposals
    assert found is not None
    assert [len(one) for one in found] == [1, 1]
    assert (found[0].masks_Nhw > 0).all()


class FindsLeftHalf:
    """A method that finds one instance of its first label in every image."""

    decode_side_px = 0

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        num = 1 + len(vocabulary.labels)
        return TextMatrix(torch.eye(num), torch.arange(num), num)

    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        return list(images)

    def score(self, features: list[Tensor], text: TextMatrix) -> ScoreMaps:
        masks = torch.tensor([1.0, -1.0]).expand(1, 2, 2)
        probs = torch.zeros(1, text.num_classes).index_fill(1, torch.tensor(1), 0.7)
        found = Proposals(masks, torch.tensor([0.9]), None, probs)
        return ScoreMaps(
            levels=((torch.rand(text.num_classes, 2, 2),),) * len(features),
            canvas_hw=None,
            objectness=None,
            fusion="none",
            domain="prob",
            logit_scale=1.0,
            proposals=(found,) * len(features),
        )


def test_a_methods_own_instances_come_before_proposals(folder: dict[str, Any]) -> None:
    options = MethodOptions()
    proposer = build_proposer(NamedOptions.model_validate(folder), tiny_backbones())
    assert proposer is not None
    images = tuple(random_image(seed, *SIZE_HW) for seed in range(2))
    batch = ImageBatch(images, ("a.jpg", "b/c.jpg"))
    for instances in (True, False):
        method = WithProposals(FindsLeftHalf(), proposer, options, instances=instances)
        maps = method.score(encode_images(method, batch), method.text_matrix(WORDS))
        for decision in decide(maps, [SIZE_HW] * 2):
            segments = decision.instances
            assert (segments is not None) == instances
            if segments is not None:
                assert segments.labels.tolist() == [1]
                assert segments.rles[0].bbox_xywh == (0, 0, 22, 30)


def test_a_methods_own_instances_are_left_out_of_other_masks() -> None:
    method = WithoutInstances(FindsLeftHalf())
    images = [random_image(seed, *SIZE_HW) for seed in range(2)]
    maps = method.score(encode_images(method, images), method.text_matrix(WORDS))
    assert [one.instances for one in decide(maps, [SIZE_HW] * 2)] == [None, None]


def test_instances_without_proposals_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--set method\.options\.proposals=sam"):
        check_options(NamedOptions(name="sclip"), MaskConfig(segments="instances"))
    with pytest.raises(ConfigError, match="needs proposals"):
        maps_of("sclip", MaskConfig(segments="instances"))


def test_a_refinement_without_a_proposer_that_takes_prompts_is_refused(
    folder: dict[str, Any],
) -> None:
    for proposals, name in (({"name": "none"}, "none"), (folder, "folder")):
        options = {"refine_masks": True, "proposals": proposals}
        message = rf"refine_masks: .* is `{name}`; add --set method\.options\.proposals=sam"
        with pytest.raises(ConfigError, match=message):
            check_options(NamedOptions(name="sclip", options=options))


def test_a_folder_of_masks_is_not_a_url() -> None:
    part = {"name": "folder", "options": {"folder": "s3://bucket/masks"}}
    with pytest.raises(ConfigError, match=r"folder: expected a local folder"):
        check_options(NamedOptions(name="sclip", options={"proposals": part}))


@pytest.mark.parametrize("method", ["clearclip", "naclip", "sclip"])
def test_limited_attention_changes_patches_of_proposals_only(method: str, tmp_path: Path) -> None:
    index = np.zeros((2, 15), np.uint8)
    Image.fromarray(index).save(tmp_path / "a.png")
    index[:, :4], index[:, 4:] = 1, 2
    (tmp_path / "b").mkdir()
    Image.fromarray(index).save(tmp_path / "b" / "c.png")
    folder = {"name": "folder", "options": {"folder": str(tmp_path)}}
    plain = maps_of(method).levels
    limited = maps_of(method, proposals=folder, limited_attention=True, region_vote=False).levels
    torch.testing.assert_close(limited[0][0], plain[0][0])
    assert not torch.allclose(limited[1][0], plain[1][0])


def test_limited_attention_needs_proposals() -> None:
    with pytest.raises(ConfigError, match="limited_attention: needs `proposals`"):
        check_options(NamedOptions(name="sclip", options={"limited_attention": True}))
    with pytest.raises(ConfigError, match="limited_attention: unknown"):
        check_options(NamedOptions(name="maskclip", options={"limited_attention": True}))
