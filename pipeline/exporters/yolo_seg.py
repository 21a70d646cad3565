"""YOLO segmentation, as Ultralytics reads it: `data.yaml` and `labels/a/b.txt` for each image.

A line is one connected region, or one instance, whose regions are joined by lines without area:
the label's number from 0, then the corners of its outline as shares of width and height. Holes fill
up; an image without segments has an empty file.
"""

from collections.abc import Container, Iterator, Sequence

import cv2
import numpy as np
import yaml
from pydantic import NonNegativeInt

from pipeline.exporters.shared import segments
from pipeline.exporters.shared.export import Export, ExportOptions
from pipeline.exporters.shared.outlines import Contour, Simplification, Tolerance, opencv_contours
from pipeline.run.file_names import FileNames, suffix
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader
from schemas.records import Share

FOLDER = "exports/yolo_seg"
FILES = r"data\.yaml|labels/.+\.txt"
_INDEX = "data.yaml"
_CENTRE = 0.4
"""Added to pixel numbers, so that readers that truncate and that round find the same pixel."""
_THERE, _BACK = (0.1, 0.1), (0.4, 0.2)
"""Added instead on the way there and back of a contour without area, so that it has one."""
_PIXEL = ((0.1, 0.1), (0.4, 0.1), (0.4, 0.4))
_NOT_HELD = (
    "scores and review priorities",
    "holes: the outline of a region is filled",
    "which regions are of one mask, unless it is an instance: each is a line of its own",
    "a division into training and validation: data.yaml names all images for both",
    "images that are left out (rejected, failed): one that lies in `images` without a label file "
    "counts as an image of nothing",
)
_READ = (".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm", ".heic")
_UNREAD = "photographs with an ending that Ultralytics does not read"
_NOT_FOUND = (
    "images whose labels Ultralytics does not find, because another image differs in the ending "
    "only: have the photographs copied (copy_images)"
)


class Options(ExportOptions):
    """Options of the YOLO exporter."""

    min_score: Share = 0.0
    """Segments with a lower score are left out."""
    min_area_px: NonNegativeInt = 0
    """Regions with fewer pixels, holes included, are left out."""
    tolerance_px: Tolerance = 1.0
    """Greatest distance in pixels of an outline from its region; 0: exact apart from holes."""
    min_iou: Share = 0.99
    """Outlines whose IoU with their mask (without holes) would be lower get more corners."""
    copy_images: bool = False
    """Copy the photographs to `images/`, where Ultralytics expects them: `a/b.jpg`, or where
    another image of the folder differs in the ending only `a/b.jpg.jpg`, so that each finds its own
    label file."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write all label files, then `data.yaml`, and return the latter's path."""
    simplification = Simplification(options.tolerance_px, options.min_iou)
    title = "YOLO segmentation: what it does not hold of this run"
    with Export(run, FOLDER, options, title, _NOT_HELD, index=_INDEX) as export:
        export.losses.count_lost("masks with holes filled", 0)
        names, copied = FileNames(run, export.losses.name_lost), set[str]()
        for image, rows in export.images(min_score=options.min_score):
            lines: list[str] = []
            for row, crop in zip(rows, segments.crops(rows), strict=True):
                contours = opencv_contours(crop, simplification, export.losses, options.min_area_px)
                if row["kind"] == "instance" and len(contours) > 1:
                    export.losses.count_lost("instances of several regions: joined by thin lines")
                    contours = [_joined(contours)]
                lines += [_line(row, contour) for contour in contours]
            export.losses.count_written("regions", len(lines))
            path, name = image["path"], names.of_image(image["path"])
            export.put(_label_file(name), "".join(lines).encode("ascii"))
            copy = _copy_name(path, name)
            if options.copy_images:
                export.copy_image(copy, image)
                if not copy.lower().endswith(_READ):
                    export.losses.count_lost(_UNREAD)
            elif copy != f"images/{path}":
                export.losses.count_lost(_NOT_FOUND)
            copied.add(copy)
        export.remove(map(_label_file, names.unused()))
        if options.copy_images:
            export.remove(_other_copies(run, copied))
        export.write(_INDEX, _data_yaml(export.reader).encode())
    return [f"{FOLDER}/{_INDEX}"]


def _copy_name(path: str, name: str) -> str:
    """Return where a photograph is copied to, so that its label file is found.

    Args:
        path: of the image.
        name: of its label file, without its ending.
    """
    return f"images/{name}{suffix(path)}"


def _other_copies(run: RunFolder, copied: Container[str]) -> Iterator[str]:
    """Yield where photographs may lie that an earlier export has copied, and this one has not."""
    for path in run.all_images().column("path").to_pylist():
        for name in (f"images/{path}", _copy_name(path, path)):
            if name not in copied:
                yield name


def _label_file(stem: str) -> str:
    """Return where Ultralytics looks: the last folder `images` of the path becomes `labels`."""
    return "/labels/".join(f"/images/{stem}.txt".rsplit("/images/", 1)).removeprefix("/")


def _data_yaml(reader: RunReader) -> str:
    labels = reader.run.info.job().vocabulary.names
    content = {"train": "images", "val": "images", "names": dict(enumerate(labels))}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _joined(contours: Sequence[Contour]) -> Contour:
    """Return one contour that goes to each of several and back, where they are nearest."""
    joined = contours[0]
    for contour in contours[1:]:
        distances = np.linalg.norm(joined[:, None] - contour[None], axis=2)
        here, there = np.unravel_index(int(distances.argmin()), distances.shape)
        around = np.roll(contour, -int(there), axis=0)
        joined = np.concatenate([joined[: here + 1], around, around[:1], joined[here:]])
    return joined


def _line(row: Row, contour: Contour) -> str:
    if cv2.contourArea(contour.astype(np.float32)):
        corners = contour + _CENTRE
    elif len(contour) == 1:
        corners = contour + _PIXEL
    else:
        corners = np.concatenate([contour + _THERE, contour[::-1] + _BACK])
    shares = (corners / (row["width"], row["height"])).ravel().tolist()
    return f"{row['category_id'] - 1} {' '.join(map('{:.6f}'.format, shares))}\n"
