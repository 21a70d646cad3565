"""Scores and thresholds fitted to a review, and a job that uses them."""

import json

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from jobs.config import load_config
from ovseg_core.decision.image_rows import image_rows
from pipeline.corrections.calibrate import Rules, best_threshold, calibrate, reliability
from pipeline.corrections.imports import store_import
from pipeline.corrections.log import ReviewLog
from pipeline.job.job import run as run_job
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from pipeline.run.identity import RunIdentity
from pipeline.run.predictions import Predictions
from schemas.config import Calibration, JobConfig, MaskConfig
from schemas.errors import ConfigError, RunFolderError, UserError
from schemas.review import ReviewDecision, ReviewedImage, ReviewedMask
from schemas.tables import to_table
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    SegmenterFaults,
    colour_config,
    paint_collection,
)
from tests.helpers.drawn_runs import (
    LABELS,
    RunSpec,
    Scene,
    _decision,
    crowded_scene,
    label_map,
    make_run,
)
from tests.helpers.exported_masks import counts_of

SCORES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


def _right(score: float, number: int) -> bool:
    """Cats of a score are right as often as its square says, in a fixed pattern."""
    return (number * 0.618034) % 1 < score**2


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A run of 60 images, all decided: `cat` overconfident, `dog` always right, plants never."""
    scenes = [
        Scene(f"{n:03d}.png", label_map(n % 7, 15, 21), SCORES[n % len(SCORES)]) for n in range(60)
    ]
    run = make_run(tmp_path_factory.mktemp("calibrate"), scenes)
    verdicts = []
    for number, scene in enumerate(scenes):
        fate = (_right(scene.confidence, number), True, False)
        verdicts += [
            ReviewDecision(
                image_id=f"id-{scene.path}", label=label, segment_index=index, at_s=1,
                action="accept" if fate[index] else "reject",
            )
            for index, label in enumerate(LABELS)
        ]  # fmt: skip
    ReviewLog(run).append(verdicts)
    return run


def test_calibrated_scores_are_isotonic_and_closer_to_the_review(run):
    report = calibrate(run)
    calibration = report.calibration
    assert (report.num_images, calibration.num_segments, calibration.method) == (
        60, 180, "clip_diy",
    )  # fmt: skip
    score = np.repeat([SCORES[n % len(SCORES)] for n in range(60)], 3)
    right = np.array(
        [fate for n in range(60) for fate in (_right(SCORES[n % len(SCORES)], n), True, False)]
    )
    expected = IsotonicRegression(out_of_bounds="clip").fit(score, right)
    mapped = np.interp(SCORES, calibration.scores, calibration.probabilities)
    np.testing.assert_allclose(mapped, expected.predict(np.array(SCORES)), atol=1e-5)
    assert report.num_right == right.sum()
    assert report.after.expected_error < report.before.expected_error
    assert report.after.brier < report.before.brier
    assert report.before == reliability(score.astype(np.float32).astype(float), right)


def test_thresholds_by_label_keep_right_segments(run):
    report = calibrate(run)
    labels = {label.name: label for label in report.labels}
    assert labels["dog"].threshold == 0.0
    assert "potted plant" not in report.calibration.thresholds, "none of them was right"
    cat = labels["cat"]
    assert cat.num_dropped > 0
    assert cat.num_right_dropped < cat.num_dropped - cat.num_right_dropped
    assert calibrate(run, Rules(thresholds=False)).calibration.thresholds == {}
    few = calibrate(run, Rules(min_segments=100)).calibration
    assert (few.thresholds, few.default_threshold >= 0) == ({}, True)


def test_changed_mask_is_right_from_min_iou_on(tmp_path):
    scenes = [Scene(f"{n}.png", label_map(n), SCORES[n % 6]) for n in range(12)]
    run = make_run(tmp_path, scenes)
    images, masks = [], []
    for number, scene in enumerate(scenes):
        image_id = f"id-{scene.path}"
        images.append(ReviewedImage(image_id=image_id, path=scene.path, source="tool"))
        for row in Predictions(run).segments(image_id):
            pixels = scene.label_map == row["category_id"]
            places = np.flatnonzero(pixels)
            kept = np.zeros(pixels.size, bool)
            kept[places[: int(len(places) * (0.55 if number % 2 else 0.45))]] = True
            rle = counts_of(kept.reshape(pixels.shape))
            given = {"verdict": "changed", "rle_counts": rle}
            fields = {key: row[key] for key in row if key in ReviewedMask.model_fields}
            masks.append(ReviewedMask.model_validate(fields | given))
    store_import(run, "tool", images, masks)
    report = calibrate(run)
    assert (report.num_right, report.calibration.num_segments) == (18, 36)
    with pytest.raises(UserError, match="all 36 reviewed segments are wrong"):
        calibrate(run, Rules(min_iou=0.6))


def test_partly_reviewed_images_count(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n), SCORES[n % 6]) for n in range(30)])
    ReviewLog(run).append(
        ReviewDecision(
            image_id=f"id-{n}.png", label="dog", segment_index=1, at_s=1,
            action="accept" if n % 6 > 2 else "reject",
        )
        for n in range(30)
    )  # fmt: skip
    report = calibrate(run)
    assert (report.num_images, report.calibration.num_segments, report.num_right) == (0, 30, 15)
    assert [label.name for label in report.labels] == ["dog"]
    assert report.after.expected_error < 0.05


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ([0, 0, 1, 1], 0.45),
        ([1, 1, 1, 1], 0.0),
        ([0, 1, 0, 1], 0.3),
        ([1, 0, 0, 0], 0.0),
    ],
)
def test_best_threshold_has_the_best_f1(right, expected):
    score = np.array([0.2, 0.4, 0.5, 0.9])
    assert best_threshold(score, np.array(right, bool)) == pytest.approx(expected)


def test_too_few_reviewed_segments_are_refused(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n), 0.5) for n in range(8)])
    with pytest.raises(UserError, match="0 segments of 0 images"):
        calibrate(run)
    whole = [ReviewDecision(image_id=f"id-{n}.png", action="accept", at_s=1) for n in range(8)]
    ReviewLog(run).append(whole)
    with pytest.raises(UserError, match="all 24 reviewed segments are right"):
        calibrate(run)


def test_calibrated_run_is_refused(tmp_path):
    config = JobConfig.model_validate(
        _job(images=str(tmp_path), out=str(tmp_path / "run"), calibration=CALIBRATION)
    )
    run = RunFolder.create_or_resume(config.out, RunIdentity(config, {}), to_table("manifest", []))
    with pytest.raises(UserError, match="calibrated already"):
        calibrate(run)


CALIBRATION = Calibration(
    method="clip_diy",
    scores=(0.2, 0.6, 0.8),
    probabilities=(0.1, 0.3, 0.9),
    thresholds={"cat": 0.5, "dog": 0.0},
    default_threshold=0.25,
)


def test_segments_below_the_threshold_are_dropped():
    decision = _decision(Scene("a", label_map(1), 0.5), 3)
    size = (40, 56)
    plain = image_rows(decision, size, LABELS, MaskConfig())
    ours = image_rows(decision, size, LABELS, MaskConfig(), CALIBRATION)
    assert [s.label for s in plain.segments] == list(LABELS)
    dog, plant = ours.segments  # 0.5 becomes 0.25: under the cat's threshold, at the plant's
    assert [dog.rle_counts, plant.rle_counts] == [s.rle_counts for s in plain.segments[1:]]
    assert [(s.label, s.segment_index) for s in ours.segments] == [("dog", 0), (LABELS[2], 1)]
    assert dog.mean_prob == plant.mean_prob == pytest.approx(0.25)
    assert [s.area_frac > 0 for s in ours.label_scores] == [False, True, True]
    assert ours.review_priority > 0


def _job(**more) -> dict:
    return {"images": "/data", "out": "/out", "labels": ["cat"]} | more


def test_calibration_of_another_method_is_refused(tmp_path):
    file = tmp_path / "calibration.json"
    file.write_text(CALIBRATION.model_dump_json())
    config = load_config(JobConfig, "", _job(), [f"calibration={file}"])
    assert config.calibration == CALIBRATION
    assert (
        load_config(JobConfig, "", _job(), [f"calibration={file}", "calibration=null"]).calibration
        is None
    )
    other = CALIBRATION.model_copy(update={"thresholds": {"owl": 0.4}})
    second = tmp_path / "other.json"
    second.write_text(other.model_dump_json())
    overrides = [f"calibration={file}", f"calibration={second}"]
    assert load_config(JobConfig, "", _job(), overrides).calibration == other
    with pytest.raises(ConfigError, match="the calibration is of the method 'clip_diy'"):
        load_config(JobConfig, "", _job(), [f"calibration={file}", "method.name=naclip"])
    with pytest.raises(ConfigError, match="no such file"):
        load_config(JobConfig, "", _job(), ["calibration=/nowhere.json"])
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"calibration\.scores"):
        load_config(JobConfig, "", _job(), [f"calibration={file}"])


def test_calibration_file_is_part_of_the_fingerprint(tmp_path):
    def identity(calibration: Calibration | None) -> RunIdentity:
        config = JobConfig.model_validate(
            _job(images=str(tmp_path), out=str(tmp_path / "run"), calibration=calibration)
        )
        return RunIdentity(config, {})

    out, images = str(tmp_path / "run"), to_table("manifest", [])
    plain, ours = identity(None).fields("x"), identity(CALIBRATION).fields("x")
    assert "calibration" not in plain, "old runs go on"
    assert ours.keys() - plain.keys() == {"calibration"}
    other = CALIBRATION.model_copy(update={"default_threshold": 0.3})
    assert identity(other).fields("x")["calibration"] != ours["calibration"]
    RunFolder.create_or_resume(out, identity(CALIBRATION), images)
    assert RunFolder.open(out).info.job().calibration == CALIBRATION
    with pytest.raises(RunFolderError, match="calibration was"):
        RunFolder.create_or_resume(out, identity(other), images)


def test_job_with_calibration_writes_calibrated_scores(tmp_path):
    photos = paint_collection(tmp_path / "images", 4)

    def job(out: str, **more) -> list[dict]:
        config = colour_config(photos, tmp_path / out, run={"local": True}, **more)
        run_job(config, Progress(), BuildColourSegmenter(SegmenterFaults()))
        batches = RunFolder.open(config.out).read_table("annotations")
        return [row for batch in batches for row in batch.to_pylist()]

    plain = job("plain")
    method = colour_config(photos, tmp_path / "x").method.name
    limits = {row["label"]: 1.0 for row in plain[:1]}
    calibration = Calibration(
        method=method, scores=(0.0, 1.0), probabilities=(0.0, 0.5), thresholds=limits
    )
    ours = job("ours", calibration=json.loads(calibration.model_dump_json()))
    kept = [row for row in plain if row["label"] not in limits]
    assert 0 < len(kept) < len(plain)
    assert [row["rle_counts"] for row in ours] == [row["rle_counts"] for row in kept]
    for row, was in zip(ours, kept, strict=True):
        assert row["mean_prob"] == pytest.approx(was["mean_prob"] / 2, abs=1e-6)


def test_best_threshold_lies_between_rounded_scores():
    score = np.array([0.3, 0.583333, 0.5833330265, 0.583333, 0.5833330265])
    right = np.array([False, False, True, False, True])
    assert best_threshold(score, right) == pytest.approx((0.3 + 0.58333) / 2)


def test_best_threshold_of_many_segments():
    rng = np.random.default_rng(2)
    score = rng.random(300_000)
    right = rng.random(300_000) < score**2
    best = best_threshold(score, right)

    def f1(threshold: float) -> float:
        kept = score >= threshold
        return 2 * (kept & right).sum() / (kept.sum() + right.sum())

    assert all(f1(best) >= f1(other) for other in rng.random(200))


def test_one_image_is_refused_and_two_are_enough(tmp_path):
    scenes = [Scene(f"{n}.png", label_map(n), 0.3 + n / 2) for n in range(2)]
    run = make_run(tmp_path, scenes, RunSpec(masks={"segments": "components"}))
    rows = [Predictions(run).segments(f"id-{n}.png") for n in range(2)]

    def say(number: int, action: str) -> None:
        ReviewLog(run).append(
            ReviewDecision(
                image_id=row["image_id"], label=row["label"], segment_index=row["segment_index"],
                action="reject" if row["segment_index"] == 3 else action, at_s=1,
            )
            for row in rows[number]
        )  # fmt: skip

    rules = Rules(min_segments=4)
    say(0, "accept")
    with pytest.raises(UserError, match="are of one image"):
        calibrate(run, rules)
    say(1, "reject")
    report = calibrate(run, rules)
    wrong = 1 - 1 / len(rows[0])
    # Each image is calibrated by the other: what was right here was wrong there.
    assert report.after.brier == pytest.approx(
        (len(rows[0]) * wrong + len(rows[1]) * wrong**2) / (len(rows[0]) + len(rows[1]))
    )


def test_instances_are_right_one_by_one_also_where_they_overlap(tmp_path):
    scenes = [crowded_scene(f"{n}.png") for n in range(6)]
    run = make_run(tmp_path, scenes, RunSpec(masks={"segments": "instances"}))
    labels = ("cat", "cat", "dog", "potted plant")
    ReviewLog(run).append(
        ReviewDecision(
            image_id=f"id-{scene.path}", label=label, segment_index=index, at_s=1,
            action="reject" if index == 1 else "accept",
        )
        for scene in scenes
        for index, label in enumerate(labels)
    )  # fmt: skip
    report = calibrate(run)
    assert (report.calibration.num_segments, report.num_right) == (24, 18)
    found = {label.name: (label.num_segments, label.num_right) for label in report.labels}
    assert found == {"cat": (12, 6), "dog": (6, 6), "potted plant": (6, 6)}
