"""Proposals of SAM and SAM 2."""

from pathlib import Path

import pytest
import torch

from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.proposals import Proposer, build_proposer
from ovseg_core.proposals.sam import point_grid, stability
from ovseg_core.proposals.shared.overlaps import mask_boxes
from schemas.config import NamedOptions
from tests.helpers.tiny_models import random_image, tiny_backbones
from tests.helpers.tiny_sams import write_sam

IMAGES = [random_image(0, 60, 90), random_image(1, 48, 33)]


@pytest.fixture(scope="module", params=["sam", "sam2"])
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_sam(tmp_path_factory.mktemp(f"{request.param}-"), request.param)


def proposer(weights: str, **options: object) -> Proposer:
    given = {"weights": weights, "points_per_side": 4, "stability_offset": 1e-4, **options}
    built = build_proposer(NamedOptions(name="sam", options=given), tiny_backbones())
    assert built is not None
    return built


def test_an_image_has_the_same_proposals_alone_and_in_a_batch(weights: str) -> None:
    found = proposer(weights, min_predicted_iou=0.0)
    together = found.proposals(IMAGES)
    assert all(len(one) for one in together)
    for image, expected in zip(IMAGES, together, strict=True):
        (alone,) = found.proposals([image])
        torch.testing.assert_close(alone.scores_N, expected.scores_N, atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.masks_Nhw, expected.masks_Nhw, atol=2e-2, rtol=1e-2)


def test_proposals_come_by_falling_score_and_cover_no_padding(weights: str) -> None:
    (wide, tall) = proposer(weights, min_predicted_iou=0.0).proposals(IMAGES)
    for one in (wide, tall):
        assert (one.scores_N.diff() <= 0).all()
        assert 0 <= one.scores_N.min() <= one.scores_N.max() <= 1
    if "sam2" not in weights:
        assert wide.masks_Nhw.shape[1:] == (32, 48)
        assert tall.masks_Nhw.shape[1:] == (48, 33)


def test_no_two_proposals_have_nearly_the_same_box(weights: str) -> None:
    from torchvision.ops import box_iou

    for one in proposer(weights, min_predicted_iou=0.0, max_box_iou=0.6).proposals(IMAGES):
        boxes = mask_boxes(one.masks_Nhw > 0)
        ious = box_iou(boxes, boxes).fill_diagonal_(0)
        assert ious.nan_to_num().max() <= 0.6


def test_thresholds_drop_masks_down_to_none(weights: str) -> None:
    def number(**options: object) -> list[int]:
        return [len(one) for one in proposer(weights, **options).proposals(IMAGES)]

    many = number(min_predicted_iou=0.0)
    assert number(min_predicted_iou=0.0, max_proposals=1) == [1, 1]
    assert all(few <= all_ for few, all_ in zip(number(min_predicted_iou=0.9), many, strict=True))
    none = proposer(weights, min_stability=1.0).proposals(IMAGES)
    assert [len(one) for one in none] == [0, 0]
    assert (none[0].region_map() == -1).all()


def test_tiny_and_narrow_images_are_taken(weights: str) -> None:
    sizes = [(1, 1), (1, 40), (7, 3), (2, 600), (600, 2)]
    images = [random_image(seed, *size) for seed, size in enumerate(sizes)]
    for one in proposer(weights, min_predicted_iou=0.0).proposals(images):
        assert isinstance(one, Proposals)


def test_the_run_knows_the_weights_file(weights: str) -> None:
    backbones = tiny_backbones()
    build_proposer(NamedOptions(name="sam", options={"weights": weights}), backbones)
    folder = Path(weights.removeprefix("local-dir:"))
    assert backbones.files()["sam"] == str(folder / "model.safetensors")


def test_points_are_centres_of_cells_by_row() -> None:
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_stability_is_the_iou_of_a_mask_at_two_thresholds() -> None:
    masks = torch.tensor([[[2.0, 0.5, -0.5, -2]], [[2, 2, 2, 2]], [[-2, -2, -2, -2]]])
    assert stability(masks, 1.0).tolist() == pytest.approx([1 / 3, 1, 0])


def test_large_images_are_looked_at_in_tiles_as_well(weights: str) -> None:
    images = [random_image(0, 100, 150), random_image(1, 60, 64)]
    plain = proposer(weights, min_predicted_iou=0.0).proposals(images)
    tiled = proposer(weights, min_predicted_iou=0.0, tile_px=64, max_proposals=40)
    assert tiled.decode_side_px == 0
    large, small = tiled.proposals(images)
    assert len(large) > len(plain[0])
    assert len(large) <= 40
    assert torch.equal(small.masks_Nhw, plain[1].masks_Nhw)
