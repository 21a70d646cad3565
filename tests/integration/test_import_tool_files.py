"""Odd files of tools: ids of another type, an image twice, archives, damage."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from pipeline.corrections.import_review import ImportRules, import_review
from pipeline.corrections.layer import ReviewedLayer
from pipeline.exporters import coco, cvat, label_studio
from pipeline.importers.shared.notes import NoteKind
from pipeline.run.folder import RunFolder
from pipeline.storage.folder import Folder
from tests.helpers.drawn_runs import RunSpec, Scene, awkward_scenes, label_map, make_run
from tests.helpers.exported_masks import coco_dataset, label_studio_tasks

PATHS = ("a.png", "b/c.png", "d.png", "e.png")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    scenes = [Scene(path, label_map(seed)) for seed, path in enumerate(PATHS)]
    return make_run(tmp_path, [*scenes, Scene("broken.png", None)], RunSpec(shard_size=1))


@pytest.fixture
def dataset(run: RunFolder) -> dict:
    return coco_dataset(run)


@pytest.fixture
def tasks(run: RunFolder) -> list[dict]:
    tasks = label_studio_tasks(run)
    for task in tasks:
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
    return tasks


def _import(run: RunFolder, tool: str, content: object):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    file = Path(run.folder.uri).parent / "review"
    file.write_bytes(data)
    return import_review(run, tool, str(file), ImportRules(unchanged_means="reviewed"))


def _accepted(report) -> int:
    return sum(label.accepted for label in report.labels)


def test_image_without_annotation_in_the_run_is_left_out(run, dataset):
    dataset["images"].append({"id": 50, "file_name": "broken.png", "height": 5, "width": 5})
    note = _import(run, "coco", dataset).notes[NoteKind.UNKNOWN_IMAGES]
    assert (note.count, note.first) == (1, ("broken.png",))


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
