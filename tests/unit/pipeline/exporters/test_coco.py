import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.exporters import coco
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from tests.helpers.drawn_runs import (
    LABELS,
    RunSpec,
    Scene,
    awkward_scenes,
    crowded_run,
    grow_run,
    label_map,
    make_run,
    odd_scenes,
)
from tests.helpers.exported_masks import READERS, run_masks


def _load(run: RunFolder, name: str = "instances") -> dict | list:
    return json.loads(run.folder.read_bytes(f"exports/coco/{name}.json"))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, odd_scenes())


@pytest.fixture
def awkward(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, awkward_scenes())


def _export(run: RunFolder, **options) -> dict:
    coco.export(run, coco.Options.model_validate(options))
    return json.loads(run.folder.read_bytes("exports/coco/instances.json"))


def _losses(run: RunFolder) -> str:
    return run.folder.read_bytes("exports/coco/LOSSES.txt").decode()


def _smooth_scenes(count: int) -> list[Scene]:
    """Masks of the open-vocabulary kind: a grid of 16 pixels, enlarged."""
    rng = np.random.default_rng(0)
    scenes = []
    for number in range(count):
        coarse = [cv2.GaussianBlur(rng.random((30, 40)), (0, 0), 1.5) for _ in range(3)]
        planes = [cv2.resize(plane, (640, 480), interpolation=cv2.INTER_CUBIC) for plane in coarse]
        scenes.append(Scene(f"{number}.jpg", np.argmax(planes, axis=0).astype(np.uint16)))
    return scenes


def _drawn(annotation: dict, size_hw: tuple[int, int]) -> np.ndarray:
    return coco_mask.decode(
        coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], *size_hw))
    )


def test_export_masks_come_back_to_the_pixel_through_pycocotools(run):
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


def test_export_follows_the_rules_of_readers(run):
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


def test_export_is_ascii_and_says_that_components_are_not_instances(tmp_path):
    run = make_run(tmp_path, odd_scenes(), RunSpec(masks={"segments": "components"}))
    coco.export(run, coco.Options())
    assert run.folder.read_bytes("exports/coco/instances.json").isascii()
    assert _load(run)["info"]["masks"].startswith("connected regions")
    assert {a["attributes"]["num_components"] for a in _load(run)["annotations"]} == {1}


def test_export_results_evaluate_to_one_against_the_dataset(run):
    coco.export(run, coco.Options())
    folder = f"{run.folder.uri}/exports/coco"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(f"{folder}/instances.json")
        found = COCOeval(truth, truth.loadRes(f"{folder}/results_segm.json"), "segm")
        found.evaluate()
        found.accumulate()
        found.summarize()
    assert found.stats[0] == pytest.approx(1.0)


def test_export_min_score_leaves_out_segments(run):
    coco.export(run, coco.Options())
    whole = [a["score"] for a in _load(run)["annotations"]]
    coco.export(run, coco.Options(min_score=0.7))
    kept = [a["score"] for a in _load(run)["annotations"]]
    assert kept == [score for score in whole if score >= 0.7]
    assert 0 < len(kept) < len(whole)
    assert len(_load(run, "results_segm")) == len(kept)


def test_export_without_segments_warns(tmp_path, caplog):
    run = make_run(tmp_path, [Scene("a.png", np.zeros((9, 14), np.uint16))])
    coco.export(run, coco.Options())
    assert _load(run, "results_segm") == []
    assert _load(run)["annotations"] == []
    assert len(_load(run)["images"]) == 1
    assert "loadRes" in caplog.text


def test_export_of_an_unfinished_run_counts_the_images_left(tmp_path, caplog):
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(1,)))
    coco.export(run, coco.Options())
    assert _load(run)["info"]["num_images_left"] == 3
    assert "3 images of the run are not annotated yet" in caplog.text


def test_export_splits_class_masks_as_a_run_of_components_does(awkward, tmp_path):
    dataset = _export(awkward, segments="components")
    regions = make_run(
        tmp_path / "regions", awkward_scenes(), RunSpec(masks={"segments": "components"})
    )
    assert sorted(READERS["coco"](awkward)) == run_masks(regions)
    assert dataset["info"]["masks"].startswith("connected regions")
    assert "part_of" in dataset["info"]["score"]


