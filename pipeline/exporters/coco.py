"""COCO: `instances.json` for tools and training, `results_segm.json` for COCOeval.

Both are streamed shard by shard, so memory does not grow with the collection. With `max_bytes`
they are cut into `instances-00001.json` and so on, each a whole COCO file of some of the images.
"""

import json
import logging
import re
import tempfile
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt

from pipeline.exporters.shared import coco_file, segments
from pipeline.exporters.shared.coco_records import CocoAnnotation, CocoImage
from pipeline.exporters.shared.losses import GOOD_IOU, NAME, LossReport
from pipeline.exporters.shared.outlines import Fit, Polygons, Tolerance, coco_polygons
from pipeline.exporters.shared.segments import DIGITS, Segments
from pipeline.run.file_names import flat_name
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader
from schemas.base import Frozen
from schemas.records import Share

logger = logging.getLogger(__name__)

FOLDER = "exports/coco"
_OURS = re.compile(r"(instances|results_segm)(-[0-9]{5,})?[.]json")
_RESULT = ("image_id", "category_id", "segmentation", "score")
_END_BYTES = 32
"""What closes a file."""


class Options(Frozen):
    """Options of the COCO exporter."""

    min_score: Share = 0.0
    """Segments with a lower score (mean probability of the label under the mask) are left out."""
    segments: Segments = "as_run"
    """How masks are cut: `as_run`, `class` (one for each label and image) or `components`
    (connected regions, which are not instances)."""
    min_area_px: NonNegativeInt = 0
    """Segments of fewer pixels are left out, counted after cutting."""
    polygons: bool = False
    """Polygons in place of run lengths, one for each connected region; they have no holes."""
    tolerance_px: Tolerance = 1.0
    """How far a polygon may be from the mask's edge; 0: exact but for holes."""
    min_iou: Share = 0.99
    """Polygons that would agree less with their mask (holes aside) are drawn closer."""
    flatten_names: bool = False
    """Names without folders, `a/b.jpg` as `a__b.jpg`, for tools that know base names only."""
    max_bytes: NonNegativeInt = 0
    """Begin another file where this size would be passed; 0: one file."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write the files and return their paths in the run folder."""
    finished = RunReader(run)
    losses = LossReport("COCO: what it does not hold of this run")
    place = run.folder.child(FOLDER)
    with tempfile.TemporaryDirectory(prefix="ovseg-coco-") as folder, ExitStack() as open_files:
        parts = _Parts(Path(folder), _head(finished, options), options.max_bytes, open_files)
        count = _write(finished, options, parts, losses)
        files = parts.close()
        losses.begin(place, options)
        for file in files:
            place.put_file(file.name, file)
    losses.write(place)
    names = [file.name for file in files]
    for name in place.list():
        if _OURS.fullmatch(name) and name not in names:
            place.delete(name)
    _warn(count, losses)
    return [f"{FOLDER}/{name}" for name in names]


def _warn(count: int, losses: LossReport) -> None:
    if not count:
        logger.warning("no segments: results_segm.json is an empty list, which loadRes refuses")
    if losses.num_poor_outlines:
        logger.warning(
            "%d polygons have an IoU under %s with their mask: see %s/%s",
            losses.num_poor_outlines,
            GOOD_IOU,
            FOLDER,
            NAME,
        )


def _head(finished: RunReader, options: Options) -> dict[str, object]:
    more = {"min_score": options.min_score}
    return {
        "info": coco_file.info(finished, options.segments, **more),
        "licenses": [],
        "categories": coco_file.categories(finished),
    }


def _write(finished: RunReader, options: Options, parts: "_Parts", losses: LossReport) -> int:
    """Write all images with their segments; return the number of segments."""
    number = 0
    fit = Fit(options.tolerance_px, options.min_iou)
    cut = (options.segments, options.min_score, options.min_area_px)
    for image, rows in segments.images(finished, losses, *cut):
        entries, results = [], []
        crops = segments.crops(rows) if options.polygons else ()
        for row, crop in zip_longest(rows, crops):
            number += 1
            entry = coco_file.annotation(number, image["number"], row)
            results.append(_result(entry))
            if crop is not None:
                _draw(entry, coco_polygons(row, crop, fit, losses))
            entries.append(json.dumps(entry))
        parts.add(_image(image, options), entries, results)
    return number


def _draw(entry: CocoAnnotation, polygons: Polygons) -> None:
    """Put polygons in the place of the run lengths."""
    entry["segmentation"] = polygons.corners
    entry["area"] = polygons.area_px
    entry["bbox"] = polygons.bbox_xywh
    entry.setdefault("attributes", {})["polygon_iou"] = round(polygons.iou, DIGITS)


def _image(row: Row, options: Options) -> str:
    if not options.flatten_names:
        return json.dumps(coco_file.image(row, row["path"]))
    entry: CocoImage = {**coco_file.image(row, flat_name(row["path"])), "path": row["path"]}
    return json.dumps(entry)


def _result(entry: CocoAnnotation) -> str:
    return json.dumps({name: entry.get(name) for name in _RESULT})


class _Parts:
    """The local files: one of each kind, or as many as the size asks for."""

    def __init__(
        self, folder: Path, head: dict[str, Any], max_bytes: int, open_files: ExitStack
    ) -> None:
        """Begin the first ones."""
        self._open_files = open_files
        self._folder = folder
        self._head = head
        self._max_bytes = max_bytes
        self._files: list[Path] = []
        self._begin()

    def _begin(self) -> None:
        ending = f"-{len(self._files) // 2 + 1:05d}.json" if self._max_bytes else ".json"
        names = [self._folder / f"{kind}{ending}" for kind in ("instances", "results_segm")]
        self._files += names
        self._dataset = coco_file.CocoFile(names[0], self._head, self._open_files)
        self._results = self._open_files.enter_context(coco_file.create(names[1]))
        self._results.write("[")
        self._separator = "\n"

    def add(self, image: str, annotations: list[str], results: list[str]) -> None:
        """Append an image; it stays whole, even where it alone is larger than a file may be."""
        if self._max_bytes and self._dataset.num_images:
            size = len(image) + sum(map(len, annotations)) + 2 * len(annotations) + _END_BYTES
            if self._dataset.num_bytes + size > self._max_bytes:
                self._end()
                self._begin()
        self._dataset.add_texts(image, annotations)
        for result in results:
            self._results.write(self._separator + result)
            self._separator = ",\n"

    def _end(self) -> None:
        self._dataset.close()
        self._results.write("\n]\n")
        self._results.close()

    def close(self) -> list[Path]:
        """End the last files and return all."""
        self._end()
        return self._files
