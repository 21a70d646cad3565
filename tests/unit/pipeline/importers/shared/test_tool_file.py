"""Odd files of tools: ids of another type, an image twice, archives, damage."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.corrections.import_review import import_review
from pipeline.corrections.layer import ReviewedLayer
from pipeline.exporters import coco, cvat, label_studio
from pipeline.importers import label_studio as label_studio_importer
from pipeline.run.folder import RunFolder
from pipeline.storage.folder import Folder
from schemas.errors import UserError
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, awkward_scenes, label_map, make_run

PATHS = ("a.png", "b/c.png", "d.png", "e.png")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    scenes = [Scene(path, label_map(seed)) for seed, path in enumerate(PATHS)]
    return make_run(tmp_path, [*scenes, Scene("broken.png", None)], RunSpec(shard_size=1))


@pytest.fixture
def dataset(run: RunFolder) -> dict:
    coco.export(run, coco.Options())
    return json.loads(run.folder.read_bytes("exports/coco/instances.json"))


@pytest.fixture
def tasks(run: RunFolder) -> list[dict]:
    label_studio.export(run, label_studio.Options())
    tasks = json.loads(run.folder.read_bytes("exports/label_studio/tasks.json"))
    for task in tasks:
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
    return tasks


def _import(run: RunFolder, tool: str, content: object):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    file = Path(run.folder.uri).parent / "review"
    file.write_bytes(data)
    return import_review(run, tool, str(file))


def _accepted(report) -> int:
    return sum(label.accepted for label in report.labels)


@pytest.mark.parametrize(
    "kind", [str, float, lambda number: f"{number}"], ids=["str", "float", "f"]
)
def test_ids_as_text_equal_ids_as_numbers(run, dataset, kind):
    for entry in dataset["annotations"]:
        entry["image_id"], entry["category_id"] = (
            kind(entry["image_id"]),
            kind(entry["category_id"]),
        )
    assert _accepted(_import(run, "coco", dataset)) == 12


def test_masks_of_images_missing_in_the_file_are_left_out(run, dataset, caplog):
    whole = dict(dataset)
    dataset["images"] = dataset["images"][:2]
    report = _import(run, "coco", dataset)
    assert (report.num_images, _accepted(report)) == (2, 6)
    assert "6 masks are of images that the file does not have" in caplog.text
    for entry in whole["annotations"]:
        entry["image_id"] += 100
    with pytest.raises(UserError, match="image_id 101"):
        _import(run, "coco", whole)


def test_repeated_image_closest_name_counts_then_the_last(run, dataset):
    first = dataset["images"][0]
    # Of another folder, and then the image itself, given by somebody who rejected everything.
    dataset["images"].append({**first, "id": 50, "file_name": "other/a.png"})
    report = _import(run, "coco", dataset)
    assert (report.num_images, report.num_repeated, _accepted(report)) == (4, 1, 12)
    dataset["images"].append({**first, "id": 51})
    report = _import(run, "coco", dataset)
    assert (report.num_images, report.num_repeated, _accepted(report)) == (4, 2, 9)
    assert ReviewedLayer(run).masks("id-a.png") == ()


def test_image_without_annotation_in_the_run_is_left_out(run, dataset):
    dataset["images"].append({"id": 50, "file_name": "broken.png", "height": 5, "width": 5})
    assert _import(run, "coco", dataset).num_unknown == 1


def test_image_of_another_size_is_left_out(run, dataset):
    dataset["images"][0]["height"] = 41
    dataset["annotations"] = dataset["annotations"][3:]
    report = _import(run, "coco", dataset)
    assert (report.num_wrong_size, report.num_images) == (1, 3)
    assert "id-a.png" not in ReviewedLayer(run).images


class CountingRun(RunFolder):
    """Keeps the shards whose annotations were read."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.read: list[int] = []

    def shard_table(self, marker, name, columns=None):
        if name == "annotations":
            self.read.append(marker.shard)
        return super().shard_table(marker, name, columns)


def test_images_in_any_order_read_each_shard_once(run, tasks):
    counting = CountingRun(run.folder)
    _import(counting, "label-studio", [tasks[at] for at in (3, 0, 2, 1)])
    assert counting.read == [0, 1, 2, 3]
    assert list(ReviewedLayer(run).images) == [f"id-{path}" for path in PATHS]


def test_region_with_two_labels_gives_two_masks(run, tasks):
    region = tasks[0]["annotations"][0]["result"][0]
    region["value"]["brushlabels"] = ["cat", "dog"]
    tasks[0]["annotations"][0]["result"] = [region]
    _import(run, "label-studio", tasks[:1])
    masks = ReviewedLayer(run).masks("id-a.png")
    assert [mask.label for mask in masks] == ["cat", "dog"]
    assert masks[0].rle_counts == masks[1].rle_counts


def test_last_annotation_without_a_date_counts(run, tasks):
    older = {"result": [], "updated_at": None}
    for annotations in ([older, {**older, **tasks[0]["annotations"][0]}],):
        tasks[0]["annotations"] = annotations
        assert _accepted(_import(run, "label-studio", tasks[:1])) == 3
    dated = [{**annotations[1], "updated_at": "2026-01-01T00:00:00Z"}, older]
    tasks[0]["annotations"] = dated
    assert _accepted(_import(run, "label-studio", tasks[:1])) == 3


