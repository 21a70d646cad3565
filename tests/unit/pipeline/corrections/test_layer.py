"""The reviewed layer: what people said, from imports and decisions, beside the predictions."""

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

import tests.helpers.faulty_filesystem  # noqa: F401 - makes faulty:// known
from ovseg_core.rle.encode import decode_rle, encode_rle
from pipeline.corrections.imports import IMPORTS, store_import
from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.log import ReviewLog
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.reviewed_truth import ReviewedTruth
from pipeline.run.folder import RunFolder
from pipeline.run.predictions import Predictions
from pipeline.storage.folder import Folder
from schemas.errors import RunFolderError, StorageError, UserError
from schemas.review import ReviewDecision, ReviewedImage, ReviewedMask
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, grow_run, label_map, make_run
from tests.helpers.fault_plan import PLAN_ENV, Fault, fault_environment

PATHS = ("a.png", "b/c.png", "nothing.png", "d.png", "e.png")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    scenes = [Scene(path, label_map(seed)) for seed, path in enumerate(PATHS)]
    scenes[2] = Scene(PATHS[2], np.zeros((33, 21), np.uint16))
    return make_run(tmp_path, [*scenes, Scene("broken.png", None)], RunSpec(shard_size=2))


def _decision(path: str, action: str, index: int | None = None, **more) -> ReviewDecision:
    label = None if index is None else LABELS[index]
    given = {"at_s": time.time(), "segment_index": index, "label": label} | more
    return ReviewDecision.model_validate({"image_id": f"id-{path}", "action": action} | given)


def _mask(run: RunFolder, path: str, index: int, **changes) -> ReviewedMask:
    row = Predictions(run).segments(f"id-{path}")[index]
    fields = {name: row[name] for name in row if name in ReviewedMask.model_fields}
    return ReviewedMask.model_validate({**fields, "verdict": "accepted"} | changes)


def _import(run: RunFolder, path: str, *masks: ReviewedMask, **more) -> None:
    image = ReviewedImage(image_id=f"id-{path}", path=path, source="tool", **more)
    store_import(run, "tool", [image], masks)


def _labels(layer: ReviewedLayer, path: str) -> list[tuple[str, str]]:
    return [(mask.label, mask.verdict) for mask in layer.masks(f"id-{path}")]


def test_run_without_review_has_an_empty_layer(run):
    layer = ReviewedLayer(run)
    assert layer.images == {}
    assert layer.masks("id-a.png") == ()
    assert layer.outcomes("id-a.png") is None
    with pytest.raises(UserError, match="ovseg import-review"):
        evaluate(run, "reviewed")


def test_image_is_reviewed_when_every_segment_is_decided(run):
    log = ReviewLog(run)
    log.append([_decision("a.png", "accept", 0), _decision("a.png", "reject", 1)])
    assert ReviewedLayer(run).images == {}
    log.append(
        [_decision("a.png", "relabel", 2, new_label="dog"), _decision("nothing.png", "accept")]
    )
    log.append([_decision("b/c.png", "accept"), _decision("b/c.png", "reject", 2)])
    log.append([_decision("d.png", "accept", 0, segment_index=None), _decision("e.png", "skip")])
    layer = ReviewedLayer(run)
    assert list(layer.images) == ["id-a.png", "id-b/c.png", "id-nothing.png"]
    assert _labels(layer, "a.png") == [("cat", "accepted"), ("dog", "changed")]
    assert [m.category_id for m in layer.masks("id-a.png")] == [1, 2]
    assert _labels(layer, "b/c.png") == [("cat", "accepted"), ("dog", "accepted")]
    assert _labels(layer, "nothing.png") == []
    assert [image.num_rejected for image in layer.images.values()] == [1, 1, 0]
    assert layer.images["id-a.png"].source == "log"
    outcomes = layer.outcomes("id-a.png")
    assert outcomes is not None
    assert [outcomes[i] and outcomes[i].verdict for i in range(3)] == ["accepted", None, "changed"]


def test_decisions_on_unknown_images_and_segments_are_left_out(run):
    strangers = [_decision("broken.png", "accept"), _decision("who.png", "accept")]
    ReviewLog(run).append(strangers)
    assert ReviewedLayer(run).images == {}


