"""Annotation tools read the exports: those that can be installed in the same environment.

For datumaro, labelme and FiftyOne see `make test-clients`, for Label Studio `make
test-labelstudio`.
"""

import contextlib
import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import supervision
from cvat_sdk import masks as cvat_masks
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.exporters import coco, cvat, yolo_seg
from pipeline.run.folder import RunFolder
from tests.helpers.annotated_instances import annotated_instances, overlapping_pairs
from tests.helpers.drawn_runs import LABELS, Scene, awkward_scenes, label_map, make_run
from tests.helpers.exported_masks import Mask, counts_of, run_masks

pytestmark = pytest.mark.filterwarnings("ignore")  # the tools' own


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, awkward_scenes())


def _photos(run: RunFolder) -> Path:
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


def test_pycocotools_reads_instances_that_overlap(tmp_path: Path) -> None:
    run = annotated_instances(tmp_path)
    assert overlapping_pairs(run)
    coco.export(run, coco.Options())
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(f"{run.folder.uri}/exports/coco/instances.json")
        results = dataset.loadRes(f"{run.folder.uri}/exports/coco/results_segm.json")
    for read in (dataset, results):
        assert {annotation["iscrowd"] for annotation in read.anns.values()} == {0}
        masks = [
            (
                read.imgs[annotation["image_id"]]["file_name"],
                read.cats[annotation["category_id"]]["name"],
                counts_of(read.annToMask(annotation)),
            )
            for annotation in read.anns.values()
        ]
        assert sorted(masks) == run_masks(run)


def test_supervision_reads_coco_to_the_pixel(run):
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
            # Only holes are lost, and blocks of this size have few of them.
            assert (truth & drawn).sum() / truth.sum() > 0.98
            assert (truth & drawn).sum() / (truth | drawn).sum() > 0.75


def test_cvat_decodes_the_masks_of_the_xml(run):
    cvat.export(run, cvat.Options())
    tree = ElementTree.fromstring(run.folder.read_bytes("exports/cvat/annotations.xml"))
    masks: list[Mask] = []
    for image in tree.iter("image"):
        size = {f"image_{side}": int(image.attrib[side]) for side in ("width", "height")}
        for entry in image.iter("mask"):
            left, top, width, height = (
                int(entry.attrib[name]) for name in ("left", "top", "width", "height")
            )
            lengths = [int(length) for length in entry.attrib["rle"].split(",")]
            points = [*lengths, left, top, left + width - 1, top + height - 1]
            mask = cvat_masks.decode_mask(points, **size)
            assert cvat_masks.encode_mask(mask) == points  # CVAT itself would have written these
            masks.append((image.attrib["name"], entry.attrib["label"], counts_of(mask)))
    assert sorted(masks) == run_masks(run)