@pytest.mark.parametrize("time", [-6, float("nan"), float("inf"), "soon", None])
def test_impossible_time_is_unknown(run, tasks, time):
    tasks[0]["annotations"][0]["lead_time"] = time
    tasks[1]["annotations"][0]["lead_time"] = 90
    report = _import(run, "label-studio", tasks)
    assert (report.num_images, report.num_images_with_time, report.minutes) == (4, 1, 1.5)


NO_COCO = [
    {"images": None},
    {"images": [1]},
    {"images": {"a": 1}},
    {"annotations": None},
    {"categories": [{"id": 1, "name": ["cat"]}]},
    {"images": [{"id": 1, "file_name": ["a"], "height": 4, "width": 5}]},
    {"images": [{"id": 1, "file_name": "a.png", "height": None, "width": 5}]},
    {"images": [{"id": 1, "file_name": "a.png", "height": 5, "width": 5}] * 2},
]


@pytest.mark.parametrize("wrong", NO_COCO, ids=str)
def test_file_of_another_form_is_refused(run, wrong):
    with pytest.raises(UserError, match="cannot be read"):
        _import(run, "coco", {"images": [], "annotations": [], "categories": []} | wrong)
    assert run.folder.list("reviewed") == []


@pytest.mark.parametrize(
    ("tool", "content", "message"),
    [
        ("label-studio", [{"image": "a.png", "tag": []}], "JSON-MIN"),
        ("label-studio", [{"annotations": []}], "the file has no reviewed image"),
        ("cvat", b'<?xml version="1.0" encoding="gbk"?><annotations/>', "no XML"),
        ("cvat", b'<?xml version="1.0" encoding="none"?><annotations/>', "no XML"),
    ],
)
def test_file_of_another_kind_is_refused(run, tool, content, message):
    with pytest.raises(UserError, match=message):
        _import(run, tool, content)


def test_folder_in_place_of_a_file_is_refused(run):
    for place in ("/", str(Path(run.folder.uri).parent)):
        with pytest.raises(Exception, match=r"is a folder|directory") as found:
            import_review(run, "coco", place)
        assert not isinstance(found.value, ValueError)


def _packed(files: dict[str, bytes]) -> bytearray:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return bytearray(packed.getvalue())


def test_archive_is_opened_for_every_tool(run, dataset, tasks):
    for tool, content in (("coco", dataset), ("label-studio", tasks)):
        files = {"export/x.json": json.dumps(content).encode(), "__MACOSX/export/._x.json": b"\0"}
        assert _accepted(_import(run, tool, bytes(_packed(files)))) == 12


def _damaged(data: bytearray) -> bytearray:
    data[60:200] = bytes(140)
    return data


def _with_password(data: bytearray) -> bytearray:
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return data


def _packed_unknown(data: bytearray) -> bytearray:
    data[8] = data[data.rindex(b"PK\x01\x02") + 10] = 99
    return data


@pytest.mark.parametrize("change", [_damaged, _with_password, _packed_unknown])
def test_unreadable_archive_is_refused(run, change):
    noise = np.random.default_rng(0).integers(32, 99, 4000).astype(np.uint8).tobytes()
    with pytest.raises(UserError, match="unpack it"):
        _import(run, "coco", bytes(change(_packed({"x.json": noise}))))


def test_zip_bomb_is_not_unpacked(run):
    data = _packed({"x.json": bytes(1 << 12)})
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (0x7FFFFFFF).to_bytes(4, "little")  # its size, unpacked
    with pytest.raises(UserError, match="would grow"):
        _import(run, "coco", bytes(data))


@pytest.mark.parametrize("kind", ["class", "components"])
@pytest.mark.parametrize("cut", ["class", "components"])
@pytest.mark.parametrize("tool", ["label-studio", "coco", "cvat"])
def test_unchanged_masks_are_accepted_for_every_kind_of_export(kind, cut, tool, tmp_path):
    run = make_run(tmp_path, awkward_scenes(), RunSpec(masks={"segments": kind}))
    exporter = {"label-studio": label_studio, "coco": coco, "cvat": cvat}[tool]
    exporter.export(run, exporter.Options(segments=cut))
    name = {"label-studio": "tasks.json", "coco": "instances.json", "cvat": "annotations.xml"}[tool]
    content = run.folder.read_bytes(f"{exporter.FOLDER}/{name}")
    if tool == "label-studio":
        tasks = json.loads(content)
        for task in tasks:
            regions = task.pop("predictions")[0]["result"]
            assert len({region["id"] for region in regions}) == len(regions)
            task["annotations"] = [{"result": regions}]
        content = json.dumps(tasks).encode()
    report = _import(run, tool, content)
    assert _accepted(report) == sum(label.predicted for label in report.labels) > 9
    assert sum(label.added for label in report.labels) == 0


def test_export_names_the_segment_for_every_kind_of_export(tmp_path):
    run = make_run(tmp_path, awkward_scenes())
    label_studio.export(run, label_studio.Options(segments="components"))
    tasks = json.loads(run.folder.read_bytes("exports/label_studio/tasks.json"))
    task = next(task for task in tasks if len(task["predictions"][0]["result"]) > 9)
    task["annotations"] = [task.pop("predictions")[0]]
    (image,) = label_studio_importer.read(json.dumps([task]).encode())
    names = {LABELS[mask.segment_index or 0] for mask in image.masks}
    assert names == {"cat", "dog"}
    assert all(mask.label == LABELS[mask.segment_index or 0] for mask in image.masks)
