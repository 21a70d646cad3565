"""CVAT: the same masks as a COCO archive and as "CVAT for images 1.1", and the labels to declare.

Both come as masks, not polygons. CVAT drops every attribute that the label in the task does not
declare: paste `labels.json` into the task's raw label editor first. Its only way to sort doubtful
masks out is then a filter on these attributes.
"""

import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise, repeat
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape, quoteattr

from pydantic import NonNegativeInt

from ovseg_core import row_major
from pipeline.exporters import _coco, _numbers, _segments
from pipeline.exporters._losses import Losses
from pipeline.exporters._order import Order
from pipeline.exporters._segments import DIGITS, Segments
from pipeline.finished import FinishedRun, Row
from pipeline.overlay import hex_colour
from pipeline.rundir import RunDir
from schemas.base import Frozen
from schemas.records import Share

FOLDER = "exports/cvat"
_DECLARED = ("score", "review_priority", "segment_index")
_NEVER = (
    "Score columns other than score and review_priority: COCO and the run's Parquet have them.",
    "An order by score: CVAT can filter by an attribute, not sort by it.",
)
_SAME_STEM = "images whose name another has with another ending: CVAT takes them for one"
_MEMBER = "annotations/instances_default.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date in the archive: the same run gives the same bytes."""


class Options(Frozen):
    """Options of the CVAT exporter."""

    min_score: Share = 0.0
    """Segments with a lower score (mean probability of the label under the mask) are left out."""
    segments: Segments = "as_run"
    """How masks are cut: `as_run`, `class` (one for each label and image) or `components`."""
    min_area_px: NonNegativeInt = 0
    """Segments of fewer pixels are left out, counted after cutting."""
    comparison: str = ""
    """A table that `ovseg compare` has written into the run: masks come sooner where the other run
    disagrees; empty: by the run's own scores."""
    xml: bool = True
    """Write `annotations.xml` beside the COCO archive; it takes most of the time."""


def export(run: RunDir, options: Options) -> list[str]:
    """Write archive, XML and labels; return their paths in the run folder."""
    finished = FinishedRun(run)
    losses = Losses("CVAT: what its masks do not hold of this run", _NEVER)
    place = run.folder.child(*FOLDER.split("/"))
    with tempfile.TemporaryDirectory(prefix="ovseg-cvat-") as folder, ExitStack() as open_files:
        files = _write(finished, options, losses, Path(folder), open_files)
        labels = json.dumps(_labels(run.info.job().vocabulary.names), indent=1) + "\n"
        place.atomic_write("labels.json", labels.encode())
        for file in files:
            place.put_file(file.name, file)
    if not options.xml:
        place.delete("annotations.xml")
    losses.write(place)
    return [f"{FOLDER}/{name}" for name in ("labels.json", *(file.name for file in files))]


