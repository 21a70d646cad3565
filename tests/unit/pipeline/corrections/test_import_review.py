"""From a tool's file to the reviewed layer: masks accepted, changed, rejected and added."""

import json
import time
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ovseg_core.rle import label_studio_brush
from pipeline.corrections.import_review import ImportRules, import_review
from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.log import ReviewLog
from pipeline.evaluation.evaluate import evaluate
from pipeline.exporters import coco, cvat
from pipeline.importers.shared.notes import NoteKind
from pipeline.run.folder import RunFolder
from schemas.errors import ConfigError, UserError
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import (
    LABELS,
    RunSpec,
    Scene,
    awkward_scenes,
    crowded_run,
    label_map,
    make_run,
)
from tests.helpers.exported_masks import coco_dataset, counts_of, label_studio_tasks, run_masks

PATHS = ("photos/a.png", "b c/ü.png", "d.png")
CHECKED = ImportRules(empty_means="reviewed", unchanged_means="reviewed")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    scenes = [Scene(path, label_map(seed)) for seed, path in enumerate(PATHS)]
    return make_run(tmp_path, scenes, RunSpec(shard_size=2))


def _file(tmp_path: Path, content: object, name: str = "review.json") -> str:
    file = tmp_path / name
    file.write_text(json.dumps(content))
    return str(file)


def _tasks(run: RunFolder) -> list[dict]:
    tasks = label_studio_tasks(run)
    for task in tasks:
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"], "lead_time": 30.0}]
    return tasks


def _dataset(run: RunFolder) -> dict:
    return coco_dataset(run)


def _by_name(report) -> dict:
    return {label.name: label for label in report.labels}


@pytest.mark.parametrize("segments", ["class", "components"])
@pytest.mark.parametrize("tool", ["label-studio", "coco", "cvat", "cvat-coco"])
def test_unchanged_masks_are_accepted_from_every_tool(tool, segments, tmp_path):
    run = make_run(tmp_path, awkward_scenes(), RunSpec(masks={"segments": segments}))
    if tool == "label-studio":
        file = _file(tmp_path, _tasks(run))
    elif tool == "coco":
        file = _file(tmp_path, _dataset(run))
    else:
        cvat.export(run, cvat.Options())
        name = "annotations.xml" if tool == "cvat" else "coco.zip"
        file = f"{run.folder.uri}/exports/cvat/{name}"
    report = import_review(run, tool.replace("cvat-", ""), file, CHECKED)
    layer = ReviewedLayer(run)
    assert list(layer.images) == [f"id-{scene.path}" for scene in awkward_scenes()]
    masks = [mask for image_id in layer.images for mask in layer.masks(image_id)]
    paths = {image_id: image.path for image_id, image in layer.images.items()}
    ours = sorted((paths[mask.image_id], mask.label, mask.rle_counts) for mask in masks)
    assert ours == run_masks(run)
    assert {mask.verdict for mask in masks} == {"accepted"}
    assert all(label.iou in (None, 1.0) for label in report.labels)
    assert all(label.accepted == label.predicted for label in report.labels)
    assert evaluate(run, "reviewed").miou == 1.0


