"""CVAT's two files: masks back to the pixel, attributes that the labels declare."""

import io
import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ovseg_core.decision.review_priority import mask_priority
from pipeline.exporters import cvat
from pipeline.importers import coco as coco_importer
from pipeline.importers import cvat as importer
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from tests.helpers.drawn_runs import RunSpec, awkward_scenes, make_run
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
def test_masks_come_back_to_the_pixel_with_their_origin(run, name, read):
    found, seen = [], set()
    for image in read(_export(run)[name]):
        seen.add(image.names[0])
        for index, mask in enumerate(image.masks):
            assert mask.segment_index == index
            found.append((image.names[0], mask.label, counts_of(mask.pixels)))
    assert sorted(found) == run_masks(run)
    assert seen == {scene.path for scene in awkward_scenes()}


def test_the_labels_declare_what_the_masks_carry(run):
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


def test_the_xml_may_be_left_out_and_an_old_one_goes(run):
    _export(run)
    assert set(_export(run, xml=False)) == {"labels.json", "coco.zip"}
    assert "exports/cvat/annotations.xml" not in run.folder.list("exports")


def test_names_that_cvat_cannot_tell_apart_are_counted(run):
    _export(run)
    losses = run.folder.read_bytes("exports/cvat/LOSSES.txt").decode()
    assert "         2  images whose name another has with another ending" in losses


def _xml(body: str) -> bytes:
    image = f'<image id="0" name="a.png" width="6" height="4">{body}</image>'
    return f"<annotations><version>1.1</version>{image}</annotations>".encode()


def test_a_mask_a_polygon_and_a_box():
    body = (
        '<mask label="cat" rle="0, 1, 2, 1" left="1" top="2" width="2" height="2" z_order="0"/>'
        '<polygon label="dog" points="0.0,0.0;3.0,0.0;3.0,2.0;0.0,2.0"/>'
        '<box label="dog" xtl="0" ytl="0" xbr="1" ybr="1"/>'
    )
    (image,) = importer.read(_xml(body))
    mask, polygon = image.masks
    expected = np.zeros((4, 6), bool)
    expected[2, 1] = expected[3, 2] = True
    np.testing.assert_array_equal(mask.pixels, expected)
    assert polygon.pixels[:2, :3].all()
    assert polygon.pixels.sum() == 6
    assert (image.num_left_out, image.size_hw, mask.segment_index) == (1, (4, 6), None)


@pytest.mark.parametrize(
    "body",
    [
        '<mask label="cat" rle="0, 3" left="1" top="2" width="2" height="2"/>',
        '<mask label="cat" rle="0, 4" left="5" top="2" width="2" height="2"/>',
        '<mask label="cat" rle="-1, 5" left="1" top="2" width="2" height="2"/>',
        '<mask label="cat" rle="x" left="1" top="2" width="2" height="2"/>',
        '<mask rle="0, 4" left="1" top="2" width="2" height="2"/>',
        '<polygon label="cat" points="1,2;3,4"/>',
    ],
)
def test_a_damaged_shape_is_told_with_its_image(body):
    with pytest.raises(UserError, match=r"image 'a\.png'"):
        list(importer.read(_xml(body)))


@pytest.mark.parametrize("data", [b"", b"<a", b"<annotations/>", b'{"images": []}', b"PK\x03\x04x"])
def test_other_files_are_refused(data):
    with pytest.raises(UserError):
        list(importer.read(data))


def test_an_archive_without_the_file_or_with_two_is_refused():
    for names in ([], ["a.xml", "b.xml"]):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("readme.txt", "x")
            for name in names:
                archive.writestr(name, _xml(""))
        with pytest.raises(UserError, match=r"expected one \.xml"):
            list(importer.read(packed.getvalue()))
