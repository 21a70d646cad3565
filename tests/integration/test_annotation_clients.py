"""The tools themselves read the exports; each test needs its tool and says so where there is none.

None is a dependency: datumaro asks for an older OpenCV and Pillow, labelme for Qt. To run them:
`pip install supervision datumaro labelme` into a second environment that also sees this one.
"""

import contextlib
import io
import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.exporters import coco, cvat, fiftyone, labelme, panoptic, yolo_seg
from pipeline.finished import FinishedRun
from pipeline.rundir import RunDir
from tests.exports import Mask, counts_of, run_masks, stem_file
from tests.runs import LABELS, Scene, awkward_scenes, label_map, make_run

pytestmark = pytest.mark.filterwarnings("ignore")  # the tools' own


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path, awkward_scenes())


def _photos(run: RunDir) -> Path:
    return Path(run.folder.uri).parent / "photos"


def test_pycocotools_reads_every_option(run):
    for options in ({}, {"segments": "components"}, {"polygons": True}, {"flatten_names": True}):
        coco.export(run, coco.Options.model_validate(options))
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = COCO(f"{run.folder.uri}/exports/coco/instances.json")
        assert dataset.anns
        for annotation in dataset.anns.values():
            mask = dataset.annToMask(annotation)
            assert annotation["area"] == mask.sum()
            tight = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask)))
            assert annotation["bbox"] == tight.tolist()


def test_supervision_reads_coco_to_the_pixel(run):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    coco.export(run, coco.Options())
    found = supervision.DetectionDataset.from_coco(
        images_directory_path=str(_photos(run)),
        annotations_path=f"{run.folder.uri}/exports/coco/instances.json",
        force_masks=True,
    )
    masks = [
        (str(Path(path).relative_to(_photos(run))), found.classes[label], counts_of(mask))
        for path, detections in found.annotations.items()
        if len(detections)
        for mask, label in zip(detections.mask, detections.class_id, strict=True)
    ]
    assert sorted(masks) == run_masks(run)


def test_supervision_reads_yolo_lines(tmp_path):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    scenes = [Scene(f"{n}.jpg", label_map(n, 120, 168), 0.7) for n in range(3)]
    run = make_run(tmp_path, scenes)
    yolo_seg.export(run, yolo_seg.Options(copy_images=True))
    folder = f"{run.folder.uri}/exports/yolo_seg"
    found = supervision.DetectionDataset.from_yolo(
        images_directory_path=f"{folder}/images",
        annotations_directory_path=f"{folder}/labels",
        data_yaml_path=f"{folder}/data.yaml",
        force_masks=True,
    )
    assert found.classes == list(LABELS)
    for scene in scenes:
        detections = found.annotations[f"{folder}/images/{scene.path}"]
        for label in range(3):
            truth = scene.label_map == label + 1
            drawn = np.any(detections.mask[detections.class_id == label], axis=0)
            # Only holes are lost, and blocks of this size have few.
            assert (truth & drawn).sum() / truth.sum() > 0.98
            assert (truth & drawn).sum() / (truth | drawn).sum() > 0.75


def test_datumaro_reads_coco_to_the_pixel(tmp_path):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    # Its items have no ending, so that two images of one stem make it fail.
    plain = [scene for scene in awkward_scenes() if scene.path != "a b/hole #1.png"]
    run = make_run(tmp_path, plain)
    coco.export(run, coco.Options())
    folder = tmp_path / "dataset"
    for name in ("annotations", "images"):  # it insists on folders of these names
        (folder / name).mkdir(parents=True)
    (folder / "images" / "default").symlink_to(_photos(run))
    file = folder / "annotations" / "instances_default.json"
    file.write_bytes(run.folder.read_bytes("exports/coco/instances.json"))
    dataset = datumaro.Dataset.import_from(str(folder), "coco_instances")
    labels = dataset.categories()[datumaro.AnnotationType.label]
    ends = {str(Path(scene.path).with_suffix("")): scene.path for scene in plain}
    masks: list[Mask] = []
    scores = []
    for item in dataset:
        for entry in item.annotations:
            if entry.type == datumaro.AnnotationType.mask:
                masks.append((ends[item.id], labels[entry.label].name, counts_of(entry.image)))
                scores.append(round(float(entry.attributes["score"]), 6))
    assert sorted(masks) == run_masks(run)
    rows = [row for shard in FinishedRun(run).shards() for row in shard.segments()]
    assert sorted(scores) == sorted(round(row["mean_prob"], 6) for row in rows)