def test_export_components_keep_the_scores_of_their_class_mask(awkward):
    whole = {
        (row["image_id"], row["segment_index"]): row
        for shard in RunReader(awkward).shards()
        for row in (
            {**r, "image_id": shard.images[r["image_id"]]["number"]} for r in shard.segments()
        )
    }
    annotations = _export(awkward, segments="components")["annotations"]
    assert len(annotations) > len(whole)
    covered = dict.fromkeys(whole, 0)
    for annotation in annotations:
        attributes = annotation["attributes"]
        parent = whole[annotation["image_id"], attributes["part_of"]]
        assert annotation["category_id"] == parent["category_id"]
        assert annotation["score"] == pytest.approx(parent["mean_prob"], abs=1e-6)
        assert attributes["entropy_mean"] == pytest.approx(parent["entropy_mean"], abs=1e-6)
        assert attributes["num_components"] == 1
        covered[annotation["image_id"], attributes["part_of"]] += annotation["area"]
    assert covered == {key: row["area_px"] for key, row in whole.items()}


def test_export_joins_components_into_class_masks(awkward, tmp_path):
    regions = make_run(
        tmp_path / "regions", awkward_scenes(), RunSpec(masks={"segments": "components"})
    )
    joined, whole = _export(regions, segments="class"), _export(awkward)
    assert sorted(READERS["coco"](regions)) == run_masks(awkward)
    for ours, theirs in zip(joined["annotations"], whole["annotations"], strict=True):
        for name in ("id", "image_id", "category_id", "area", "bbox", "segmentation"):
            assert ours[name] == theirs[name]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        for name in ("margin_mean", "entropy_mean", "num_components"):
            assert ours["attributes"][name] == pytest.approx(theirs["attributes"][name], abs=1e-5)
        assert not {"margin_p10", "boundary_uncertainty"} & set(ours["attributes"])


def test_export_min_area_applies_after_splitting_and_is_counted(awkward):
    every = _export(awkward, segments="components")["annotations"]
    kept = _export(awkward, segments="components", min_area_px=9)["annotations"]
    assert [a["area"] for a in kept] == [a["area"] for a in every if a["area"] >= 9]
    assert f"{len(every) - len(kept)}  segments left out by size" in _losses(awkward)


def test_export_polygons_of_smooth_masks_are_nearly_exact(tmp_path):
    run = make_run(tmp_path, _smooth_scenes(6))
    whole = {a["id"]: coco_mask.decode(a["segmentation"]) for a in _export(run)["annotations"]}
    annotations = _export(run, polygons=True)["annotations"]
    ious = []
    for annotation in annotations:
        mask, drawn = whole[annotation["id"]], _drawn(annotation, (480, 640))
        ious.append((mask & drawn).sum() / (mask | drawn).sum())
        assert annotation["attributes"]["polygon_iou"] == pytest.approx(ious[-1], abs=1e-5)
        assert annotation["area"] == drawn.sum()
        assert annotation["iscrowd"] == 0
        assert all(len(ring) >= 6 for ring in annotation["segmentation"])
    assert np.median(ious) >= 0.99
    corners = sum(len(ring) // 2 for a in annotations for ring in a["segmentation"])
    exact = _export(run, polygons=True, tolerance_px=0)["annotations"]
    assert sum(len(ring) // 2 for a in exact for ring in a["segmentation"]) > 2 * corners


def test_export_polygons_lose_holes_only_and_count_them(awkward, caplog):
    whole = {a["id"]: coco_mask.decode(a["segmentation"]) for a in _export(awkward)["annotations"]}
    lost_before = _losses(awkward)
    dataset = _export(awkward, polygons=True)
    with_holes = poor = 0
    for annotation in dataset["annotations"]:
        mask = whole[annotation["id"]]
        rims, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = np.zeros(mask.shape, np.uint8)
        cv2.drawContours(filled, rims, -1, 1, -1)
        drawn = _drawn(annotation, mask.shape)
        with_holes += int((filled != mask).any())
        poor += int((mask & drawn).sum() / (mask | drawn).sum() < 0.95)
        assert (filled & drawn).sum() / (filled | drawn).sum() >= 0.95
        assert len(annotation["segmentation"]) == annotation["attributes"]["num_components"]
        box = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(drawn)))
        assert annotation["bbox"] == box.tolist()
    assert with_holes > 1
    assert poor > 0
    assert "holes" not in lost_before
    assert f"{with_holes}  masks with holes filled" in _losses(awkward)
    assert f"{poor}  masks whose outline has an IoU under 0.95" in _losses(awkward)
    assert "LOSSES.txt" in caplog.text