def test_later_import_replaces_the_earlier_one(run):
    def committed() -> dict[str, str]:
        names = [name for name in run.folder.list() if not name.startswith("reviewed/")]
        return {name: hashlib.sha256(run.folder.read_bytes(name)).hexdigest() for name in names}

    before = committed()
    _import(run, "a.png", _mask(run, "a.png", 0), seconds=3.5, num_rejected=2)
    _import(run, "b/c.png")
    _import(run, "a.png", _mask(run, "a.png", 1, verdict="changed"))
    layer = ReviewedLayer(run)
    assert list(layer.images) == ["id-a.png", "id-b/c.png"]
    assert _labels(layer, "a.png") == [("dog", "changed")]
    assert layer.masks("id-b/c.png") == ()
    assert committed() == before


def test_decision_after_an_import_replaces_one_segment(run):
    log = ReviewLog(run)
    log.append([_decision("a.png", "reject", index) for index in range(3)])
    drawn = _mask(run, "a.png", 2, segment_index=None, verdict="added")
    corrected = _mask(run, "a.png", 0, rle_counts=drawn.rle_counts, verdict="changed")
    _import(run, "a.png", corrected, drawn, seconds=2.0)
    assert _labels(ReviewedLayer(run), "a.png") == [("cat", "changed"), ("potted plant", "added")]
    log.append([_decision("a.png", "accept", 1), _decision("a.png", "reject", 0)])
    layer = ReviewedLayer(run)
    assert _labels(layer, "a.png") == [("potted plant", "added"), ("dog", "accepted")]
    image = layer.images["id-a.png"]
    assert (image.source, image.seconds, image.num_rejected) == ("tool", 2.0, 2)


def test_unfinished_import_is_not_read(run, tmp_path, monkeypatch):
    run = RunFolder.open(f"faulty://{run.folder.uri}")
    _import(run, "a.png", _mask(run, "a.png", 0))
    faults = [Fault("write", r"imports/.*\.json", action="full_disk")]
    monkeypatch.setenv(PLAN_ENV, fault_environment(tmp_path / "plan", faults)[PLAN_ENV])
    with pytest.raises(StorageError):
        _import(run, "a.png")
    assert _labels(ReviewedLayer(run), "a.png") == [("cat", "accepted")]


@pytest.mark.parametrize("kind", [".json", "images-0.parquet", "masks-0.parquet"])
def test_damaged_import_is_named_in_the_error(run, kind):
    _import(run, "a.png", _mask(run, "a.png", 0))
    (name,) = (name for name in run.folder.list(IMPORTS) if name.endswith(kind))
    run.folder.atomic_write(name, run.folder.read_bytes(name)[:-5])
    with pytest.raises(RunFolderError, match="import the review again"):
        ReviewedLayer(run).masks("id-a.png")


def test_evaluate_uses_the_layer_as_truth(run):
    ReviewLog(run).append([_decision("a.png", "accept"), _decision("nothing.png", "accept")])
    report = evaluate(run, "reviewed")
    assert (report.miou, report.num_images, report.num_without_truth) == (1.0, 2, 3)
    ReviewLog(run).append([_decision("a.png", "reject", 0)])
    cat = evaluate(run, "reviewed").labels[1]
    assert (cat.name, cat.iou, cat.truth_px) == ("cat", 0.0, 0)


def test_evaluate_counts_an_image_that_was_rejected_as_a_whole_as_all_background(run):
    ReviewLog(run).append([_decision("a.png", "accept"), _decision("b/c.png", "reject")])
    report = evaluate(run, "reviewed")
    assert report.num_images == 2
    of_one = decode_rle(_mask(run, "a.png", 0).rle_counts, (40, 56)).sum()
    cat = report.labels[1]
    assert (cat.name, cat.truth_px) == ("cat", of_one)
    assert 0 < cat.iou < 1


