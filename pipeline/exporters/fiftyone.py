"""FiftyOne: `labels.json`, a COCO file, and `load.py`, which loads it worst image first.

FiftyOne's own importer reads a COCO `score` as the confidence of a detection and `attributes` as
further fields, but nothing beyond the size of an image: the loader adds `review_priority`.
"""

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from pipeline.exporters.shared import coco_file, segments
from pipeline.exporters.shared.losses import LossReport
from pipeline.exporters.shared.segments import Segments
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from schemas.base import Frozen
from schemas.records import Share

FOLDER = "exports/fiftyone"
_JSON = "labels.json"
_NEVER = (
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


class Options(Frozen):
    """Options of the FiftyOne exporter."""

    min_score: Share = 0.0
    """Segments with a lower score are left out."""
    segments: Segments = "as_run"
    """How masks are cut: `as_run`, `class` (one for each label and image) or `components`."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write both files and return their paths in the run folder."""
    finished = RunReader(run)
    losses = LossReport("FiftyOne: what it does not hold of this run", _NEVER)
    place = run.folder.child(FOLDER)
    head = {
        "info": coco_file.info(finished, options.segments, min_score=options.min_score),
        "licenses": [],
        "categories": coco_file.categories(finished),
    }
    with tempfile.TemporaryDirectory(prefix="ovseg-fiftyone-") as folder, ExitStack() as open_files:
        document = coco_file.CocoFile(Path(folder, _JSON), head, open_files)
        number = 0
        for image, rows in segments.images(finished, losses, options.segments, options.min_score):
            entries = []
            for row in rows:
                number += 1
                entries.append(json.dumps(coco_file.annotation(number, image["number"], row)))
            document.add_texts(json.dumps(coco_file.image(image, image["path"])), entries)
        document.close()
        place.put_file(_JSON, document.path)
    place.atomic_write("load.py", _LOADER.encode())
    losses.write(place)
    return [f"{FOLDER}/{_JSON}", f"{FOLDER}/load.py"]
