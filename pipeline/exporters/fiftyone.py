"""FiftyOne: `labels.json`, a COCO file, and `load.py`, which loads it worst image first.

FiftyOne's own importer reads a COCO `score` as the confidence of a detection and `attributes` as
further fields, but nothing beyond the size of an image: the loader adds `review_priority`.
"""

import json

from pipeline.exporters.shared import coco_file
from pipeline.exporters.shared.export import Export, ExportOptions
from pipeline.exporters.shared.segments import SegmentKind
from pipeline.run.folder import RunFolder
from schemas.records import Share

FOLDER = "exports/fiftyone"
FILES = r"labels\.json|load\.py"
_JSON, _LOADER_FILE = "labels.json", "load.py"
_NOT_HELD = (
    "writing back: FiftyOne exports COCO as simplified polygons; correct masks in another tool",
)
_LOADER = '''"""Load labels.json into FiftyOne: python load.py FOLDER_OF_THE_PHOTOGRAPHS"""

import json, sys
from pathlib import Path
import fiftyone as fo

photos, labels = Path(sys.argv[1]).resolve(), Path(__file__).with_name("labels.json")
dataset = fo.Dataset.from_dir(
    dataset_type=fo.types.COCODetectionDataset, data_path=str(photos), labels_path=str(labels),
    label_types="segmentations", label_field="pred")
doubt = {str(photos / image["file_name"]): image["review_priority"]
         for image in json.loads(labels.read_text())["images"]}
dataset.set_values("review_priority", [doubt[path] for path in dataset.values("filepath")])
if __name__ == "__main__":
    fo.launch_app(dataset.sort_by("review_priority", reverse=True)).wait()
'''


class Options(ExportOptions):
    """Options of the FiftyOne exporter."""

    min_score: Share = 0.0
    """Segments with a lower score are left out."""
    segments: SegmentKind = "as_run"
    """What a mask is: `as_run`, `class` (one for each label and image) or `components`."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write both files and return their paths in the run folder."""
    title = "FiftyOne: what it does not hold of this run"
    with Export(run, FOLDER, options, title, _NOT_HELD) as export:
        head = coco_file.head(export.reader, options.segments, min_score=options.min_score)
        dataset = coco_file.CocoFile(export.local_file(_JSON), head, export.open_files)
        number = 0
        for image, rows in export.images(options.segments, options.min_score):
            annotations = []
            for row in rows:
                number += 1
                entry = coco_file.annotation_entry(number, image["coco_id"], row)
                annotations.append(json.dumps(entry))
            image_entry = coco_file.image_entry(image, image["path"])
            dataset.add_json(json.dumps(image_entry), annotations)
        export.upload([dataset.close()])
        export.write(_LOADER_FILE, _LOADER.encode())
    return [f"{FOLDER}/{_JSON}", f"{FOLDER}/{_LOADER_FILE}"]
