"""What is learned of each pixel: the teacher's masks, a review, a truth."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg_core.training.students import IGNORED, UNLABELLED
from pipeline.corrections.log import ReviewLog
from pipeline.run.folder import RunFolder
from pipeline.training.students.sources.run_source import RunSource
from pipeline.training.students.sources.source import ImageLabels
from schemas.errors import CollectionError, UserError
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import (
    LABELS,
    RunSpec,
    Scene,
    crowded_run,
    crowded_scene,
    label_map,
    make_run,
)
from tests.helpers.student_trainings import student_config

PATHS = ("a.png", "b.png", "c.png", "d.png")
MAPS = {path: label_map(seed, 40, 56) for seed, path in enumerate(PATHS)}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    scenes = [Scene(path, one, 0.5 + seed / 10) for seed, (path, one) in enumerate(MAPS.items())]
    return make_run(tmp_path, [*scenes, Scene("broken.png", None)], RunSpec(shard_size=2))


def source_of(run: RunFolder, **changes: Any) -> RunSource:
    return RunSource(student_config(run, "unused", **changes))


def labels_of(source: RunSource, path: str) -> ImageLabels:
    numbers = [number for number in range(source.num_images) if source.path(number) == path]
    assert len(numbers) == 1
    return source.labels(numbers[0], source.image(numbers[0]))


def decide(run: RunFolder, path: str, action: str, index: int | None = None, **more: Any) -> None:
    label = None if index is None else LABELS[index]
    given = {"at_s": time.time(), "segment_index": index, "label": label} | more
    decision = {"image_id": f"id-{path}", "action": action} | given
    ReviewLog(run).append([ReviewDecision.model_validate(decision)])


def test_without_a_review_everything_is_the_teachers(run: RunFolder) -> None:
    source = source_of(run)
    assert source.identity["masks"] == "predicted"
    assert source.left_out == {"failed in the run": 1}
    for path, painted in MAPS.items():
        found = labels_of(source, path)
        assert (found.labels == UNLABELLED).all()
        np.testing.assert_array_equal(found.teacher, painted)
        np.testing.assert_array_equal(found.reference, painted)


def test_reviewed_image_is_labelled_everywhere(run: RunFolder) -> None:
    decide(run, "a.png", "reject", 1)
    decide(run, "a.png", "accept", 0)
    decide(run, "a.png", "relabel", 2, new_label="dog")
    expected = np.array([0, 1, 0, 2])[MAPS["a.png"]]
    source = source_of(run)
    assert source.identity["masks"] == "merged"
    found = labels_of(source, "a.png")
    np.testing.assert_array_equal(found.labels, expected)
    np.testing.assert_array_equal(found.reference, expected)
    assert (labels_of(source, "b.png").labels == UNLABELLED).all()
    only = source_of(run, masks="reviewed")
    assert only.num_images == 1
    assert only.left_out["that nobody has reviewed"] == 3
    np.testing.assert_array_equal(labels_of(only, "a.png").labels, expected)
    assert (labels_of(source_of(run, masks="predicted"), "a.png").labels == UNLABELLED).all()


def test_partly_reviewed_image_is_labelled_where_people_decided(run: RunFolder) -> None:
    decide(run, "b.png", "accept", 0)
    decide(run, "b.png", "reject", 1)
    painted = MAPS["b.png"]
    found = labels_of(source_of(run), "b.png")
    np.testing.assert_array_equal(found.labels, np.where(painted == 1, 1, UNLABELLED))
    # What was rejected is not learned; what nobody has decided is the teacher's.
    rest = painted != 1
    np.testing.assert_array_equal(found.teacher[rest], np.array([0, 9, IGNORED, 3])[painted[rest]])
    only = labels_of(source_of(run, masks="reviewed"), "b.png")
    np.testing.assert_array_equal(only.labels, np.where(painted == 1, 1, IGNORED))


def test_rejected_images_are_left_out_and_a_review_changes_the_identity(run: RunFolder) -> None:
    before = source_of(run, masks="merged").identity
    decide(run, "c.png", "reject")
    source = source_of(run, masks="merged")
    assert source.left_out["rejected by people"] == 1
    kept = [source.path(number) for number in range(source.num_images)]
    assert kept == ["a.png", "b.png", "d.png"]
    assert source.identity["review"] != before["review"]
    assert source.identity["teacher"] == before["teacher"]


def test_a_list_alone_is_learned_and_is_of_the_identity(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("uri,path\nc.png,c.png\na.png,a.png\n")
    source = source_of(run, only=str(tmp_path / "some.csv"))
    assert [source.path(number) for number in range(source.num_images)] == ["a.png", "c.png"]
    assert source.left_out == {"not in the list": 2}, "the image that failed is not in it"
    (tmp_path / "more.csv").write_text("uri,path\nc.png,c.png\na.png,a.png\nb.png,b.png\n")
    more = source_of(run, only=str(tmp_path / "more.csv"))
    assert len({str(one.identity) for one in (source, more, source_of(run))}) == 3


def test_reviewed_masks_of_a_run_without_review_are_an_error(run: RunFolder) -> None:
    with pytest.raises(UserError, match="no image of the run is reviewed"):
        source_of(run, masks="reviewed")


def test_truth_is_learned_and_images_without_one_are_the_teachers(
    run: RunFolder, tmp_path: Path
) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    other = np.full((40, 56), 2, np.uint8)
    other[:7] = 255
    Image.fromarray(other).save(truth / "a.png")
    source = source_of(run, truth=str(truth))
    found = labels_of(source, "a.png")
    np.testing.assert_array_equal(found.labels, np.where(other == 255, IGNORED, 2))
    assert (labels_of(source, "b.png").labels == UNLABELLED).all()
    assert source.known == frozenset()
    Image.fromarray(other[:, :30]).save(truth / "a.png")
    with pytest.raises(Exception, match="its truth has 30 x 40 pixels, it has 56 x 40"):
        labels_of(source, "a.png")


def test_changed_truth_changes_the_identity(run: RunFolder, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    other = np.full((40, 56), 2, np.uint8)
    Image.fromarray(other).save(truth / "a.png")
    first = source_of(run, truth=str(truth)).identity["truth"]
    assert source_of(run, truth=str(truth)).identity["truth"] == first
    (truth / "classes.json").write_text(json.dumps({"classes": ["background", "dog", "cat"]}))
    assert source_of(run, truth=str(truth)).identity["truth"] != first
    (truth / "classes.json").unlink()
    other[3, 4] = 1
    Image.fromarray(other).save(truth / "a.png")
    assert source_of(run, truth=str(truth)).identity["truth"] != first


def test_truth_of_some_labels_leaves_the_others_to_the_teacher(
    run: RunFolder, tmp_path: Path
) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    (truth / "classes.json").write_text(json.dumps({"classes": ["background", "dog"]}))
    true_maps = {}
    for path, painted in MAPS.items():
        true_maps[path] = (painted == 1).astype(np.uint8)  # the dogs are where it says cat
        Image.fromarray(true_maps[path]).save(truth / path)
    source = source_of(run, truth=str(truth))
    assert source.known == {2}
    painted, found = MAPS["d.png"], labels_of(source, "d.png")
    np.testing.assert_array_equal(found.labels, np.where(painted == 1, 2, UNLABELLED))
    # The truth knows where dogs are: the teacher's other dogs are not learned.
    silent = painted != 1
    np.testing.assert_array_equal(
        found.teacher[silent], np.array([0, 9, IGNORED, 3])[painted[silent]]
    )


def test_truth_of_other_images_is_an_error(run: RunFolder, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(truth / "elsewhere.png")
    with pytest.raises(UserError, match="none of the 1 images"):
        source_of(run, truth=str(truth))


def test_run_without_masks_teaches_only_what_people_said(tmp_path: Path) -> None:
    empty = np.zeros((24, 32), np.uint16)
    run = make_run(tmp_path, [Scene("a.png", empty), Scene("b.png", empty)])
    with pytest.raises(CollectionError, match=r"has no masks.*nothing but background"):
        source_of(run)
    decide(run, "a.png", "accept")  # somebody has looked: there is nothing
    assert (labels_of(source_of(run), "a.png").labels == 0).all()


def test_doubtful_images_are_left_out_unless_people_went_through_them(run: RunFolder) -> None:
    decide(run, "a.png", "accept")
    source = source_of(run, cleaning={"max_review_priority": 0.0})
    assert [source.path(number) for number in range(source.num_images)] == ["a.png"]
    assert source.left_out["above cleaning.max_review_priority"] == 3


def test_instances_teach_by_score(tmp_path: Path) -> None:
    found = labels_of(source_of(crowded_run(tmp_path)), "turned.jpg")
    left, right, dog, _ = (mask for _, _, mask in crowded_scene("").instances)
    expected = np.zeros(left.shape, np.int16)
    expected[right], expected[dog], expected[left] = 1, 2, 1
    np.testing.assert_array_equal(found.teacher, expected)
    np.testing.assert_array_equal(found.reference, expected)
