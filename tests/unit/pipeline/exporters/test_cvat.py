"""The CVAT exporter: its files are read back by our importers."""

import io
import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ovseg_core.decision.review_priority import mask_priority
from pipeline.corrections.import_review import ImportRules, import_review
from pipeline.exporters import cvat, label_studio
from pipeline.importers import coco as coco_importer
from pipeline.importers import cvat as importer
from pipeline.importers.shared.notes import Notes
from pipeline.run.folder import RunFolder
from tests.helpers.drawn_runs import RunSpec, Scene, awkward_scenes, label_map, make_run
from tests.helpers.exported_masks import counts_of, run_masks

LABELS = ("cat, small", 'dog "big" & <wild>', "potted plant")


@pytest.fixture(params=["class", "components"])
def run(request, tmp_path: Path) -> RunFolder:
    spec = RunSpec(labels=LABELS, masks={"segments": request.param})
    return make_run(tmp_path, awkward_scenes(), spec)


def _export(run: RunFolder, **options) -> dict[str, bytes]:
    names = cvat.export(run, cvat.Options(**options))
    return {name.rpartition("/")[2]: run.folder.read_bytes(name) for name in names}


@pytest.mark.parametrize(
    ("name", "read"), [("annotations.xml", importer.read), ("coco.zip", coco_importer.read)]
)
def test_export_masks_come_back_to_the_pixel_with_their_segment(run, name, read):
    found, seen = [], set()
    for image in read(_export(run)[name], Notes()):
        seen.add(image.names[0])
        for index, mask in enumerate(image.masks):
            assert mask.segment_index == index
            found.append((image.names[0], mask.label, counts_of(mask.pixels)))
    assert sorted(found) == run_masks(run)
    assert seen == {scene.path for scene in awkward_scenes()}


def test_export_labels_declare_the_attributes_of_the_masks(run):
    files = _export(run)
    labels = json.loads(files["labels.json"])
    assert tuple(label["name"] for label in labels) == LABELS
    declared = {attribute["name"] for label in labels for attribute in label["attributes"]}
    assert declared == {"score", "review_priority", "segment_index"}
    with zipfile.ZipFile(io.BytesIO(files["coco.zip"])) as archive:
        (member,) = archive.namelist()
        assert member == "annotations/instances_default.json"
        dataset = json.loads(archive.read(member))
    for entry in dataset["annotations"]:
        attributes = entry["attributes"]
        assert declared <= attributes.keys()
        scores = {**attributes, "mean_prob": entry["score"]}
        assert attributes["review_priority"] == pytest.approx(mask_priority(scores), abs=1e-4)
    assert b'<attribute name="score">' in files["annotations.xml"]
    task = ElementTree.fromstring(files["annotations.xml"]).find("meta/task")
    assert task is not None
    assert task.findtext("size") == str(len(awkward_scenes()))
    assert tuple(name.text for name in task.findall("labels/label/name")) == LABELS
    inside = task.findall("labels/label/attributes/attribute/name")
    assert {name.text for name in inside} == declared


def test_export_without_xml_deletes_an_old_one(run):
    _export(run)
    assert set(_export(run, xml=False)) == {"labels.json", "coco.zip"}
    assert "exports/cvat/annotations.xml" not in run.folder.list("exports")


def test_export_counts_names_that_cvat_takes_for_one_image(run):
    _export(run)
    losses = run.folder.read_bytes("exports/cvat/LOSSES.txt").decode()
    assert "         2  images whose name another has with another ending" in losses


def test_losses_say_nothing_of_names_where_each_image_has_its_own(tmp_path):
    run = make_run(tmp_path, [Scene(path, label_map(0)) for path in ("a.png", "b.jpg")])
    _export(run)
    losses = run.folder.read_bytes("exports/cvat/LOSSES.txt").decode()
    assert "Lost in this export:\n- nothing\n" in losses


def test_labels_longer_than_cvat_takes_come_back(tmp_path):
    long = "a very long name of a label that nobody would want to type twice, "
    labels = (f"{long}red", f"{long}blue", long.strip()[:64], "cat")
    run = make_run(tmp_path, [Scene("a.png", label_map(0, num_labels=4))], RunSpec(labels=labels))
    cvat.export(run, cvat.Options())
    declared = [
        one["name"] for one in json.loads(run.folder.read_bytes("exports/cvat/labels.json"))
    ]
    assert len(set(declared)) == 4
    assert all(len(name) <= 64 for name in declared)
    assert declared[2:] == list(labels[2:])
    losses = run.folder.read_bytes("exports/cvat/LOSSES.txt").decode()
    assert "2  labels of more than 64 characters" in losses
    assert f"- label {labels[1]!r}: {declared[1]!r} here" in losses
    for tool, file in (("cvat", "annotations.xml"), ("coco", "coco.zip")):
        uri = f"{run.folder.uri}/exports/cvat/{file}"
        rules = ImportRules(unchanged_means="reviewed")
        report = import_review(run, tool, uri, rules)
        assert report.unknown_labels == {}
        assert [label.accepted for label in report.labels] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("exporter", "tool", "file"),
    [(cvat, "cvat", "annotations.xml"), (label_studio, "label-studio", "tasks.json")],
)
def test_names_that_xml_cannot_hold_are_escaped_told_and_come_back(tmp_path, exporter, tool, file):
    labels = ("red\x1b[31m", "two\nlines", "cat")
    paths = ("a\x1b[2J\x07.png", "b\x0b/c\x7f\u202e.png")
    scenes = [Scene(path, label_map(n, num_labels=3)) for n, path in enumerate(paths)]
    run = make_run(tmp_path, scenes, RunSpec(labels=labels))
    written = exporter.export(run, exporter.Options())
    for name in written:
        if name.endswith(".xml"):
            ElementTree.fromstring(run.folder.read_bytes(name))
    losses = run.folder.read_bytes(f"{exporter.FOLDER}/LOSSES.txt").decode()
    assert r"red\x1b[31m" in losses
    back = tmp_path / file  # as if somebody had accepted the predictions in Label Studio
    content = run.folder.read_bytes(f"{exporter.FOLDER}/{file}")
    back.write_bytes(content.replace(b'"predictions"', b'"annotations"'))
    report = import_review(run, tool, str(back), ImportRules(unchanged_means="reviewed"))
    assert report.unknown_labels == {}
    assert report.num_images == 2
    assert [label.accepted for label in report.labels] == [2, 2, 2]
