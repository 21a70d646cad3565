"""Instances of an image: what proposals become at the decision."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ovseg_core.decision.decide import decide
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.rle.encode import decode_rle
from ovseg_core.segmenter import ScoreMaps
from schemas.config import Calibration, MaskConfig
from schemas.records import Annotation

SIZES = [(60, 90), (48, 40)]
NAMES = ("cat", "dog", "sofa")
CONFIG = MaskConfig(segments="instances")


def ellipse(size_hw: tuple[int, int], row: float, column: float, radius: float) -> torch.Tensor:
    """Return a mask (h, w) that is above 0 in a circle; places are shares of the image."""
    rows = (torch.arange(size_hw[0]) + 0.5)[:, None] - row * size_hw[0]
    columns = (torch.arange(size_hw[1]) + 0.5)[None] - column * size_hw[1]
    return radius - (rows**2 + columns**2).sqrt()


def score_maps(**changes: object) -> ScoreMaps:
    """Return maps of two images: cat left, dog right, background in the lower third."""
    levels = []
    for size_hw in ((30, 45), (24, 20)):
        level = torch.zeros(4, *size_hw)
        half, third = size_hw[1] // 2, size_hw[0] * 2 // 3
        level[1, :, :half] = level[2, :, half:] = 0.1
        level[0, third:] = 0.2
        levels.append((level,))
    values = {
        "levels": tuple(levels),
        "canvas_hw": None,
        "objectness": None,
        "fusion": "none",
        "domain": "cosine",
        "logit_scale": 40.0,
        "proposals": tuple(map(proposals, SIZES)),
        **changes,
    }
    return ScoreMaps(**values)  # type: ignore[arg-type]


def proposals(size_hw: tuple[int, int]) -> Proposals:
    """Return circles: two cats that overlap, a dog, a part of it, and one on background."""
    places = [(0.3, 0.15, 8.0), (0.3, 0.3, 8.0), (0.3, 0.8, 8.0), (0.3, 0.8, 4.0), (0.85, 0.5, 4.0)]
    masks = torch.stack([ellipse(size_hw, *place) for place in places])
    return Proposals(masks, torch.tensor([0.9, 0.8, 0.7, 0.95, 0.9]))


def segments_of(maps: ScoreMaps, config: MaskConfig = CONFIG) -> list[tuple[Annotation, ...]]:
    return [
        image_rows(decision, size_hw, NAMES, config).segments
        for decision, size_hw in zip(decide(maps, SIZES), SIZES, strict=True)
    ]


def masks_of(segments: tuple[Annotation, ...]) -> list[NDArray[np.uint8]]:
    return [decode_rle(one.rle_counts, (one.height, one.width)) for one in segments]


def test_each_object_becomes_one_instance_of_its_label() -> None:
    for segments, size_hw in zip(segments_of(score_maps()), SIZES, strict=True):
        assert [one.label for one in segments] == ["cat", "cat", "dog"]
        assert [one.segment_index for one in segments] == [0, 1, 2]
        assert {one.kind for one in segments} == {"instance"}
        assert [round(one.proposal_score, 3) for one in segments] == [0.9, 0.8, 0.7]
        shapes = proposals(size_hw).masks_Nhw[:3] > 0
        np.testing.assert_array_equal(np.stack(masks_of(segments)), shapes.numpy())
    first, second, _ = masks_of(segments_of(score_maps())[0])
    assert (first & second).any(), "two cats overlap"


def test_masks_are_enlarged_to_the_image() -> None:
    small = tuple(
        Proposals(torch.nn.functional.avg_pool2d(one.masks_Nhw[None], 4)[0], one.scores_N)
        for one in map(proposals, SIZES)
    )
    for segments, one, size_hw in zip(
        segments_of(score_maps(proposals=small)), small, SIZES, strict=True
    ):
        expected = one.enlarged(size_hw)[:3].numpy()
        np.testing.assert_array_equal(np.stack(masks_of(segments)), expected)


def test_scores_are_means_over_the_pixels_of_the_mask() -> None:
    levels = tuple(
        (torch.randn(4, *size_hw, generator=torch.Generator().manual_seed(0)) / 20,)
        for size_hw in SIZES
    )
    maps = score_maps(levels=levels)
    for segments, (level,) in zip(segments_of(maps), levels, strict=True):
        probs = (level.double() * 40).softmax(0)
        entropy = -(probs * probs.log()).sum(0) / np.log(4)
        for segment, mask in zip(segments, masks_of(segments), strict=True):
            inside = torch.from_numpy(mask.astype(bool))
            own = probs[segment.category_id][inside]
            others = torch.cat([probs[: segment.category_id], probs[segment.category_id + 1 :]])
            margin = (own - others.amax(0)[inside]).clamp(min=0)
            assert segment.mean_prob == pytest.approx(float(own.mean()), abs=1e-5)
            assert segment.margin_mean == pytest.approx(float(margin.mean()), abs=1e-5)
            assert segment.margin_p10 == pytest.approx(float(margin.quantile(0.1)), abs=6e-3)
            assert segment.entropy_mean == pytest.approx(float(entropy[inside].mean()), abs=1e-5)
            assert segment.area_px == mask.sum()
            assert segment.num_components == 1


def test_words_of_the_source_decide_where_it_knows_them() -> None:
    probs = torch.zeros(5, 4)
    probs[:, 3] = 0.6
    known = tuple(
        Proposals(one.masks_Nhw, one.scores_N, None, probs) for one in map(proposals, SIZES)
    )
    for segments in segments_of(score_maps(proposals=known)):
        assert {one.label for one in segments} == {"sofa"}
        assert {round(one.mean_prob, 6) for one in segments} == {0.6}
        assert len(segments) == 4


def test_no_proposals_are_no_instances() -> None:
    none = Proposals(torch.zeros(0, 8, 8), torch.zeros(0))
    assert segments_of(score_maps(proposals=(none, none))) == [(), ()]


def test_small_ones_and_improbable_ones_are_dropped() -> None:
    config = MaskConfig(segments="instances", min_area_px=10_000)
    assert segments_of(score_maps(), config) == [(), ()]
    calibration = Calibration(
        method="sclip", scores=(0.0, 1.0), probabilities=(0.0, 1.0), thresholds={"cat": 1.0}
    )
    decision = decide(score_maps(), SIZES)[0]
    rows = image_rows(decision, SIZES[0], NAMES, CONFIG, calibration)
    assert [one.label for one in rows.segments] == ["dog"]


def test_the_label_map_is_that_without_instances() -> None:
    for with_them, without in zip(
        decide(score_maps(), SIZES), decide(score_maps(proposals=None), SIZES), strict=True
    ):
        np.testing.assert_array_equal(with_them.label_map, without.label_map)
        assert without.instances is None


def test_instances_need_proposals() -> None:
    with pytest.raises(ValueError, match="a decision with instances"):
        segments_of(score_maps(proposals=None))