def test_report_counts_label_studio_changes_by_label(run, tmp_path):
    tasks = _tasks(run)
    first, second, third = (task["annotations"][0] for task in tasks)
    changed = first["result"][0]
    pixels = label_studio_brush.decode_brush(changed["value"]["rle"], (40, 56)) > 0
    before = pixels.sum()
    pixels[:20] = False
    changed["value"]["rle"] = label_studio_brush.encode_brush(pixels).tolist()
    changed["id"] = "the-front-end-gives-new-names"
    removed = first["result"].pop(1)
    second["result"][0]["value"]["brushlabels"] = [" DOG "]
    second["result"] = [r for r in second["result"] if r["value"]["brushlabels"] != ["dog"]]
    second["lead_time"] = None
    third["was_cancelled"] = True
    third["result"] = []
    unknown = {**removed, "id": "ovseg-9", "value": {**removed["value"], "brushlabels": ["cow"]}}
    first["result"].append(unknown)
    report = import_review(run, "label-studio", _file(tmp_path, tasks))
    labels = _by_name(report)
    assert report.num_images == 2
    assert (report.num_images_with_time, report.minutes) == (1, 0.5)
    assert report.unknown_labels == {"cow": 1}
    cat, dog, plant = (labels[name] for name in LABELS)
    assert (cat.predicted, cat.accepted, cat.changed, cat.rejected, cat.added) == (2, 0, 2, 0, 0)
    assert (dog.predicted, dog.rejected, dog.unknown, dog.added) == (2, 1, 1, 0)
    assert (plant.predicted, plant.accepted, plant.iou) == (2, 2, 1.0)
    assert plant.accepted_share == 1.0
    assert cat.minutes == 0.5 / 2  # the dog's masks are unknown
    layer = ReviewedLayer(run)
    assert (list(layer.images), layer.partly_reviewed()) == (["id-b c/ü.png"], ["id-photos/a.png"])
    outcomes = layer.outcomes("id-photos/a.png")
    assert outcomes is not None
    assert outcomes[0] is not None
    assert (outcomes[0].verdict, outcomes[0].area_px) == ("changed", pixels.sum())
    assert 1 not in outcomes  # it may have become the cow
    assert before > pixels.sum()
    relabelled = layer.masks("id-b c/ü.png")[0]
    assert (relabelled.label, relabelled.verdict, relabelled.segment_index) == ("dog", "changed", 0)
    assert [image.seconds for image in layer.images.values()] == [None]


def test_pooled_iou_of_a_label(run, tmp_path):
    dataset = _dataset(run)
    dataset["images"], first = dataset["images"][:1], dataset["images"][0]["id"]
    mine = [a for a in dataset["annotations"] if a["image_id"] == first]
    mask = label_map(0) == 1
    half = mask.copy()
    half[:, ::2] = False
    mine[0]["segmentation"]["counts"] = counts_of(half)
    dataset["annotations"] = mine
    report = import_review(run, "coco", _file(tmp_path, dataset))
    assert _by_name(report)["cat"].iou == pytest.approx(half.sum() / mask.sum())
    assert _by_name(report)["cat"].minutes is None


def test_masks_of_a_class_run_are_merged_by_label(run, tmp_path):
    dataset = _dataset(run)
    dataset["images"], first = dataset["images"][:1], dataset["images"][0]["id"]
    mine = [a for a in dataset["annotations"] if a["image_id"] == first]
    whole = label_map(0) == 1
    halves = [whole.copy(), whole.copy()]
    halves[0][:, 28:], halves[1][:, :28] = False, False
    pieces = [
        {**mine[0], "id": 90 + side, "attributes": {},
         "segmentation": {"size": [40, 56], "counts": counts_of(half)}}
        for side, half in enumerate(halves)
    ]  # fmt: skip
    dataset["annotations"] = [*pieces, {**mine[2], "attributes": {"segment_index": "junk"}}]
    report = import_review(run, "coco", _file(tmp_path, dataset))
    cat, dog, plant = (_by_name(report)[name] for name in LABELS)
    assert (cat.accepted, dog.rejected, plant.accepted) == (1, 1, 1)


def test_new_mask_is_added(tmp_path):
    scene = Scene("a.png", np.where(label_map(0) == 1, 1, 0).astype(np.uint16))
    run = make_run(tmp_path, [scene])
    dataset = _dataset(run)
    corner = np.zeros((40, 56), bool)
    corner[np.nonzero(scene.label_map == 0)[0][0], np.nonzero(scene.label_map == 0)[1][0]] = True
    drawn = {"size": [40, 56], "counts": counts_of(corner)}
    dataset["annotations"].append({"id": 7, "image_id": 1, "category_id": 2, "segmentation": drawn})
    report = import_review(run, "coco", _file(tmp_path, dataset))
    dog = _by_name(report)["dog"]
    assert (dog.predicted, dog.added, dog.iou, dog.accepted_share) == (0, 1, 0.0, None)
    masks = ReviewedLayer(run).masks("id-a.png")
    assert [(m.verdict, m.segment_index) for m in masks] == [("accepted", 0), ("added", None)]


