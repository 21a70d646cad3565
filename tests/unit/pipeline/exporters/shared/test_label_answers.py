"""LVIS's lists of labels in COCO files: absent labels, and labels with masks left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corrections.import_review import ImportRules, import_review
from pipeline.corrections.log import ReviewLog
from pipeline.exporters import coco
from pipeline.run.folder import RunFolder
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import RunSpec, Scene, crowded_run, crowded_scene, make_run

CAT, DOG, PLANT = 1, 2, 3


def lists_of(run: RunFolder, **options: Any) -> dict[str, tuple[list[int], list[int]]]:
    """Return both lists of each image of an export, by its name."""
    given = {"unsure_from": 0.5, **options}
    [file, _] = coco.export(run, coco.Options.model_validate(given))
    images = json.loads(run.folder.read_bytes(file))["images"]
    names = ("neg_category_ids", "not_exhaustive_category_ids")
    return {one["file_name"]: tuple(one[name] for name in names) for one in images}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Of labels without a segment the highest probabilities are .27 (cat), .43 (dog), .6."""
    cats, plants = np.ones((6, 9), np.uint16), np.full((6, 9), PLANT, np.uint16)
    return make_run(tmp_path, [Scene("a.png", cats), Scene("b.png", plants)], RunSpec(shard_size=1))


def decide(run: RunFolder, path: str, action: str = "accept", **subject: Any) -> None:
    decision = {"image_id": f"id-{path}", "at_s": 1.0, "action": action, **subject}
    ReviewLog(run).append([ReviewDecision.model_validate(decision)])


def test_improbable_labels_are_absent_and_others_in_neither_list(run):
    assert lists_of(run) == {"a.png": ([DOG], []), "b.png": ([CAT, DOG], [])}
    assert lists_of(run, unsure_from=0.3)["b.png"] == ([CAT], [])
    assert lists_of(run, unsure_from=1)["a.png"] == ([DOG, PLANT], [])


def test_a_label_whose_masks_are_all_left_out_is_in_neither_list(run):
    assert lists_of(run, min_score=0.8)["a.png"] == ([DOG], [])


def test_a_label_of_which_some_masks_are_left_out_is_not_exhaustive(tmp_path):
    run = crowded_run(tmp_path)
    assert lists_of(run, min_score=0.7)["a/one.png"] == ([], [CAT])
    assert lists_of(run, min_area_px=250)["a/one.png"] == ([], [CAT])
    assert lists_of(run)["a/one.png"] == ([], [])
    assert lists_of(run)["nothing.png"] == ([CAT, DOG], [])


def test_what_people_said_of_an_image_counts(run):
    decide(run, "a.png")
    assert lists_of(run)["a.png"] == ([DOG, PLANT], [])
    assert lists_of(run, masks="predicted")["a.png"] == ([DOG], [])
    decide(run, "b.png", "reject")
    decide(run, "b.png", "accept", label="potted plant")
    assert lists_of(run)["b.png"] == ([CAT, DOG], [])


def test_of_an_image_reviewed_in_part_reviewed_masks_say_nothing_of_other_labels(tmp_path):
    scene = crowded_scene("a.png")
    run = make_run(tmp_path, [scene, scene_of(scene)], RunSpec(masks={"segments": "instances"}))
    decide(run, "a.png", label="cat", segment_index=0)
    assert lists_of(run, masks="reviewed") == {"a.png": ([], [CAT])}
    assert lists_of(run)["a.png"] == ([], [])


def scene_of(scene: Scene) -> Scene:
    return Scene("b.png", np.zeros((5, 7), np.uint16), instances=())


def test_a_label_that_the_reviewers_tool_does_not_list_is_the_models_answer(run, tmp_path):
    dataset = {
        "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 9, "checked": True}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "tool.json").write_text(json.dumps(dataset))
    import_review(run, "coco", str(tmp_path / "tool.json"), ImportRules())
    assert lists_of(run)["a.png"] == ([CAT, DOG], []), "a plant has the probability .6"


def test_lists_of_many_labels_are_written_when_asked_for(tmp_path):
    labels = ("cat", *(f"thing {number}" for number in range(110)))
    run = make_run(tmp_path, [Scene("a.png", np.ones((6, 9), np.uint16))], RunSpec(labels=labels))
    [file, _] = coco.export(run, coco.Options())
    assert "neg_category_ids" not in json.loads(run.folder.read_bytes(file))["images"][0]
    absent, _ = lists_of(run, label_answers=True)["a.png"]
    assert set(absent) < set(range(2, 112))
    [file, _] = coco.export(run, coco.Options(label_answers=False))
    assert "neg_category_ids" not in json.loads(run.folder.read_bytes(file))["images"][0]
