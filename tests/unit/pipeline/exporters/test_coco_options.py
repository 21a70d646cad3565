import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.exporters import coco
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from tests.helpers.drawn_runs import RunSpec, Scene, awkward_scenes, make_run, odd_scenes
from tests.helpers.exported_masks import READERS, run_masks


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


@pytest.fixture
def awkward(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, awkward_scenes())


def test_class_masks_are_cut_into_the_regions_that_a_run_of_regions_has(awkward, tmp_path):
    dataset = _export(awkward, segments="components")
    regions = make_run(
        tmp_path / "regions", awkward_scenes(), RunSpec(masks={"segments": "components"})
    )
    assert sorted(READERS["coco"](awkward)) == run_masks(regions)
    assert dataset["info"]["masks"].startswith("connected regions")
    assert "part_of" in dataset["info"]["score"]


def test_regions_tell_whose_scores_they_carry(awkward):
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


def test_regions_are_put_together_into_the_class_masks_of_the_same_images(awkward, tmp_path):
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


def test_small_regions_are_left_out_after_cutting_and_counted(awkward):
    every = _export(awkward, segments="components")["annotations"]
    kept = _export(awkward, segments="components", min_area_px=9)["annotations"]
    assert [a["area"] for a in kept] == [a["area"] for a in every if a["area"] >= 9]
    assert f"{len(every) - len(kept)}  segments left out by size" in _losses(awkward)


def test_polygons_of_smooth_masks_are_nearly_exact(tmp_path):
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


def test_polygons_lose_holes_and_nothing_else_and_say_how_many(awkward, caplog):
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


def test_results_keep_run_lengths_beside_polygons(awkward):
    _export(awkward, polygons=True)
    results = json.loads(awkward.folder.read_bytes("exports/coco/results_segm.json"))
    assert all(isinstance(result["segmentation"]["counts"], str) for result in results)


def test_flat_names_are_told_apart_and_keep_their_path(tmp_path):
    dataset = _export(make_run(tmp_path, odd_scenes()), flatten_names=True)
    names = {image["path"]: image["file_name"] for image in dataset["images"]}
    assert names["sub folder/plain.jpg"] == "sub folder__plain.jpg"
    assert names["plain.jpg"] == "plain.jpg"
    assert len(set(names.values())) == len(names)
    assert not any("/" in name for name in names.values())


def test_a_size_cuts_the_file_into_whole_files(tmp_path):
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


def test_an_image_larger_than_a_file_may_be_has_one_of_its_own(tmp_path):
    run = make_run(tmp_path, odd_scenes())
    written = coco.export(run, coco.Options(max_bytes=1))
    assert len(written) == 2 * RunReader(run).num_images
