import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.exporters import coco
from pipeline.run.folder import RunFolder
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, make_run, odd_scenes


def _load(run: RunFolder, name: str = "instances") -> dict | list:
    return json.loads(run.folder.read_bytes(f"exports/coco/{name}.json"))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, odd_scenes())


def test_masks_come_back_to_the_pixel_through_pycocotools(run):
    coco.export(run, coco.Options())
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(f"{run.folder.uri}/exports/coco/instances.json")
    images = {image["file_name"]: image for image in dataset.imgs.values()}
    for scene in odd_scenes():
        if scene.label_map is None:
            assert scene.path not in images
            continue
        image = images[scene.path]
        assert (image["height"], image["width"]) == scene.label_map.shape
        painted = np.zeros(scene.label_map.shape, np.uint16)
        for annotation in dataset.loadAnns(dataset.getAnnIds(image["id"])):
            painted += dataset.annToMask(annotation) * np.uint16(annotation["category_id"])
        np.testing.assert_array_equal(painted, scene.label_map)


def test_file_follows_the_rules_that_readers_need(run):
    coco.export(run, coco.Options())
    dataset = _load(run)
    names = [image["file_name"] for image in dataset["images"]]
    assert names == [scene.path for scene in odd_scenes() if scene.label_map is not None]
    assert [image["id"] for image in dataset["images"]] == list(range(1, len(names) + 1))
    assert [(c["id"], c["name"]) for c in dataset["categories"]] == list(enumerate(LABELS, 1))
    annotations = dataset["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    for annotation in annotations:
        assert annotation["iscrowd"] == 0
        assert isinstance(annotation["segmentation"]["counts"], str)
        assert annotation["area"] <= annotation["bbox"][2] * annotation["bbox"][3]
        assert 0 <= annotation["score"] <= 1
    assert dataset["info"]["num_failed_images"] == 1
    assert dataset["info"]["failed_images"] == {"truncated": 1}
    assert "not instances" in dataset["info"]["masks"]


def test_file_is_ascii_and_says_that_components_are_not_instances(tmp_path):
    run = make_run(tmp_path, odd_scenes(), RunSpec(masks={"segments": "components"}))
    coco.export(run, coco.Options())
    assert run.folder.read_bytes("exports/coco/instances.json").isascii()
    assert _load(run)["info"]["masks"].startswith("connected regions")
    assert {a["attributes"]["num_components"] for a in _load(run)["annotations"]} == {1}


def test_results_evaluate_to_one_against_the_dataset(run):
    coco.export(run, coco.Options())
    folder = f"{run.folder.uri}/exports/coco"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(f"{folder}/instances.json")
        found = COCOeval(truth, truth.loadRes(f"{folder}/results_segm.json"), "segm")
        found.evaluate()
        found.accumulate()
        found.summarize()
    assert found.stats[0] == pytest.approx(1.0)


def test_low_scores_can_be_left_out(run):
    coco.export(run, coco.Options())
    whole = [a["score"] for a in _load(run)["annotations"]]
    coco.export(run, coco.Options(min_score=0.7))
    kept = [a["score"] for a in _load(run)["annotations"]]
    assert kept == [score for score in whole if score >= 0.7]
    assert 0 < len(kept) < len(whole)
    assert len(_load(run, "results_segm")) == len(kept)


def test_empty_results_are_said_aloud(tmp_path, caplog):
    run = make_run(tmp_path, [Scene("a.png", np.zeros((9, 14), np.uint16))])
    coco.export(run, coco.Options())
    assert _load(run, "results_segm") == []
    assert _load(run)["annotations"] == []
    assert len(_load(run)["images"]) == 1
    assert "loadRes" in caplog.text


def test_unfinished_shards_are_counted(tmp_path, caplog):
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(1,)))
    coco.export(run, coco.Options())
    assert _load(run)["info"]["num_images_left"] == 3
    assert "3 images of the run are not annotated yet" in caplog.text