@pytest.mark.parametrize("kind", ["coco_instances", "cvat"])
def test_datumaro_reads_what_cvat_gets(tmp_path, kind):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    # CVAT and datumaro drop endings: two images of one stem are one to them.
    scenes = [scene for scene in awkward_scenes() if scene.path != "a b/hole #1.png"]
    run = make_run(tmp_path, scenes)
    cvat.export(run, cvat.Options())
    folder = tmp_path / "cvat"
    if kind == "cvat":
        shutil.copytree(_photos(run), folder / "images")
        shutil.copy(f"{run.folder.uri}/exports/cvat/annotations.xml", folder)
    else:
        shutil.copytree(_photos(run), folder / "images" / "default")
        shutil.unpack_archive(f"{run.folder.uri}/exports/cvat/coco.zip", folder)
    dataset = datumaro.Dataset.import_from(str(folder), kind)
    labels = dataset.categories()[datumaro.AnnotationType.label]
    found = []
    for item in dataset:
        for entry in item.annotations:
            if entry.type == datumaro.AnnotationType.mask:
                assert {"score", "review_priority", "segment_index"} <= entry.attributes.keys()
                found.append((item.id, labels[entry.label].name, counts_of(entry.image)))
    masks = [(str(Path(path).with_suffix("")), *rest) for path, *rest in run_masks(run)]
    assert sorted(found) == sorted(masks)


def test_labelme_opens_every_file(run, monkeypatch):
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    label_file = pytest.importorskip("labelme._label_file", reason="labelme is not installed")
    labelme.export(run, labelme.Options(copy_images=True))
    masks: list[Mask] = []
    for shard in FinishedRun(run).shards(("path", "height", "width")):
        for image in shard.images.values():
            file = stem_file(run, "exports/labelme", image["path"], ".json")
            opened = label_file.read_label_file(f"{run.folder.uri}/{file}")
            for shape in opened.shapes:
                assert shape["shape_type"] == "mask"
                (left, top), (right, bottom) = shape["points"]
                mask = np.zeros((image["height"], image["width"]), np.uint8)
                mask[top : bottom + 1, left : right + 1] = shape["mask"]
                masks.append((image["path"], shape["label"], counts_of(mask)))
    assert sorted(masks) == run_masks(run)


def test_panopticapi_finds_the_export_equal_to_itself(run):
    evaluation = pytest.importorskip(
        "panopticapi.evaluation", reason="panopticapi is not installed (it is not on PyPI)"
    )
    panoptic.export(run, panoptic.Options())
    folder = f"{run.folder.uri}/exports/panoptic"
    with contextlib.redirect_stdout(io.StringIO()):
        file, pictures = f"{folder}/panoptic.json", f"{folder}/panoptic"
        found = evaluation.pq_compute(file, file, pictures, pictures)
    assert found["All"]["pq"] == 1.0


@pytest.mark.skipif(
    "FIFTYONE_DATABASE_URI" not in os.environ,
    reason="FiftyOne needs a MongoDB: FIFTYONE_DATABASE_URI is not set",
)
def test_fiftyone_loads_masks_confidence_and_priority(run, monkeypatch):
    pytest.importorskip("fiftyone", reason="FiftyOne is not installed")
    fiftyone.export(run, fiftyone.Options())
    monkeypatch.setattr("sys.argv", ["load.py", str(_photos(run))])
    loader = f"{run.folder.uri}/exports/fiftyone/load.py"
    dataset = runpy.run_path(loader, run_name="loaded")["dataset"]
    shards = list(FinishedRun(run).shards(("path", "height", "width", "review_priority")))
    images = {row["path"]: row for shard in shards for row in shard.images.values()}
    masks: list[Mask] = []
    for sample in dataset:
        path = str(Path(sample.filepath).relative_to(_photos(run)))
        image = images[path]
        assert sample.review_priority == pytest.approx(image["review_priority"], abs=1e-6)
        for found in sample.pred.detections if sample.pred else ():
            size = np.array([image["width"], image["height"]] * 2)
            left, top, width, height = np.round(found.bounding_box * size).astype(int)
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            mask[top : top + height, left : left + width] = found.mask
            masks.append((path, found.label, counts_of(mask)))
            assert 0 < found.confidence <= 1
    assert sorted(masks) == run_masks(run)
