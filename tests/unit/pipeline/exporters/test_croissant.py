"""Croissant: tables with the masks to the pixel, a card that the hub reads, no private address."""

import hashlib
import json
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from pycocotools import mask as coco_mask

from pipeline.corrections.log import ReviewLog
from pipeline.exporters.croissant import Options, export
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import RunSpec, make_run, odd_scenes


def exported(run: RunFolder, **options: object) -> Path:
    written = export(run, Options.model_validate(options))
    assert written == ["exports/croissant/README.md", "exports/croissant/croissant.json"]
    return Path(run.folder.uri, "exports/croissant")


def head_of(card: Path) -> dict[str, object]:
    return yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])


def test_tables_hold_every_image_and_mask(tmp_path: Path) -> None:
    run = make_run(tmp_path, odd_scenes())
    folder = exported(run)
    images = pq.read_table(folder / "images.parquet").to_pylist()
    masks = pq.read_table(folder / "annotations.parquet").to_pylist()
    expected = [row for shard in RunReader(run).shards() for row in shard.segments()]
    assert [row["path"] for row in images] == [
        image["path"] for shard in RunReader(run).shards() for image in shard.images.values()
    ]
    assert len(masks) == len(expected) > 5
    for mask, row in zip(masks, expected, strict=True):
        assert {name: mask[name] for name in row} == row
        rle = {"size": [mask["height"], mask["width"]], "counts": mask["rle_counts"]}
        assert coco_mask.area(rle) == mask["area_px"]
    assert {row["image_id"] for row in masks} <= {row["image_id"] for row in images}
    assert "uri" not in images[0]


def test_the_description_names_each_file_and_column(tmp_path: Path) -> None:
    folder = exported(make_run(tmp_path, odd_scenes()), licence="cc-by-4.0", date="2026-11-29")
    told = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
    assert told["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert (told["license"], told["datePublished"]) == ("cc-by-4.0", "2026-11-29")
    assert "creator" not in told
    for file in told["distribution"]:
        data = (folder / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file["contentSize"] == f"{len(data)} B"
    for records in told["recordSet"]:
        table = pq.read_schema(folder / f"{records['name']}.parquet")
        columns = [field["source"]["extract"]["column"] for field in records["field"]]
        assert columns == table.names
        assert all(field["description"] for field in records["field"])
    box = next(f for f in told["recordSet"][1]["field"] if f["name"] == "bbox_xywh")
    assert (box["dataType"], box["isArray"], box["arrayShape"]) == ("sc:Float", True, "4")


def test_the_card_says_how_the_masks_were_made(tmp_path: Path) -> None:
    calibration = {
        "method": "clip_diy", "scores": [0.1, 0.9], "probabilities": [0.2, 0.8],
        "num_segments": 321, "thresholds": {"cat": 0.5},
    }  # fmt: skip
    method = {"name": "clip_diy", "options": {"objectness": {
        "name": "found", "options": {"head": str(tmp_path / "head.safetensors")}}}}  # fmt: skip
    job = {"calibration": calibration, "clip": "embedded", "method": method}
    spec = RunSpec(job=job, unfinished=(1,))
    card = exported(make_run(tmp_path, odd_scenes(), spec))
    text = (card / "README.md").read_text(encoding="utf-8")
    head = head_of(card / "README.md")
    assert (head["license"], head["pretty_name"]) == ("unknown", "run")
    assert head["task_categories"] == ["image-segmentation"]
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"] == [
        {"config_name": "annotations", "data_files": "annotations.parquet"},
        {"config_name": "images", "data_files": "images.parquet"},
    ]
    assert "- licence of the images: unknown" in text
    assert '"options": {"head": "head.safetensors"}' in text
    assert "fitted to 321 reviewed segments; thresholds of 1 labels, else 0" in text
    assert "- weights: CLIP embedded (part of ovseg), licence: as ovseg's" in text
    assert "No image was reviewed by people." in text
    assert "generation 1 of the collection" in text
    assert "embedded models" in text
    assert str(tmp_path) not in text
    assert str(tmp_path) not in (card / "croissant.json").read_text(encoding="utf-8")


def test_what_people_said_is_in_tables_and_card(tmp_path: Path) -> None:
    run = make_run(tmp_path, odd_scenes())
    path = odd_scenes()[3].path
    (image,) = [row for shard in RunReader(run).shards() for row in shard.images.values()
                if row["path"] == path]  # fmt: skip
    rejected = next(
        image_id for shard in RunReader(run).shards() for image_id, row in shard.images.items()
        if row["num_segments"] and row["path"] != path
    )  # fmt: skip
    ReviewLog(run).append([
        ReviewDecision(image_id=image["image_id"], action="accept", at_s=time.time()),
        ReviewDecision(image_id=rejected, action="reject", at_s=time.time()),
    ])  # fmt: skip
    folder = exported(run)
    rows = pq.read_table(folder / "annotations.parquet").to_pylist()
    verdicts = {row["verdict"] for row in rows if row["image_id"] == image["image_id"]}
    assert verdicts == {"accepted"}
    said = (
        "1 of 8 images were reviewed by people (masks: 3 accepted). People rejected 1 other image."
    )
    assert said in (folder / "README.md").read_text(encoding="utf-8")


def test_a_licence_by_its_address_and_names_of_strangers_break_no_card(tmp_path: Path) -> None:
    run = make_run(tmp_path, odd_scenes())
    folder = exported(run, licence="https://host/terms", name="cats:\n--- | x", creator="A & B")
    head = head_of(folder / "README.md")
    assert (head["license"], head["license_link"]) == ("other", "https://host/terms")
    assert head["pretty_name"] == "cats:\\n--- | x"
    told = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
    assert told["creator"]["name"] == "A & B"


@pytest.mark.parametrize("number", [0, 3])
def test_an_older_export_with_other_options_is_replaced(tmp_path: Path, number: int) -> None:
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=tuple(range(number))))
    exported(run, name="before")
    folder = exported(run, name="after")
    assert sorted(file.name for file in folder.iterdir()) == [
        "LOSSES.txt", "README.md", "annotations.parquet", "croissant.json", "images.parquet",
    ]  # fmt: skip
    assert head_of(folder / "README.md")["pretty_name"] == "after"