def _write(
    finished: FinishedRun, options: Options, losses: Losses, folder: Path, open_files: ExitStack
) -> list[Path]:
    info = _coco.info(finished, options.segments)
    del info["fingerprint"]  # it knows where the collection lies; the archive should not differ
    head = {
        "info": info,
        "licenses": [],
        "categories": _coco.categories(finished),
    }
    dataset = _coco.CocoFile(folder / "instances_default.json", head, open_files)
    xml = folder / "annotations.xml"
    xml_file = open_files.enter_context(xml.open("w", encoding="utf-8", newline="\n"))
    xml_file.write(_xml_head(finished))
    number, order = 0, Order(finished.run, options.comparison)
    cut = (options.segments, options.min_score, options.min_area_px)
    stems = Counter(map(_stem, finished.run.manifest().column("path").to_pylist()))
    for image, rows in _segments.images(finished, losses, *cut):
        losses.lost(_SAME_STEM, stems[_stem(image["path"])] > 1)
        entries = []
        for row in rows:
            number += 1
            entry = _coco.annotation(number, image["number"], row)
            attributes = _attributes(row, order)
            entry["attributes"] = {**entry.get("attributes", {}), **attributes}
            entries.append(entry)
        dataset.add(_coco.image(image, image["path"]), entries)
        if options.xml:
            xml_file.write(_xml(image, rows, order))
    dataset.close()
    xml_file.write("</annotations>\n")
    xml_file.close()
    archive = folder / "coco.zip"
    _archive(dataset.path, archive)
    return [archive, xml] if options.xml else [archive]


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _archive(source: Path, target: Path) -> None:
    entry = zipfile.ZipInfo(_MEMBER, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    with (
        zipfile.ZipFile(target, "w", compresslevel=1) as archive,
        archive.open(entry, "w", force_zip64=True) as packed,
        source.open("rb") as plain,
    ):
        while block := plain.read(1 << 20):
            packed.write(block)


def _labels(names: tuple[str, ...]) -> list[dict[str, object]]:
    """Return what CVAT's raw label editor takes."""
    attributes = [
        {"name": name, "input_type": "text", "mutable": False, "values": [""], "default_value": ""}
        for name in _DECLARED
    ]
    return [
        {"name": name, "color": hex_colour(number), "type": "any", "attributes": attributes}
        for number, name in enumerate(names, start=1)
    ]


def _attributes(row: Row, order: Order) -> dict[str, float | int]:
    return {
        "score": round(row["mean_prob"], DIGITS),
        "review_priority": order.of_mask(row),
        "segment_index": row.get("part_of", row["segment_index"]),
    }


def _xml_head(finished: FinishedRun) -> str:
    """Return what stands before the images; readers take the labels from there."""
    attributes = "".join(
        f"<attribute><name>{name}</name><mutable>False</mutable><input_type>text</input_type>"
        "<default_value></default_value><values></values></attribute>"
        for name in _DECLARED
    )
    labels = "\n".join(
        f"<label><name>{escape(name)}</name><color>{hex_colour(number)}</color><type>any</type>"
        f"<attributes>{attributes}</attributes></label>"
        for number, name in enumerate(finished.run.info.job().vocabulary.names, start=1)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        f"<meta>\n<task>\n<name>ovseg</name><size>{finished.num_images}</size>"
        f"<mode>annotation</mode>\n<labels>\n{labels}\n</labels>\n</task>\n</meta>\n"
    )


def _xml(image: Row, rows: list[Row], order: Order) -> str:
    masks = "".join(map(_mask, rows, range(len(rows)), _run_lengths(rows), repeat(order)))
    return (
        f'<image id="{image["number"] - 1}" name={quoteattr(image["path"])} '
        f'width="{image["width"]}" height="{image["height"]}">\n{masks}</image>\n'
    )


def _run_lengths(rows: list[Row]) -> Iterator[str]:
    """Yield the runs of each mask inside its box, background first."""
    if not rows:
        return
    size_hw = rows[0]["height"], rows[0]["width"]
    boxes = [tuple(map(int, row["bbox_xywh"])) for row in rows]
    boxes = [(top, left, height, width) for left, top, width, height in boxes]
    runs = row_major.runs([row["rle_counts"] for row in rows], size_hw, boxes)
    for (begin, end), rest in zip(pairwise(runs.bounds), runs.rests, strict=True):
        lengths = _numbers.text(runs.lengths[begin:end]).replace(",", ", ")
        yield f"{lengths}, {rest}" if rest else lengths


def _mask(row: Row, place: int, lengths: str, order: Order) -> str:
    left, top, width, height = (int(value) for value in row["bbox_xywh"])
    attributes = "".join(
        f'<attribute name="{name}">{value}</attribute>'
        for name, value in _attributes(row, order).items()
    )
    return (
        f'<mask label={quoteattr(row["label"])} source="auto" occluded="0" rle="{lengths}" '
        f'left="{left}" top="{top}" width="{width}" height="{height}" z_order="{place}">'
        f"{attributes}</mask>\n"
    )
