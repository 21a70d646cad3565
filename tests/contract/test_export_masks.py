"""Whose masks an export has: every exporter writes the corrections of a review."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.corrections.import_review import ImportRules, import_review
from pipeline.corrections.imports import store_import
from pipeline.corrections.log import ReviewLog
from pipeline.exporters.shared.export import ExportOptions
from pipeline.run.folder import RunFolder
from pipeline.run.predictions import Predictions
from schemas import plugins
from schemas.errors import UserError
from schemas.review import ReviewDecision, ReviewedImage, ReviewedMask
from tests.contract.test_exporters import EXPORTERS, PACKAGE
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run
from tests.helpers.exported_masks import READERS, Mask, counts_of, run_masks

SPECK = (slice(30, 33), slice(50, 55))
"""Where a person draws a further mask; nothing is predicted there."""
REJECTED, MIXED, DRAWN, PART, EMPTY, UNSEEN = (f"{name}.png" for name in "abcdef")


def _scenes() -> list[Scene]:
    maps = [label_map(seed, 36, 60) for seed in range(6)]
    for drawn in maps:
        drawn[SPECK] = 0
    maps[4][:] = 0
    return [Scene(f"{name}.png", drawn) for name, drawn in zip("abcdef", maps, strict=True)]


def _decide(path: str, action: str, index: int | None = None, new_label: str = "") -> dict:
    label = None if index is None else LABELS[index]
    return {
        "image_id": f"id-{path}",
        "action": action,
        "segment_index": index,
        "label": label,
        "new_label": new_label,
        "at_s": time.time(),
    }


def _review(run: RunFolder) -> None:
    """Reject an image, change masks of two, find one empty, add a mask to one, leave one."""
    decisions = [
        _decide(REJECTED, "reject"),
        *(_decide(MIXED, "accept", 0), _decide(MIXED, "reject", 1)),
        _decide(MIXED, "relabel", 2, "dog"),
        _decide(PART, "reject", 0),
        _decide(PART, "accept", 1),
        _decide(EMPTY, "accept"),
    ]
    ReviewLog(run).append(map(ReviewDecision.model_validate, decisions))
    image = ReviewedImage(image_id=f"id-{DRAWN}", path=DRAWN, source="tool", num_rejected=2)
    kept = Predictions(run).segments(image.image_id)[0]
    fields = {name: kept[name] for name in kept if name in ReviewedMask.model_fields}
    pixels = np.zeros((36, 60), np.uint8)
    pixels[SPECK] = 1
    added = {
        "label": "potted plant",
        "category_id": 3,
        "segment_index": None,
        "verdict": "added",
        "rle_counts": counts_of(pixels),
        "area_px": 15,
        "bbox_xywh": (50, 30, 5, 3),
    }
    masks = [{**fields, "verdict": "accepted"}, fields | added]
    store_import(run, "tool", [image], map(ReviewedMask.model_validate, masks))


def _expected(run: RunFolder) -> dict[str, list[Mask]]:
    predicted = run_masks(run)
    by_path = {path: [m for m in predicted if m[0] == path] for path in (MIXED, DRAWN, PART)}
    cat, _, plant = sorted(by_path[MIXED], key=lambda mask: LABELS.index(mask[1]))
    pixels = np.zeros((36, 60), np.uint8)
    pixels[SPECK] = 1
    decided = [cat, (MIXED, "dog", plant[2])]
    decided += [mask for mask in by_path[DRAWN] if mask[1] == "cat"]
    decided += [(DRAWN, "potted plant", counts_of(pixels))]
    decided += [mask for mask in by_path[PART] if mask[1] == "dog"]
    undecided = [mask for mask in by_path[PART] if mask[1] == "potted plant"]
    undecided += [mask for mask in predicted if mask[0] == UNSEEN]
    return {
        "predicted": predicted,
        "reviewed": sorted(decided),
        "merged": sorted([*decided, *undecided]),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    run = make_run(tmp_path_factory.mktemp("reviewed"), _scenes(), RunSpec(shard_size=2))
    _review(run)
    return run


def _export(name: str, run: RunFolder, **options: object) -> str:
    exporter = plugins.load_plugin(PACKAGE, name)
    exporter.export(run, exporter.Options.model_validate(options))
    return run.folder.read_bytes(f"{exporter.FOLDER}/LOSSES.txt").decode()


def _files(name: str, run: RunFolder) -> dict[str, bytes]:
    names = run.folder.list(plugins.load_plugin(PACKAGE, name).FOLDER)
    return {file: run.folder.read_bytes(file) for file in names}


@pytest.mark.parametrize("name", EXPORTERS)
def test_options_have_the_choice_of_masks(name):
    assert issubclass(plugins.load_plugin(PACKAGE, name).Options, ExportOptions)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("masks", ["predicted", "reviewed", "merged"])
def test_export_has_the_masks_of_the_review(name, masks, run):
    _export(name, run, masks=masks)
    assert sorted(READERS[name](run)) == _expected(run)[masks]


@pytest.mark.parametrize("name", EXPORTERS)
def test_review_is_the_default_and_is_told(name, run):
    losses = _export(name, run)
    assert "masks=merged" in losses.splitlines()[1]
    assert "4 images are reviewed, 1 in part" in losses
    assert "1  images that people rejected" in losses
    assert _files(name, run)
    by_default = _files(name, run)
    _export(name, run, masks="merged")
    assert _files(name, run) == by_default
    assert "masks=predicted" in _export(name, run, masks="predicted").splitlines()[1]
    assert _files(name, run) != by_default


@pytest.mark.parametrize("name", EXPORTERS)
def test_export_of_other_masks_replaces_the_earlier_one(name, run, tmp_path):
    _export(name, run, masks="predicted")
    _export(name, run, masks="reviewed")
    folder = plugins.load_plugin(PACKAGE, name).FOLDER
    after_predicted = _files(name, run)
    for file in run.folder.list(folder):
        run.folder.delete(file)
    _export(name, run, masks="reviewed")
    assert _files(name, run) == after_predicted


@pytest.mark.parametrize("name", EXPORTERS)
def test_export_of_a_run_without_review(name, tmp_path):
    run = make_run(tmp_path, _scenes()[:2])
    assert "masks=predicted" in _export(name, run)
    before = _files(name, run)
    with pytest.raises(UserError, match="import-review"):
        _export(name, run, masks="reviewed")
    assert _files(name, run) == before


@pytest.mark.parametrize("name", READERS)
def test_run_whose_masks_were_all_rejected_has_none(name, tmp_path):
    scenes = _scenes()
    run = make_run(tmp_path, [scenes[0], scenes[1], scenes[4]])
    decisions = [*(_decide(path, "reject") for path in (REJECTED, MIXED)), _decide(EMPTY, "accept")]
    ReviewLog(run).append(map(ReviewDecision.model_validate, decisions))
    losses = _export(name, run)
    assert READERS[name](run) == []
    assert "2  images that people rejected" in losses
    assert f"{len(run_masks(run))}  masks that people rejected" in losses
    assert "1  images" in losses


def _sent_back(run: RunFolder, tool: str) -> str:
    """Return the file that a tool gives back of our export, in which nobody changed a mask."""
    folder = f"{run.folder.uri}/exports/{tool.replace('-', '_')}"
    if tool != "label-studio":
        return f"{folder}/{'annotations.xml' if tool == 'cvat' else 'instances.json'}"
    tasks = json.loads(Path(folder, "tasks.json").read_text())
    for task in tasks:
        task["annotations"] = task.pop("predictions")
    Path(folder, "done.json").write_text(json.dumps(tasks))
    return f"{folder}/done.json"


@pytest.mark.parametrize("tool", ["coco", "cvat", "label-studio"])
@pytest.mark.parametrize("segments", ["class", "components"])
def test_second_round_starts_from_the_corrections_and_moves_nothing(tool, segments, tmp_path):
    run = make_run(tmp_path, _scenes(), RunSpec(shard_size=2, masks={"segments": segments}))
    _review(run)
    name = tool.replace("-", "_")
    _export(name, run)
    once = sorted(READERS[name](run))
    file = _sent_back(run, tool)
    if tool != "label-studio":  # which says that its annotations were sent by people
        with pytest.raises(UserError, match="nothing in the file differs from what was reviewed"):
            import_review(run, tool, file)
    import_review(run, tool, file, ImportRules(unchanged_means="reviewed", prefer="file"))
    _export(name, run)
    assert sorted(READERS[name](run)) == once
    _export(name, run, masks="reviewed")
    assert sorted(READERS[name](run)) == once, "now all of it was looked at"
