"""What a tool's file says of an image, and what counts where several say something."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from ovseg_core.rle.coco_segmentation import decode_segmentation
from pipeline.corrections.calibrate import Rules, calibrate
from pipeline.corrections.import_report import ImportReport
from pipeline.corrections.import_review import ImportRules, import_review
from pipeline.corrections.imports import list_imports, undo_import
from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.log import ReviewLog
from pipeline.importers.shared.notes import WORDS, NoteKind
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import LABELS, Scene, label_map, make_run
from tests.helpers.exported_masks import coco_dataset, counts_of, label_studio_tasks

PATHS = ("a.png", "b/c.png", "d.png", "e.png")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, [Scene(path, label_map(seed)) for seed, path in enumerate(PATHS)])


@pytest.fixture
def dataset(run: RunFolder) -> dict:
    return coco_dataset(run)


@pytest.fixture
def tasks(run: RunFolder) -> list[dict]:
    """An annotation of each image that keeps the first mask, made in 2020."""
    tasks = label_studio_tasks(run)
    for task in tasks:
        kept = task.pop("predictions")[0]["result"][:1]
        task["annotations"] = [{"result": kept, "updated_at": "2020-01-01T00:00:00Z"}]
    return tasks


def _import(run: RunFolder, content: object, **rules) -> ImportReport:
    file = Path(run.folder.uri).parent / "review.json"
    file.write_text(json.dumps(content))
    tool = "coco" if isinstance(content, dict) else "label-studio"
    return import_review(run, tool, str(file), ImportRules(**rules))


def _of_images(dataset: dict, *numbers: int, images: bool = True) -> dict:
    """Return a file with the masks of some images only, and with only these images or with all."""
    kept = [entry for entry in dataset["annotations"] if entry["image_id"] in numbers]
    listed = [entry for entry in dataset["images"] if not images or entry["id"] in numbers]
    return {**dataset, "annotations": kept, "images": listed}


def _num_masks(run: RunFolder) -> dict[str, int]:
    layer = ReviewedLayer(run)
    return {image.path: len(layer.masks(key)) for key, image in layer.images.items()}


def _decide(run: RunFolder, action: str, index: int, at_s: float | None = None) -> None:
    decision = {
        "image_id": "id-a.png", "label": LABELS[index], "segment_index": index, "action": action,
        "at_s": time.time() if at_s is None else at_s,
    }  # fmt: skip
    ReviewLog(run).append([ReviewDecision.model_validate(decision)])


def test_image_without_an_entry_is_not_reviewed(run, dataset):
    report = _import(run, _of_images(dataset, 1, 2, images=False))
    assert report.notes[NoteKind.EMPTIED].first == ("d.png", "e.png")
    report = _import(run, _of_images(dataset, 3, 4, images=False))
    assert report.notes[NoteKind.EMPTIED].first == ("a.png", "b/c.png")
    assert NoteKind.REPLACED not in report.notes
    assert _num_masks(run) == dict.fromkeys(PATHS, 3)


def test_image_without_an_entry_is_reviewed_if_the_file_or_the_user_says_so(run, dataset):
    some = _of_images(dataset, 1, images=False)
    some["images"][1]["reviewed"] = True
    _import(run, some)
    assert _num_masks(run) == {"a.png": 3, "b/c.png": 0}
    report = _import(run, some, empty_means="reviewed")
    assert _num_masks(run) == {"a.png": 3, "b/c.png": 0, "d.png": 0, "e.png": 0}
    assert report.notes[NoteKind.REPLACED].count == 2


def test_file_that_equals_the_predictions_is_no_review(run, dataset):
    for entry in dataset["images"]:
        entry["file_name"] = f"images\\{entry['file_name']}".replace("/", "\\")
    with pytest.raises(UserError, match=r"nothing .* differs .* 4 images .*unchanged-means"):
        _import(run, dataset)
    with pytest.raises(UserError, match="nothing in the file differs"):
        _import(run, _of_images(dataset, 1, 2))
    assert run.folder.list("reviewed") == []
    report = _import(run, dataset, unchanged_means="reviewed")
    assert report.num_images == 4
    assert "Windows separators" in report.notes[NoteKind.LOOSE_NAMES].first[0]


def _without_a_mask(dataset: dict, *numbers: int) -> dict:
    """Return a file in which the first mask of some images is gone."""
    first = {entry["image_id"]: entry["id"] for entry in reversed(dataset["annotations"])}
    gone = {first[number] for number in numbers}
    kept = [entry for entry in dataset["annotations"] if entry["id"] not in gone]
    return {**dataset, "annotations": kept}


def test_a_corrected_file_that_comes_twice_was_imported_already(run, dataset):
    with pytest.raises(UserError, match="it is an export that nobody has corrected"):
        _import(run, dataset)
    corrected = _without_a_mask(dataset, 1, 2)
    first = _import(run, corrected)
    said = rf"was reviewed before .* 4 images .* imported already \(as {first.id}; .*--list"
    with pytest.raises(UserError, match=said) as refused:
        _import(run, corrected)
    assert "nobody has corrected" not in str(refused.value)
    undo_import(run, first.id)
    assert _import(run, corrected).num_images == 4


def _num_as_predicted(run: RunFolder) -> int:
    layer = ReviewedLayer(run)
    return sum(map(layer.is_unchanged, layer.images))


def test_images_as_predicted_are_counted_alike_by_every_import_and_by_evaluate(run, dataset):
    assert _import(run, _without_a_mask(dataset, 1)).num_unchanged == 3
    assert _num_as_predicted(run) == 3
    later = _import(run, _without_a_mask(dataset, 2))  # a.png is as predicted again: by a person?
    assert later.notes[NoteKind.REPLACED].count == 4
    assert later.notes[NoteKind.SET_BACK].first == ("a.png",)
    assert later.num_unchanged == _num_as_predicted(run) == 2


def test_only_images_that_an_import_changes_back_are_said_to_be_set_back(run, dataset):
    for number in (1, 2):
        _import(run, _without_a_mask(dataset, number))
    third = _import(run, _without_a_mask(dataset, 3))  # a.png is as predicted since the second
    assert third.notes[NoteKind.SET_BACK].first == ("b/c.png",)


def test_an_image_whose_masks_the_page_rejected_is_not_said_to_be_emptied(run):
    for index in range(3):
        _decide(run, "reject", index)
    report = _import(run, _without_a_mask(coco_dataset(run), 2))
    assert NoteKind.EMPTIED not in report.notes
    assert report.notes[NoteKind.UNANNOTATED].first == ("a.png",)


def test_copies_of_one_export_that_two_people_correct_add_up(run, dataset):
    first = _import(run, _without_a_mask(dataset, 1), unchanged_means="unreviewed")
    assert first.num_of_earlier == 0
    second = _import(run, _without_a_mask(dataset, 2), unchanged_means="unreviewed")
    assert NoteKind.REPLACED not in second.notes
    assert second.num_of_earlier == 1
    assert _num_masks(run) == {"a.png": 2, "b/c.png": 2}


def test_an_image_without_masks_that_the_run_has_is_named_apart(run, dataset):
    emptied = _of_images(dataset, 1, 2, 3, images=False)
    assert _import(run, emptied).notes[NoteKind.EMPTIED].first == ("e.png",)
    assert "no undo is needed" in WORDS[NoteKind.EMPTIED]
    again = _import(run, emptied, empty_means="reviewed")
    assert again.num_images == 4
    assert _num_masks(run) == {"a.png": 3, "b/c.png": 3, "d.png": 3, "e.png": 0}
    for entry in list_imports(run)[:2]:
        undo_import(run, entry.id)
    alone = _import(run, emptied, empty_means="reviewed")
    unlike = {"id", "notes"}  # that of what an import replaces
    assert alone.model_dump(exclude=unlike) == again.model_dump(exclude=unlike)
    assert _num_masks(run) == {"a.png": 3, "b/c.png": 3, "d.png": 3, "e.png": 0}


def test_where_images_are_marked_the_unmarked_ones_count_only_if_they_were_changed(run, dataset):
    changed = _without_a_mask(dataset, 1)
    changed["images"][2]["checked"] = True
    report = _import(run, changed)
    assert report.notes[NoteKind.UNCHANGED].first == ("b/c.png", "e.png")
    assert _num_masks(run) == {"a.png": 2, "d.png": 3}
    assert report.num_unchanged == _num_as_predicted(run) == 0
    assert _import(run, changed, unchanged_means="reviewed").num_images == 4


def test_the_default_is_read_by_its_old_name_too(run, dataset):
    changed = _without_a_mask(dataset, 1)
    changed["images"][2]["checked"] = True
    assert ImportRules.model_validate({"unchanged_means": "predictions"}) == ImportRules()
    report = _import(run, changed, unchanged_means="predictions")
    assert report.notes[NoteKind.UNCHANGED].first == ("b/c.png", "e.png")


def test_mark_of_an_empty_image_says_nothing_of_the_others(run, dataset):
    emptied = _without_a_mask(_of_images(dataset, 1, 2, 3, images=False), 1)
    emptied["images"][3]["empty"] = True
    assert _import(run, emptied).num_unchanged == 2


def test_only_changed_images_count_where_the_user_says_so(run, dataset):
    report = _import(run, _without_a_mask(dataset, 1), unchanged_means="unreviewed")
    assert report.notes[NoteKind.UNCHANGED].count == 3
    assert _num_masks(run) == {"a.png": 2}
    with pytest.raises(UserError, match=r"nothing of the file was taken: .*as predicted"):
        _import(run, _of_images(dataset, 2, 3, 4, images=False), unchanged_means="unreviewed")


def test_refused_file_replaces_nothing_and_says_so(run, dataset):
    _import(run, _without_a_mask(dataset, 1))
    with pytest.raises(UserError, match=r"^nothing was imported: ") as refused:
        _import(run, _without_a_mask(dataset, 1))
    assert "replaced" not in str(refused.value)


def test_file_with_boxes_only_is_refused(run, dataset):
    for entry in dataset["annotations"]:
        entry["segmentation"] = []
    with pytest.raises(UserError, match=r"nothing .* was taken.*boxes or points only: 4 \(a.png"):
        _import(run, dataset)
    with pytest.raises(UserError, match="boxes or points only: 4"):
        _import(run, dataset, empty_means="reviewed")
    assert run.folder.list("reviewed") == []


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_statements_the_one_with_masks_counts(run, dataset, order):
    dataset["images"].append({**dataset["images"][0], "id": 50})
    dataset["images"] = dataset["images"][::order]
    report = _import(run, dataset)
    assert _num_masks(run)["a.png"] == 3
    assert report.notes[NoteKind.REPEATED].first == ("a.png: with 0 masks",)


def test_of_several_statements_the_truth_counts_then_masks_then_the_newest(run, tasks):
    first = tasks[0]["annotations"][0]
    newer = {**first, "result": [], "updated_at": "2020-01-02T00:00:00Z", "lead_time": 60.0}
    newest = {**newer, "result": first["result"] * 2, "updated_at": "2020-01-03T00:00:00Z"}
    for region, number in zip(newest["result"], "01", strict=True):
        newest["result"][int(number)] = {**region, "id": number}
    newest["result"][1]["value"] = {**first["result"][0]["value"], "brushlabels": ["dog"]}
    for annotations, expected in (
        ([first, newer], 1), ([newer, first], 1), ([newest, first], 2), ([first, newest], 2),
        ([{**newer, "ground_truth": True}, newest, first], 0), ([newer, newer], 0),
    ):  # fmt: skip
        report = _import(run, [{**tasks[0], "annotations": annotations}], prefer="file")
        assert _num_masks(run) == {"a.png": expected}
        assert report.notes[NoteKind.REPEATED].count == len(annotations) - 1
        assert report.minutes == sum("lead_time" in one for one in annotations)


def test_namesake_of_another_size_does_not_push_the_image_out(run, dataset):
    other = {**dataset["images"][0], "id": 50, "height": 9, "width": 9}
    pixels = {"size": [9, 9], "counts": counts_of(np.ones((9, 9), bool))}
    drawn = {"id": 90, "image_id": 50, "category_id": 1, "segmentation": pixels}
    dataset["images"].append(other)
    dataset["annotations"].append(drawn)
    report = _import(run, dataset)
    assert _num_masks(run)["a.png"] == 3
    assert report.notes[NoteKind.WRONG_SIZE].first == (
        "a.png: 9 x 9 in the file, 56 x 40 in the run",
    )


def test_page_counts_as_newer_unless_the_tool_says_otherwise(run, dataset, tasks):
    _decide(run, "reject", 0, at_s=1.61e9)  # in 2021
    report = _import(run, _of_images(dataset, 1, images=False))
    assert report.notes[NoteKind.PAGE_KEPT].first == ("a.png: cat",)
    assert _num_masks(run) == {"a.png": 2}
    report = _import(run, _of_images(dataset, 1, images=False), prefer="file")
    assert report.notes[NoteKind.PAGE_OVERRIDDEN].first == ("a.png: cat",)
    assert _num_masks(run) == {"a.png": 3}
    _import(run, tasks[:1])
    assert _num_masks(run) == {"a.png": 0}
    tasks[0]["annotations"][0]["updated_at"] = "2022-01-01T00:00:00Z"
    _import(run, tasks[:1])
    assert _num_masks(run) == {"a.png": 1}
    _import(run, tasks[:1], prefer="page")
    assert _num_masks(run) == {"a.png": 0}


def test_older_statement_does_not_replace_a_newer_import(run, tasks):
    old = json.loads(json.dumps(tasks))
    tasks[0]["annotations"][0] |= {"updated_at": "2020-02-01T00:00:00+00:00", "result": []}
    assert NoteKind.REPLACED not in _import(run, tasks[:1]).notes
    report = _import(run, old[:2])
    assert (report.num_images, report.notes[NoteKind.OLDER].first) == (1, ("a.png",))
    assert _num_masks(run) == {"a.png": 0, "b/c.png": 1}
    report = _import(run, old[:2], prefer="file")
    assert report.notes[NoteKind.REPLACED].first == ("a.png", "b/c.png")
    assert _num_masks(run) == {"a.png": 1, "b/c.png": 1}


def _rename(dataset: dict, **labels: str) -> None:
    for category in dataset["categories"]:
        category["name"] = labels.get(category["name"], category["name"])


def test_renamed_label_is_unknown_and_not_rejected(run, dataset):
    _rename(dataset, dog="dogs")
    report = _import(run, dataset)
    assert (report.unknown_labels, report.near_labels) == ({"dogs": 4}, {"dogs": "dog"})
    assert (report.num_images, report.num_partly) == (4, 4)
    dog = report.labels[1]
    assert (dog.predicted, dog.unknown, dog.rejected, dog.accepted_share) == (4, 4, 0, None)
    assert _num_masks(run) == {}
    layer = ReviewedLayer(run)
    assert [sorted(layer.outcomes(key) or {}) for key in layer.partly_reviewed()] == [[0, 2]] * 4
    with pytest.raises(UserError, match=r"'dog' \(4 of 4\).*--label THEIRS=OURS"):
        calibrate(run)
    with pytest.raises(UserError, match=r"8 segments .* expected 20 or more"):
        calibrate(run, Rules(max_unknown=1))
    report = _import(run, dataset, labels={"DOGS": "dog"})
    assert [label.accepted for label in report.labels] == [4, 4, 4]
    assert _num_masks(run) == dict.fromkeys(PATHS, 3)


def test_labels_merged_into_a_new_one_are_unknown(run, dataset):
    _rename(dataset, cat="animal", dog="animal")
    report = _import(run, dataset)
    assert [label.unknown for label in report.labels] == [4, 4, 0]
    assert [label.rejected for label in report.labels] == [0, 0, 0]


def test_labels_merged_into_a_known_one_do_not_spoil_its_scores(run, dataset):
    dataset["categories"] = [one for one in dataset["categories"] if one["name"] != "dog"]
    for entry in dataset["annotations"]:
        entry["category_id"] = 1 if entry["category_id"] == 2 else entry["category_id"]
    report = _import(run, dataset)
    assert report.notes[NoteKind.UNLISTED_LABELS].first == ("dog",)
    assert [(label.changed, label.unknown, label.rejected) for label in report.labels] == [
        (4, 0, 0),
        (0, 4, 0),
        (0, 0, 0),
    ]
    with pytest.raises(UserError, match=r"'dog' \(4 of 4\)"):
        calibrate(run, Rules(min_segments=1))
    assert calibrate(run, Rules(min_segments=1, max_unknown=1)).calibration.num_segments == 8


def test_file_of_unknown_labels_only_is_refused(run, dataset):
    earlier = _of_images(dataset, 1, images=False)
    _import(run, earlier)
    _rename(dataset, cat="Katze", dog="dogs", **{"potted plant": "plant"})
    with pytest.raises(UserError, match=r"nothing of the file was taken.*--label dogs=dog"):
        _import(run, dataset)
    _rename(dataset, dogs="dog")
    dataset["annotations"] = [one for one in dataset["annotations"] if one["image_id"] > 1] + [
        one for one in dataset["annotations"] if one["image_id"] == 1 and one["category_id"] != 2
    ]
    _import(run, dataset)
    assert _num_masks(run) == {"a.png": 3}  # what was known of it is not lost
    with pytest.raises(UserError, match=r"'dogg' is not a label of the run; did you mean 'dog'\?"):
        _import(run, dataset, labels={"plant": "dogg"})


def test_flag_without_effect_is_noted(run, dataset):
    report = _import(run, _of_images(dataset, 1, images=False), labels={"cow": "cat"})
    assert report.notes[NoteKind.UNUSED_FLAGS].first == ("cow",)


def test_task_without_annotation_is_reviewed_only_if_the_user_says_so(run, tasks):
    tasks[1]["annotations"] = []
    report = _import(run, tasks[:2])
    assert report.notes[NoteKind.EMPTIED].first == ("b/c.png",)
    _import(run, tasks[:2], empty_means="reviewed")
    assert _num_masks(run) == {"a.png": 1, "b/c.png": 0}


def test_one_bad_entry_does_not_refuse_the_others(run, dataset):
    dataset["images"][1]["height"] = None
    dataset["annotations"][0]["segmentation"] = [[1, 1, 5, 5]]
    report = _import(run, dataset)
    assert report.num_images == 2
    assert [text[:7] for text in report.notes[NoteKind.UNREADABLE].first] == ["a.png: ", "b/c.png"]


def test_empty_mask_is_noted(run, dataset):
    dataset["annotations"][0]["segmentation"] = {"size": [40, 56], "counts": [2240]}
    report = _import(run, dataset)
    assert report.notes[NoteKind.DROPPED_MASKS].first == ("a.png: cat, empty",)


TURNS = {
    2: np.fliplr,
    3: lambda mask: np.rot90(mask, 2),
    4: np.flipud,
    5: np.transpose,
    6: np.rot90,
    7: lambda mask: np.rot90(mask.T, 2),
    8: lambda mask: np.rot90(mask, 3),
}
"""From the frame that a person sees back to the stored one."""  # fmt: skip


@pytest.mark.parametrize("ignores", [True, False])
@pytest.mark.parametrize(
    ("size_hw", "orientation"),
    [*(((50, 34), turn) for turn in TURNS), *(((40, 40), turn) for turn in (3, 6, 7))],
)
def test_frame_of_a_tool_that_ignores_orientations_is_found(
    tmp_path, size_hw, orientation, ignores
):
    blank = np.zeros((50, 34), np.uint16)
    scenes = [
        Scene("turned.jpg", label_map(4, *size_hw), 0.7, orientation=orientation),
        Scene("turned, too.jpg", blank, orientation=orientation),
        Scene("plain.jpg", label_map(1)),
    ]
    run = make_run(tmp_path, scenes)
    dataset = coco_dataset(run)
    turn = TURNS[orientation] if ignores else np.asarray
    mark = np.zeros((50, 34), bool)
    mark[:9, :5] = True
    number = {image["file_name"]: image["id"] for image in dataset["images"]}
    drawn = {"image_id": number["turned, too.jpg"], "category_id": 1}
    drawn["segmentation"] = {"size": [50, 34], "counts": counts_of(mark)}
    dataset["annotations"].append(drawn)
    for image in dataset["images"][:2]:
        if image["file_name"] != "plain.jpg":
            shown = np.zeros((image["height"], image["width"]), bool)
            image["height"], image["width"] = turn(shown).shape
    for entry in dataset["annotations"]:
        size = tuple(entry["segmentation"]["size"])
        if entry["image_id"] != number["plain.jpg"]:
            stored = np.ascontiguousarray(turn(decode_segmentation(entry["segmentation"], size)))
            entry["segmentation"] = {"size": [*stored.shape], "counts": counts_of(stored)}
    # All but the smallest mask are gone: what is left must tell the frame.
    ours = [one for one in dataset["annotations"] if one["image_id"] == number["turned.jpg"]]
    smallest = min(ours, key=lambda one: one["area"])
    dataset["annotations"] = [one for one in dataset["annotations"] if one not in ours]
    dataset["annotations"].append(smallest)
    report = _import(run, dataset)
    layer = ReviewedLayer(run)
    assert {mask.verdict for mask in layer.masks("id-turned.jpg")} == {"accepted"}
    (mask,) = layer.masks("id-turned, too.jpg")  # nothing was predicted: as the other one
    assert (mask.bbox_xywh, mask.area_px) == ((0, 0, 5, 9), 45)
    assert (
        report.notes[NoteKind.FRAMES].count == 2 if ignores else NoteKind.FRAMES not in report.notes
    )