def test_mistakes_are_reported(run, tmp_path):
    with pytest.raises(ConfigError, match="cvat"):
        import_review(run, "cvta", _file(tmp_path, []))
    with pytest.raises(UserError, match="no such file"):
        import_review(run, "coco", str(tmp_path / "nothing.json"))
    with pytest.raises(UserError, match="nothing of the file was taken"):
        import_review(run, "label-studio", _file(tmp_path, []))
    image = {"id": 1, "file_name": "strange.jpg", "height": 3, "width": 3}
    strange = _file(tmp_path, {"images": [image], "annotations": [], "categories": []})
    with pytest.raises(UserError, match=r"strange\.jpg"):
        import_review(run, "coco", strange)
    other = _file(tmp_path, {"images": [1], "annotations": [], "categories": []})
    with pytest.raises(UserError, match=r"cannot be read: 1 \(image 1"):
        import_review(run, "coco", other)
    assert run.folder.list("reviewed") == []


@pytest.mark.parametrize(
    "content",
    [[], 5, {"images": []}, {"images": [{}], "annotations": [], "categories": []},
     {"images": [], "annotations": [{}], "categories": []}],
)  # fmt: skip
def test_file_that_is_not_coco_is_refused(run, tmp_path, content):
    with pytest.raises(UserError):
        import_review(run, "coco", _file(tmp_path, content))


SIDE = 15_000
"""Of an image that a file only states; the run's images are much smaller."""


def _stated_by_label_studio(run: RunFolder) -> object:
    tasks = _tasks(run)
    for region in tasks[0]["annotations"][0]["result"]:
        region |= {"original_width": SIDE, "original_height": SIDE}
        region["value"]["rle"] = _brush_of_zeros(4 * SIDE * SIDE)
    return tasks


def _brush_of_zeros(num_values: int) -> list[int]:
    text = f"{num_values:032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    text += f"111{2**16 - 1:016b}{0:08b}" * (num_values // 2**16 + 1)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _stated_by_coco(run: RunFolder) -> object:
    dataset = _dataset(run)
    image = dataset["images"][0]
    image |= {"width": SIDE, "height": SIDE}
    mine = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
    for annotation in mine:
        annotation["segmentation"] = [[0, 0, SIDE, 0, SIDE, SIDE, 0, SIDE]]
    return dataset


def _stated_by_cvat(run: RunFolder) -> object:
    cvat.export(run, cvat.Options())
    text = run.folder.read_bytes("exports/cvat/annotations.xml").decode()
    return text.replace('width="56" height="40"', f'width="{SIDE}" height="{SIDE}"', 1)


