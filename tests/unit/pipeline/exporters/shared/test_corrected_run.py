"""Rows of a run with its review: scores, cuts, overlaps, and images in part."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg_core.rle.coco_segmentation import encode_mask
from pipeline.corrections.imports import store_import
from pipeline.corrections.log import ReviewLog
from pipeline.exporters.shared import segments
from pipeline.exporters.shared.corrected_run import CorrectedRun
from pipeline.exporters.shared.loss_report import LossReport
from pipeline.run.folder import RunFolder
from schemas.base import Frozen
from schemas.review import ReviewDecision, ReviewedImage, ReviewedMask
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, make_run

SIZE = (20, 32)


def _pixels(*boxes: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    for box in boxes:
        mask[box] = True
    return mask


LEFT, RIGHT = (slice(0, 20), slice(0, 8)), (slice(0, 20), slice(20, 32))
CORNER, DOT = (slice(0, 5), slice(4, 24)), (slice(1, 3), slice(5, 7))


@pytest.fixture(params=["class", "components"])
def run(request, tmp_path: Path) -> RunFolder:
    labels = _pixels(LEFT) * 1 + _pixels(RIGHT) * 2
    scenes = [Scene(f"{name}.png", labels.astype(np.uint16), 0.4) for name in "abc"]
    return make_run(tmp_path, scenes, RunSpec(masks={"segments": request.param}, shard_size=2))


def _mask(label: str, pixels: np.ndarray, **more: object) -> ReviewedMask:
    rows, columns = np.nonzero(pixels)
    left, top = columns.min(), rows.min()
    given = {
        "image_id": "id-b.png",
        "label": label,
        "category_id": LABELS.index(label) + 1,
        "height": SIZE[0],
        "width": SIZE[1],
        "rle_counts": encode_mask(pixels),
        "area_px": int(pixels.sum()),
        "bbox_xywh": (left, top, columns.max() - left + 1, rows.max() - top + 1),
        "verdict": "added",
    }
    return ReviewedMask.model_validate(given | more)


def _import(run: RunFolder, *masks: ReviewedMask, **more: object) -> None:
    image = {"image_id": "id-b.png", "path": "b.png", "source": "tool"}
    store_import(run, "tool", [ReviewedImage.model_validate(image | more)], masks)


def _decide(run: RunFolder, action: str, **more: object) -> None:
    given = {"image_id": "id-b.png", "action": action, "at_s": time.time()}
    ReviewLog(run).append([ReviewDecision.model_validate(given | more)])


def _rows(run: RunFolder, **options: Any) -> tuple[list[dict], str]:
    losses = LossReport("X", Frozen())
    reader = CorrectedRun(run, "merged")
    images = segments.images(reader, losses, **options)
    (rows,) = (rows for image, rows in images if image["path"] == "b.png")
    return rows, losses.text()


def test_masks_of_people_pass_a_minimum_score_and_keep_what_scores_they_have(run):
    _decide(run, "accept", label="cat", segment_index=0)
    _decide(run, "relabel", label="dog", segment_index=1, new_label="potted plant")
    rows, text = _rows(run, min_score=0.9)
    accepted, changed = rows
    assert (accepted["label"], accepted["verdict"], accepted["mean_prob"]) == (
        *("cat", "accepted"),
        pytest.approx(0.4),
    )
    assert "margin_mean" in accepted
    assert (changed["label"], changed["verdict"], changed["mean_prob"]) == (
        *("potted plant", "changed"),
        1.0,
    )
    assert "margin_mean" not in changed
    assert "4  segments left out by score" in text
    assert "1  of the segments without a score of the model" in text


def test_mask_that_is_joined_with_a_changed_one_has_the_mean_of_its_score_and_1(run):
    _decide(run, "accept", label="cat", segment_index=0)
    _decide(run, "relabel", label="dog", segment_index=1, new_label="cat")
    _decide(run, "relabel", label="dog", segment_index=1, new_label="cat", image_id="id-a.png")
    _decide(run, "reject", label="cat", segment_index=0, image_id="id-a.png")
    rows, text = _rows(run, kind="class")
    (joined,) = rows
    assert joined["verdict"] == "changed"
    assert joined["mean_prob"] == pytest.approx((0.4 * 20 * 8 + 1 * 20 * 12) / (20 * 20))
    assert "1  of the segments without a score of the model: 1 stands there" in text
    assert "1  of the segments joined from several masks, some of them without a score" in text


def test_accepted_region_that_is_joined_with_an_undecided_one_has_scores_of_the_model(tmp_path):
    cats = _pixels(LEFT, RIGHT).astype(np.uint16)
    scenes = [Scene(f"{name}.png", cats, 0.4) for name in "ab"]
    run = make_run(tmp_path, scenes, RunSpec(masks={"segments": "components"}))
    _decide(run, "accept", label="cat", segment_index=0)
    (joined,), text = _rows(run, kind="class")
    assert joined["mean_prob"] == pytest.approx(0.4)
    assert "without a score of the model" not in text


@pytest.mark.parametrize("kind", ["as_run", "class", "components"])
def test_masks_of_people_are_cut_as_the_format_wants(kind, run):
    drawn = _mask("cat", _pixels((slice(2, 6), slice(10, 13)), (slice(9, 12), slice(15, 18))))
    relabelled = _mask("dog", _pixels(LEFT), segment_index=0, verdict="changed")
    kept = _mask("dog", _pixels(RIGHT), segment_index=1, verdict="accepted")
    _import(run, drawn, relabelled, kept)
    rows, text = _rows(run, kind=kind)
    joined = "1  masks joined with another of the label that people gave them"
    own = segments.resolve_kind(CorrectedRun(run), "as_run")
    assert (joined in text) == (own == "class" and kind != "components")
    is_class = segments.resolve_kind(CorrectedRun(run), kind) == "class"
    assert sorted(row["label"] for row in rows) == sorted(
        ["cat", "dog"] if is_class else ["cat", "cat", "dog", "dog"]
    )
    assert sum(row["area_px"] for row in rows) == drawn.area_px + 20 * 8 + 20 * 12
    assert len({row["segment_index"] for row in rows}) == len(rows)
    for row, crop in zip(rows, segments.crops(rows), strict=True):
        assert np.count_nonzero(crop.mask) == row["area_px"]
        assert crop.mask.shape == tuple(row["bbox_xywh"][:1:-1])


def test_overlapping_masks_are_flattened_smaller_ones_on_top(run):
    dot = _mask("potted plant", _pixels(DOT))
    corner = _mask("cat", _pixels(CORNER))
    kept = _mask("dog", _pixels(RIGHT), segment_index=1, verdict="accepted")
    hidden = _mask("dog", _pixels(DOT), verdict="added")
    _import(run, hidden, dot, corner, kept)
    rows, _ = _rows(run, kind="components")
    assert sum(row["area_px"] for row in rows) == 4 + 4 + 100 + 240
    losses = LossReport("X", Frozen())
    flat = segments.flattened(rows, losses)
    painted = np.zeros(SIZE, int)
    for row, crop in zip(flat, segments.crops(flat), strict=True):
        box = (
            slice(crop.top, crop.top + crop.mask.shape[0]),
            slice(crop.left, crop.left + crop.mask.shape[1]),
        )
        assert not painted[box][crop.mask > 0].any(), "two masks have a pixel"
        painted[box][crop.mask > 0] = row["category_id"]
    expected = _pixels(RIGHT) * 2
    expected[CORNER] = 1
    expected[DOT] = painted[DOT][0, 0]
    np.testing.assert_array_equal(painted, expected)
    assert painted[DOT][0, 0] in (2, 3)
    text = losses.text()
    assert "1  masks that lie wholly under others" in text
    assert "2  masks that lie in part under others" in text


def test_masks_of_people_lie_over_predicted_ones(run):
    _import(run, _mask("cat", _pixels(CORNER)), unknown_segments=(1,), num_unknown_masks=1)
    rows, text = _rows(run)
    assert {row["label"]: row.get("verdict") for row in rows} == {"dog": None, "cat": "added"}
    assert "1  imported masks of labels that the run does not have" in text
    flat = segments.flattened(rows, LossReport("X", Frozen()))
    assert {row["label"]: row["area_px"] for row in flat} == {"cat": 100, "dog": 240 - 20}


def test_images_keep_their_numbers_and_reviewed_ones_come_last(run):
    _decide(run, "accept")
    _decide(run, "reject", image_id="id-a.png")
    found = [
        (image["path"], image["number"], image["review_priority"] > 0)
        for shard in CorrectedRun(run, "merged").shards()
        for image in shard.images.values()
    ]
    assert found == [("b.png", 2, False), ("c.png", 3, True)]


def test_accepted_image_with_a_mask_that_was_accepted_after_a_rejection_stays(run):
    _decide(run, "reject")
    _decide(run, "accept", label="dog", segment_index=1)
    rows, text = _rows(run)
    assert [row["label"] for row in rows] == ["dog"]
    assert "1  masks that people rejected" in text