def test_smaller_mask_is_on_top(run):
    small = np.zeros((40, 56), np.uint8)
    small[10:20, 10:20] = 1
    rle = encode_rle(small, small.shape)[1]
    given = {"rle_counts": rle.counts, "area_px": rle.area_px, "bbox_xywh": rle.bbox_xywh}
    drawn = _mask(run, "a.png", 1, **given)
    _import(run, "a.png", drawn, _mask(run, "a.png", 0))
    truth = ReviewedTruth(ReviewedLayer(run)).label_map("a.png")
    assert truth is not None
    assert (truth[10:20, 10:20] == 2).all()
    below = decode_rle(_mask(run, "a.png", 0).rle_counts, (40, 56)) > 0
    assert (truth[below & (small == 0)] == 1).all()
    assert ReviewedTruth(ReviewedLayer(run)).label_map("b/c.png") is None


def test_run_in_a_bucket_is_reviewed(run, s3_folder):
    for name in run.folder.list():
        Folder(s3_folder).atomic_write(name, run.folder.read_bytes(name))
    bucket = RunFolder.open(s3_folder)
    _import(bucket, "a.png", _mask(bucket, "a.png", 0), seconds=1.0)
    ReviewLog(bucket).append([_decision("b/c.png", "accept"), _decision("a.png", "reject", 0)])
    layer = ReviewedLayer(bucket)
    assert list(layer.images) == ["id-a.png", "id-b/c.png"]
    assert layer.masks("id-a.png") == ()
    assert len(layer.masks("id-b/c.png")) == 3
    assert evaluate(bucket, "reviewed").num_images == 2
    assert run.folder.list("reviewed") == []


def test_state_counts_images_and_masks(run):
    assert not any(ReviewedLayer(run).state().model_dump().values())
    log = ReviewLog(run)
    log.append([_decision("a.png", "accept"), _decision("b/c.png", "reject")])
    log.append([_decision("nothing.png", "accept"), _decision("d.png", "skip")])
    log.append([_decision("d.png", "relabel", 0, new_label="dog"), _decision("d.png", "reject", 1)])
    drawn = _mask(run, "e.png", 0, segment_index=None, verdict="added")
    _import(run, "e.png", drawn, num_unknown_masks=2, unknown_segments=(0, 1, 2))
    state = ReviewedLayer(run).state()
    assert state.model_dump() == {
        "num_reviewed": 3,
        "num_partly_reviewed": 2,
        "num_rejected_images": 1,
        "num_empty": 1,
        "num_accepted": 3,
        "num_changed": 1,
        "num_added": 1,
        "num_rejected": 4,
        "num_unknown_masks": 2,
        "num_imports": 1,
        "num_outdated": 0,
        "left_out": {},
    }


def test_image_that_was_only_skipped_is_not_reviewed_in_part(run):
    ReviewLog(run).append([_decision("a.png", "skip"), _decision("d.png", "skip", 1)])
    assert ReviewedLayer(run).partly_reviewed() == []


def test_what_was_said_of_an_image_counts_until_it_changes(run, caplog):
    _import(run, "a.png", _mask(run, "a.png", 0))
    log = ReviewLog(run)
    log.append([_decision("b/c.png", "accept"), _decision("d.png", "reject")])
    assert set(ReviewedLayer(run).images) == {"id-a.png", "id-b/c.png", "id-d.png"}
    changed = [Scene("a.png", label_map(7)), Scene("b/c.png", label_map(8))]
    grown = grow_run(run, changed=changed, vanished={"e.png"})
    layer = ReviewedLayer(grown)
    assert set(layer.images) == {"id-d.png"}
    assert layer.masks("id-a.png") == ()
    assert layer.outdated == ("id-a.png", "id-b/c.png")
    assert "2 images have changed since something was said of them" in caplog.text
    assert layer.state().num_outdated == 2
    assert set(ReviewedLayer(RunFolder.open(f"{run.folder.uri}@1")).images) == {
        "id-a.png", "id-b/c.png", "id-d.png"
    }  # fmt: skip
    _import(grown, "a.png", _mask(grown, "a.png", 1))
    ReviewLog(grown).append([_decision("b/c.png", "accept")])
    assert set(ReviewedLayer(grown).images) == {"id-a.png", "id-b/c.png", "id-d.png"}
