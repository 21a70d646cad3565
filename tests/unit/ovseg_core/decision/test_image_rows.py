import numpy as np
import pytest

from ovseg_core.decision.decide import Decision
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.images.resize.nearest import to_size
from ovseg_core.rle.encode import decode_rle
from schemas.config import MaskConfig
from schemas.records import Annotation, ScoreRow

NAMES = ("cat", "dog", "sofa")


def _decision(seed, canvas=(20, 30), cell=4):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (canvas[0] // cell + 1, canvas[1] // cell + 1))
    labels = np.kron(coarse, np.ones((cell, cell), int))[: canvas[0], : canvas[1]]
    planes = rng.random((4, *canvas), dtype=np.float32)
    return Decision(labels.astype(np.uint16), *planes, rng.random(4), rng.random(4))


def _rim(mask):
    inner = np.pad(mask, 1, mode="edge")
    kept = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    return mask & ~kept


@pytest.mark.parametrize("size", [(20, 30), (53, 41), (11, 13), (7, 64), (1, 1)])
@pytest.mark.parametrize("mode", ["class", "components"])
def test_columns_equal_those_computed_at_full_size(size, mode):
    for seed in range(3):
        decision = _decision(seed)
        rows = image_rows(decision, size, NAMES, MaskConfig(segments=mode))
        planes = {
            name: to_size(getattr(decision, name), size)
            for name in ("confidence", "margin", "entropy", "objectness")
        }
        for segment in rows.segments:
            mask = decode_rle(segment.rle_counts, size).astype(bool)
            assert segment.mean_prob == pytest.approx(planes["confidence"][mask].mean(), abs=1e-5)
            assert segment.margin_mean == pytest.approx(planes["margin"][mask].mean(), abs=1e-5)
            assert segment.entropy_mean == pytest.approx(planes["entropy"][mask].mean(), abs=1e-5)
            assert segment.objectness_mean == pytest.approx(
                planes["objectness"][mask].mean(), abs=1e-5
            )
            low = np.quantile(planes["margin"][mask], 0.1, method="inverted_cdf")
            assert segment.margin_p10 == pytest.approx(low, abs=0.0006)
            assert (segment.area_px, segment.area_frac) == (mask.sum(), mask.sum() / mask.size)
            if mode == "class":
                rim = _rim(mask)
                expected = planes["entropy"][rim].mean() if rim.any() else 0.0
                assert segment.boundary_uncertainty == pytest.approx(expected, abs=1e-5)


def test_class_masks_tile_the_label_map():
    decision = _decision(1)
    size = (61, 47)
    painted = np.zeros(size, np.uint16)
    for segment in image_rows(decision, size, NAMES, MaskConfig()).segments:
        painted += decode_rle(segment.rle_counts, size).astype(np.uint16) * segment.category_id
    np.testing.assert_array_equal(painted, to_size(decision.label_map, size))


def test_components_are_counted_split_and_ordered():
    labels = np.array([[1, 0, 0, 1, 2], [0, 1, 0, 0, 2], [2, 2, 0, 0, 0]], np.uint16)
    ones = np.ones(labels.shape, np.float32)
    decision = Decision(labels, ones, ones, ones, ones, np.ones(4) / 4, np.ones(4) / 4)
    merged = image_rows(decision, (6, 10), NAMES, MaskConfig())
    assert [(s.label, s.num_components, s.area_px) for s in merged.segments] == [
        ("cat", 2, 12),
        ("dog", 2, 16),
    ]
    parts = image_rows(decision, (6, 10), NAMES, MaskConfig(segments="components"))
    assert [(s.segment_index, s.label, s.bbox_xywh) for s in parts.segments] == [
        (0, "cat", (0, 0, 4, 4)),
        (1, "cat", (6, 0, 2, 2)),
        (2, "dog", (8, 0, 2, 4)),
        (3, "dog", (0, 4, 4, 2)),
    ]
    assert {s.num_components for s in parts.segments} == {1}


def test_small_segments_are_dropped_at_image_size():
    labels = np.array([[1, 0, 0], [0, 0, 2]], np.uint16)
    planes = [np.ones(labels.shape, np.float32)] * 4
    decision = Decision(labels, *planes, np.ones(4) / 4, np.ones(4) / 4)
    size = (5, 10)  # the corner pixels become 3 x 4 and 2 x 3 pixels
    rows = image_rows(decision, size, NAMES, MaskConfig(min_area_px=7))
    assert [(s.segment_index, s.label, s.area_px) for s in rows.segments] == [(0, "cat", 12)]
    assert [score.area_frac for score in rows.label_scores] == [12 / 50, 0, 0]


def test_rows_are_valid_records_and_every_label_has_a_score():
    rows = image_rows(_decision(3), (64, 48), NAMES, MaskConfig(), image_id="x")
    for segment in rows.segments:
        assert Annotation.model_validate(segment.model_dump()) == segment
    for score in rows.label_scores:
        assert ScoreRow.model_validate(score.model_dump()) == score
    assert {row.image_id for row in (*rows.segments, *rows.label_scores)} == {"x"}
    assert [score.label for score in rows.label_scores] == list(NAMES)
    assert [score.category_id for score in rows.label_scores] == [1, 2, 3]


def test_review_priority_counts_the_doubtful_segments():
    rows = image_rows(_decision(4), (64, 48), NAMES, MaskConfig())
    sure = [
        s.mean_prob * s.margin_mean * (1 - s.entropy_mean) * s.area_frac / (s.area_frac + 0.005)
        for s in rows.segments
    ]
    total = sum((1 - trust) ** 4 for trust in sure)
    assert rows.review_priority == pytest.approx(total / (1 + total))


def test_review_priority_without_segments_is_the_nearest_miss():
    empty = np.zeros((6, 9), np.uint16)
    planes = [np.ones(empty.shape, np.float32)] * 4
    decision = Decision(empty, *planes, np.ones(4) / 4, np.array([0.9, 0.1, 0.4, 0.2]))
    rows = image_rows(decision, (12, 8), NAMES, MaskConfig())
    assert rows.segments == ()
    assert rows.review_priority == pytest.approx(0.4**4 / (1 + 0.4**4))


def test_thousands_of_components_stay_within_bounds():
    labels = np.zeros((300, 400), np.uint16)
    labels[::2, ::2] = 1
    planes = [np.full(labels.shape, 0.5, np.float32)] * 4
    decision = Decision(labels, *planes, np.ones(4) / 4, np.ones(4) / 4)
    rows = image_rows(decision, (300, 400), NAMES, MaskConfig(segments="components"))
    assert len(rows.segments) == 150 * 200
    assert rows.segments[-1].margin_p10 == pytest.approx(0.5, abs=0.02)


def test_names_must_fit_the_decision():
    with pytest.raises(ValueError, match="names of 3 labels"):
        image_rows(_decision(0), (20, 30), ("background", *NAMES), MaskConfig())
