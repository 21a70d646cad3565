"""YOLO segmentation, as Ultralytics reads it: `data.yaml` and `labels/a/b.txt` for each image.

A line is one connected region: the label's number from 0, then the corners of its outline as
shares of width and height. Holes fill up; an image without segments has an empty file.
"""

import cv2
import numpy as np
import yaml
from pydantic import NonNegativeInt

from pipeline.collection.image_source import ref_of
from pipeline.exporters.shared import segments
from pipeline.exporters.shared.files import Files
from pipeline.exporters.shared.losses import LossReport
from pipeline.exporters.shared.outlines import Fit, Ring, Tolerance, drawn_rings
from pipeline.run.file_names import FileNames
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader
from schemas.base import Frozen
from schemas.records import Share

FOLDER = "exports/yolo_seg"
_CENTRE = 0.4
"""Added to pixel numbers: readers that cut off and readers that round find the same pixel."""
_THERE, _BACK = (0.1, 0.1), (0.4, 0.2)
"""The same for the way there and back of a ring that encloses nothing, so that it has an area."""
_PIXEL = ((0.1, 0.1), (0.4, 0.1), (0.4, 0.4))
_NEVER = (
    "scores and review priorities",
    "holes: the outline of a region is filled",
    "which regions are of one mask: each is a line of its own",
    "a division into training and validation: data.yaml names all images for both",
)


class Options(Frozen):
    """Options of the YOLO exporter."""

    min_score: Share = 0.0
    """Segments with a lower score are left out."""
    min_area_px: NonNegativeInt = 0
    """Regions of fewer pixels, with their holes, are left out."""
    tolerance_px: Tolerance = 1.0
    """How far an outline may be from the rim of its region; 0: exact but for holes."""
    min_iou: Share = 0.99
    """Outlines that would agree less with their mask (holes aside) are drawn closer."""
    copy_images: bool = False
    """Copy the photographs to `images/`, where Ultralytics expects them."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write all label files, then `data.yaml`, and return the latter's path."""
    finished = RunReader(run)
    losses = LossReport("YOLO segmentation: what it does not hold of this run", _NEVER)
    losses.lost("masks with holes filled", 0)
    names = FileNames(run, losses.lost)
    place = run.folder.child(FOLDER)
    limit = run.info.job().image.max_bytes
    fit = Fit(options.tolerance_px, options.min_iou)
    losses.begin(place, options, "data.yaml")
    with Files(place) as files:
        for image, rows in segments.images(finished, losses, min_score=options.min_score):
            lines = [
                _lines(row, drawn_rings(crop, fit, losses, options.min_area_px))
                for row, crop in zip(rows, segments.crops(rows), strict=True)
            ]
            losses.wrote("regions", sum(line.count("\n") for line in lines))
            files.put(_label_file(names.of_image(image["path"])), "".join(lines).encode("ascii"))
            if options.copy_images:
                files.copy_image(f"images/{image['path']}", ref_of(image), limit)
        files.remove_old(map(_label_file, names.unused()))
    if files.num_unreadable:
        losses.lost("photographs that cannot be read any more", files.num_unreadable)
    place.atomic_write("data.yaml", _yaml(finished).encode())
    losses.write(place)
    return [f"{FOLDER}/data.yaml"]


def _label_file(stem: str) -> str:
    """Return where Ultralytics looks: the last folder `images` of the path becomes `labels`."""
    return "/labels/".join(f"/images/{stem}.txt".rsplit("/images/", 1)).removeprefix("/")


def _yaml(finished: RunReader) -> str:
    labels = finished.run.info.job().vocabulary.names
    content = {"train": "images", "val": "images", "names": dict(enumerate(labels))}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _lines(row: Row, rings: list[Ring]) -> str:
    """Return the lines of one mask, one for each of its regions."""
    size_wh = np.array([row["width"], row["height"]])
    return "".join(f"{row['category_id'] - 1} {_corners(ring, size_wh)}\n" for ring in rings)


def _corners(ring: Ring, size_wh: np.ndarray) -> str:
    if cv2.contourArea(ring.astype(np.float32)):
        inside = ring + _CENTRE
    elif len(ring) == 1:
        inside = ring + _PIXEL
    else:
        inside = np.concatenate([ring + _THERE, ring[::-1] + _BACK])
    return " ".join(map("{:.6f}".format, (inside / size_wh).ravel().tolist()))