def test_export_results_keep_rle_beside_polygons(awkward):
    _export(awkward, polygons=True)
    results = json.loads(awkward.folder.read_bytes("exports/coco/results_segm.json"))
    assert all(isinstance(result["segmentation"]["counts"], str) for result in results)


def test_export_flat_names_are_distinct_and_keep_the_path(tmp_path):
    dataset = _export(make_run(tmp_path, odd_scenes()), flatten_names=True)
    names = {image["path"]: image["file_name"] for image in dataset["images"]}
    assert names["sub folder/plain.jpg"] == "sub folder__plain.jpg"
    assert names["plain.jpg"] == "plain.jpg"
    assert len(set(names.values())) == len(names)
    assert not any("/" in name for name in names.values())


def test_export_max_bytes_splits_into_complete_files(tmp_path):
    run = make_run(tmp_path, odd_scenes())
    whole = _export(run)
    size = len(run.folder.read_bytes("exports/coco/instances.json"))
    limit = size // 3 + 1500
    written = coco.export(run, coco.Options(max_bytes=limit))
    names = [name for name in written if "instances" in name]
    assert len(names) > 2
    assert sorted(run.folder.list("exports/coco")) == sorted([*written, "exports/coco/LOSSES.txt"])
    images, annotations, results = [], [], []
    for name in names:
        assert run.folder.size(name) <= limit
        part = json.loads(run.folder.read_bytes(name))
        assert part["categories"] == whole["categories"]
        assert {a["image_id"] for a in part["annotations"]} <= {i["id"] for i in part["images"]}
        images += part["images"]
        annotations += part["annotations"]
        results += json.loads(run.folder.read_bytes(name.replace("instances", "results_segm")))
    assert images == whole["images"]
    assert annotations == whole["annotations"]
    assert [r["score"] for r in results] == [a["score"] for a in annotations]
    run.folder.atomic_write("exports/coco/instances-mine.json", b"{}")
    coco.export(run, coco.Options())
    left = ("LOSSES.txt", "instances-mine.json", "instances.json", "results_segm.json")
    assert run.folder.list("exports/coco") == [f"exports/coco/{name}" for name in left]


def test_export_image_larger_than_max_bytes_has_its_own_file(tmp_path):
    run = make_run(tmp_path, odd_scenes())
    written = coco.export(run, coco.Options(max_bytes=1))
    assert len(written) == 2 * RunReader(run).num_images


def test_instances_are_things_of_single_objects_with_their_proposal_score(tmp_path):
    run = crowded_run(tmp_path)
    coco.export(run, coco.Options())
    dataset = _load(run)
    assert {category["isthing"] for category in dataset["categories"]} == {1}
    assert "one mask for each object" in dataset["info"]["masks"]
    first = [entry for entry in dataset["annotations"] if entry["image_id"] == 1]
    assert [entry["category_id"] for entry in first] == [1, 1, 2, 3]
    assert {entry["iscrowd"] for entry in first} == {0}
    assert [entry["attributes"]["proposal_score"] for entry in first] == [0.9, 0.6, 0.7, 0.4]


def test_masks_that_are_no_instances_have_no_proposal_score(run):
    coco.export(run, coco.Options())
    dataset = _load(run)
    assert not any("isthing" in category for category in dataset["categories"])
    assert not any("proposal_score" in entry["attributes"] for entry in dataset["annotations"])


def test_an_image_keeps_its_id_when_its_run_grows(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(4)])

    def ids() -> dict[str, int]:
        now = RunFolder.open(run.folder.uri)
        coco.export(now, coco.Options())
        data = json.loads(now.folder.read_bytes("exports/coco/instances.json"))
        assert {one["image_id"] for one in data["annotations"]} == {i["id"] for i in data["images"]}
        return {image["file_name"]: image["id"] for image in data["images"]}

    assert ids() == {"0.png": 1, "1.png": 2, "2.png": 3, "3.png": 4}
    grow_run(run, [Scene("00.png", label_map(7))], [Scene("1.png", label_map(8))], {"2.png"})
    assert ids() == {"0.png": 1, "3.png": 4, "00.png": 5, "1.png": 6}