@pytest.mark.parametrize(
    ("tool", "stated"),
    [
        ("label-studio", _stated_by_label_studio), ("coco", _stated_by_coco),
        ("cvat", _stated_by_cvat),
    ],
)  # fmt: skip
def test_masks_of_an_image_larger_than_the_runs_are_not_made(run, tmp_path, tool, stated):
    content = stated(run)
    file = tmp_path / "file"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    tracemalloc.start()
    report = import_review(run, tool, str(file), CHECKED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    note = report.notes[NoteKind.WRONG_SIZE]
    assert (report.num_images, note.count) == (len(PATHS) - 1, 1)
    assert note.first == (f"{PATHS[0]}: {SIDE} x {SIDE} in the file, 56 x 40 in the run",)
    assert peak < 30 << 20


def _file_of(run: RunFolder, tool: str, tmp_path: Path) -> str:
    """Export to a tool; return the file that it would give back unchanged."""
    if tool == "label-studio":
        return _file(tmp_path, _tasks(run))
    if tool == "coco":
        return _file(tmp_path, _dataset(run))
    cvat.export(run, cvat.Options())
    return f"{run.folder.uri}/exports/cvat/annotations.xml"


def _edit(tool: str, file: str, shrunk: np.ndarray, new: np.ndarray) -> None:
    """Edit each image of a file by hand: the first cat gets another mask and the dog is deleted;
    a new cat is drawn. The plant's name of its segment is lost."""
    content = Path(file).read_text(encoding="utf-8")
    if tool == "coco":
        dataset = json.loads(content)
        dataset["annotations"] = [one for one in dataset["annotations"] if one["category_id"] != 2]
        for image in {one["image_id"] for one in dataset["annotations"]}:
            first, _, plant = (one for one in dataset["annotations"] if one["image_id"] == image)
            first["segmentation"]["counts"] = counts_of(shrunk)
            del first["attributes"], plant["attributes"]
            drawn = {"size": [30, 44], "counts": counts_of(new)}
            more = {"id": 99 + image, "segmentation": drawn}
            dataset["annotations"].append({**first, **more})
        content = json.dumps(dataset)
    elif tool == "label-studio":
        tasks = json.loads(content)
        for result in (task["annotations"][0]["result"] for task in tasks[:2]):
            del result[2]
            first, _, plant = result
            plant["id"] = "a-new-name"
            result.append(json.loads(json.dumps({**first, "id": "drawn"})))
            for entry, mask in ((first, shrunk), (result[-1], new)):
                entry["value"]["rle"] = label_studio_brush.encode_brush(mask).tolist()
        content = json.dumps(tasks)
    else:
        root = ElementTree.fromstring(content)
        for image in root.findall("image")[:2]:
            first, _, dog, plant = image.findall("mask")
            image.remove(dog)
            for attribute in plant.findall("attribute"):
                plant.remove(attribute)
            drawn = ElementTree.SubElement(image, "mask", {"label": "cat"})
            for element, mask in ((first, shrunk), (drawn, new)):
                rows, columns = np.nonzero(mask)
                top, left = rows.min(), columns.min()
                height, width = rows.max() - top + 1, columns.max() - left + 1
                assert mask.sum() == height * width
                box = {"top": top, "left": left, "height": height, "width": width}
                for name, value in {**box, "rle": f"0,{height * width}"}.items():
                    element.set(name, str(value))
        content = ElementTree.tostring(root, encoding="unicode")
    Path(file).write_text(content, encoding="utf-8")


@pytest.mark.parametrize("tool", ["coco", "cvat", "label-studio"])
def test_instances_that_touch_stay_apart_when_they_come_back_edited(tool, tmp_path):
    run = crowded_run(tmp_path)
    file = _file_of(run, tool, tmp_path)
    shrunk, new = np.zeros((30, 44), bool), np.zeros((30, 44), bool)
    shrunk[4:20, 3:20] = True  # over the right cat
    new[20:28, 30:42] = True  # touches the right cat
    _edit(tool, file, shrunk, new)
    report = import_review(run, tool, file)
    cats = _by_name(report)["cat"]
    assert (cats.predicted, cats.changed, cats.accepted, cats.added) == (4, 2, 2, 2)
    layer = ReviewedLayer(run)
    for path in ("a/one.png", "turned.jpg"):
        found = {
            (mask.segment_index, mask.label, mask.verdict, mask.area_px)
            for mask in layer.masks(f"id-{path}")
        }
        assert found == {
            (0, "cat", "changed", shrunk.sum()),
            (1, "cat", "accepted", 288),
            (3, "potted plant", "accepted", 16),
            (None, "cat", "added", new.sum()),
        }
    coco.export(run, coco.Options(masks="reviewed"))
    again = json.loads(run.folder.read_bytes("exports/coco/instances.json"))
    assert [(one["category_id"], one["iscrowd"]) for one in again["annotations"]] == [
        (1, 0), (1, 0), (3, 0), (1, 0),
    ] * 2  # fmt: skip
    assert len({one["id"] for one in again["annotations"]}) == 8


@pytest.mark.parametrize("tool", ["coco", "cvat", "label-studio", "coco, one mask per label"])
def test_unchanged_instances_are_accepted_one_by_one(tool, tmp_path):
    run = crowded_run(tmp_path)
    if tool.endswith("per label"):
        tool, options = "coco", coco.Options(segments="class")
        file = f"{run.folder.uri}/{coco.export(run, options)[0]}"
    else:
        file = _file_of(run, tool, tmp_path)
    import_review(run, tool, file, CHECKED)
    layer = ReviewedLayer(run)
    masks = [mask for image_id in layer.images for mask in layer.masks(image_id)]
    assert [mask.segment_index for mask in masks] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert {mask.verdict for mask in masks} == {"accepted"}
    assert evaluate(run, "reviewed").miou == 1.0


def _relabelled_into_a_label_that_is_there(run: RunFolder) -> None:
    """Accept the cat of `photos/a.png` and call its dog a cat, too; reject the dog of `d.png`."""
    common = {"at_s": time.time(), "source": "page"}
    of_first = {**common, "image_id": "id-photos/a.png"}
    dog = {"label": "dog", "segment_index": 1}
    decided = [
        {**of_first, "action": "accept", "label": "cat", "segment_index": 0},
        {**of_first, **dog, "action": "relabel", "new_label": "cat"},
        {**common, **dog, "image_id": "id-d.png", "action": "reject"},
    ]
    ReviewLog(run).append(map(ReviewDecision.model_validate, decided))


def _reviewed(run: RunFolder) -> dict[str, list[tuple]]:
    layer = ReviewedLayer(run)
    return {
        image.path: [
            (mask.segment_index, mask.label, mask.verdict, mask.area_px)
            for mask in layer.masks(image_id)
        ]
        for image_id, image in layer.images.items()
    }


def _export_with_a_mask_less(run: RunFolder, tmp_path: Path) -> str:
    """Return COCO's file of the reviewed run, of which somebody edits `b c/ü.png` alone."""
    dataset = _dataset(run)
    by_name = {image["file_name"]: image["id"] for image in dataset["images"]}
    labels = [
        one["category_id"] for one in dataset["annotations"] if one["image_id"] == by_name[PATHS[0]]
    ]
    assert labels == [1, 3]  # the export has joined the two cats
    edited = [one for one in dataset["annotations"] if one["image_id"] == by_name[PATHS[1]]]
    dataset["annotations"].remove(edited[0])
    return _file(tmp_path, dataset)


def test_images_as_reviewed_before_are_unchanged(run, tmp_path):
    _relabelled_into_a_label_that_is_there(run)
    file = _export_with_a_mask_less(run, tmp_path)
    before, rules = _reviewed(run), ImportRules(unchanged_means="unreviewed")
    report = import_review(run, "coco", file, rules)
    assert report.num_images == 1
    assert {kind: note.first for kind, note in report.notes.items()} == {
        NoteKind.UNCHANGED: (PATHS[0], PATHS[2])
    }
    assert _reviewed(run) == before | {PATHS[1]: _reviewed(run)[PATHS[1]]}
    with pytest.raises(UserError, match=r"nothing of the file was taken: .*as reviewed before"):
        import_review(run, "coco", file, rules)


@pytest.mark.parametrize("prefer", ["newer", "file"])
def test_masks_that_an_export_joined_arrive_as_they_were(prefer, run, tmp_path):
    _relabelled_into_a_label_that_is_there(run)
    file = _export_with_a_mask_less(run, tmp_path)
    report = import_review(run, "coco", file, ImportRules(prefer=prefer))
    assert (report.num_images, report.num_unchanged, dict(report.notes)) == (3, 0, {})
    assert [mask[:3] for mask in sorted(_reviewed(run)[PATHS[0]])] == [
        (0, "cat", "accepted"), (1, "cat", "changed"), (2, "potted plant", "accepted"),
    ]  # fmt: skip
    cats, dogs = (_by_name(report)[name] for name in ("cat", "dog"))
    assert (cats.accepted, dogs.changed, dogs.rejected) == (2, 1, 1)
