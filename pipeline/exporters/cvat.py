"""CVAT: the same masks as a COCO archive and as "CVAT for images 1.1", and the labels to declare.

Both come as masks, not polygons. CVAT drops every attribute that the label in the task does not
declare: paste `labels.json` into the task's raw label editor first. Its only way to sort doubtful
masks out is then a filter on these attributes.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pydantic import NonNegativeInt

from ovseg_core.images.label_colours import css_colour, label_colours
from ovseg_core.rle import number_lists
from pipeline.corrections.names import short_labels
from pipeline.exporters.shared import coco_file, mask_texts
from pipeline.exporters.shared.corrected_run import CorrectedRun
from pipeline.exporters.shared.export import Export, ExportOptions
from pipeline.exporters.shared.priorities import Priorities
from pipeline.exporters.shared.segments import DIGITS, SegmentKind, z_orders
from pipeline.run.file_names import without_suffix
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader
from schemas.records import Share
from schemas.score_columns import SCORE
from schemas.untrusted import in_xml

FOLDER = "exports/cvat"
FILES = r"labels\.json|coco\.zip|annotations\.xml"
_LABELS, _ARCHIVE, _XML = "labels.json", "coco.zip", "annotations.xml"
_DECLARED = ("score", "review_priority", "segment_index")
_NOT_HELD = (
    "Score columns other than score and review_priority: COCO and the run's Parquet have them.",
    "An order by score: CVAT can filter by an attribute, not sort by it.",
)
_SAME_STEM = "images whose name another has with another ending: CVAT takes them for one"
_CUT_LABELS = "labels of more than 64 characters, or some that XML cannot hold: changed, and differ"
_NOT_IN_XML = "names of images with characters that XML cannot hold: escapes stand for them"
_MEMBER = "annotations/instances_default.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date in the archive: the same run gives the same bytes."""
_BLOCK = 1 << 20
"""Characters that are compressed at a time."""


class Options(ExportOptions):
    """Options of the CVAT exporter."""

    min_score: Share = 0.0
    """Segments with a lower score (mean probability of the label under the mask) are left out."""
    segments: SegmentKind = "as_run"
    """What a mask is: `as_run`, `class` (one for each label and image) or `components`."""
    min_area_px: NonNegativeInt = 0
    """Segments with fewer pixels are left out, after splitting or joining."""
    comparison: str = ""
    """A table that `ovseg compare` wrote into the run: masks have a higher priority where the
    other run disagrees; empty: by the run's own scores."""
    xml: bool = True
    """Write `annotations.xml` beside the COCO archive; it takes most of the time."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write archive, XML and labels; return their paths in the run folder."""
    priorities = Priorities(run, options.comparison)
    title = "CVAT: what its masks do not hold of this run"
    names = short_labels(run.info.job().vocabulary.names)
    cut = [f"label {name!r}: {short!r} here" for name, short in names.items() if name != short]
    with Export(run, FOLDER, options, title, (*_NOT_HELD, *cut)) as export:
        if cut:
            export.losses.count_lost(_CUT_LABELS, len(cut))
        archive = _Archive(export.local_file(_ARCHIVE), export.open_files)
        for text in _before_annotations(export.reader, options.segments, names):
            archive.write(text)
        xml_file = export.local_file(_XML)
        xml = export.open_files.enter_context(xml_file.open("wb"))
        xml.write(_xml_head(export.reader, [*names.values()]).encode())
        number = 0
        stems = Counter(map(without_suffix, run.manifest().column("path").to_pylist()))
        for image, rows, runs in _images(export, options):
            if in_xml(image["path"]) != image["path"]:
                export.losses.name_lost(_NOT_IN_XML, image["path"])
            if stems[without_suffix(image["path"])] > 1:
                export.losses.count_lost(_SAME_STEM)
            attributes = [_attributes(row, priorities) for row in rows]
            for row, own in zip(rows, attributes, strict=True):
                entry = coco_file.annotation_entry(number + 1, image["coco_id"], row)
                entry["attributes"] = {**entry.get("attributes", {}), **own}
                archive.write((",\n" if number else "\n") + json.dumps(entry))
                number += 1
            if options.xml:
                xml.write(_xml_image(image, rows, attributes, runs, names))
        archive.write(coco_file.END)
        archive.close()
        xml.write(b"</annotations>\n")
        xml.close()
        labels = json.dumps(_labels([*names.values()]), indent=1) + "\n"
        export.write(_LABELS, labels.encode())
        files = [archive.path, xml_file] if options.xml else [archive.path]
        export.upload(files)
        if not options.xml:
            export.remove([_XML])
    return [f"{FOLDER}/{name}" for name in (_LABELS, *(file.name for file in files))]


def _images(export: Export, options: Options) -> Iterator[tuple[Row, list[Row], list[bytes]]]:
    """Yield images, their segments and, if the XML is wanted, the runs of their masks."""
    images = export.images(options.segments, options.min_score, options.min_area_px)
    if options.xml:
        work = number_lists.cvat_run_texts
        return mask_texts.with_texts(export.reader, images, work, export.open_files)
    return ((image, rows, []) for image, rows in images)


def _before_annotations(
    reader: CorrectedRun, kind: SegmentKind, names: Mapping[str, str]
) -> Iterator[str]:
    """Yield the beginning of the COCO file: readers expect the images first."""
    head = coco_file.head(reader, kind)
    # It depends on the collection's address, on which the archive should not.
    del head["info"]["fingerprint"]
    head["categories"] = [{**one, "name": names[one["name"]]} for one in head["categories"]]
    yield coco_file.before_images(head)
    separator = "\n"
    for shard in reader.shards():
        for image in shard.images.values():
            yield separator + json.dumps(coco_file.image_entry(image, image["path"]))
            separator = ",\n"
    yield coco_file.BEFORE_ANNOTATIONS


class _Archive:
    """A zip with one file of ASCII, which a thread compresses while more of it is made.

    Args:
        path: of the zip.
        open_files: closes it after an error.
    """

    def __init__(self, path: Path, open_files: ExitStack) -> None:
        self.path = path
        self._open = open_files.enter_context(ExitStack())
        entry: Any = zipfile.ZipInfo(_MEMBER, _EPOCH)
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry._compresslevel = 1  # an entry's level counts, not that of the archive
        archive = self._open.enter_context(zipfile.ZipFile(path, "w"))
        self._member = self._open.enter_context(archive.open(entry, "w", force_zip64=True))
        self._thread = self._open.enter_context(ThreadPoolExecutor(1))
        self._compression = self._thread.submit(self._member.write, b"")
        self._waiting: list[str] = []
        self._size = 0

    def write(self, text: str) -> None:
        """Append text; one block is compressed while the next one is collected."""
        self._waiting.append(text)
        self._size += len(text)
        if self._size >= _BLOCK:
            self._compress()

    def _compress(self) -> None:
        block = "".join(self._waiting).encode("ascii")
        self._waiting, self._size = [], 0
        self._compression.result()
        self._compression = self._thread.submit(self._member.write, block)

    def close(self) -> None:
        """Finish the archive."""
        self._compress()
        self._compression.result()
        self._open.close()


def _labels(names: Sequence[str]) -> list[dict[str, object]]:
    """Return the labels as CVAT's raw label editor takes them."""
    attributes = [
        {"name": name, "input_type": "text", "mutable": False, "values": [""], "default_value": ""}
        for name in _DECLARED
    ]
    return [
        {"name": name, "color": css_colour(colour), "type": "any", "attributes": attributes}
        for name, colour in zip(names, label_colours(names), strict=True)
    ]


def _attributes(row: Row, priorities: Priorities) -> dict[str, float | int]:
    return {
        "score": round(row[SCORE], DIGITS),
        "review_priority": priorities.of_mask(row),
        "segment_index": row.get("part_of", row["segment_index"]),
    }


def _xml_head(reader: RunReader, names: Sequence[str]) -> str:
    """Return the XML before the images; readers take the labels from it."""
    attributes = "".join(
        f"<attribute><name>{name}</name><mutable>False</mutable><input_type>text</input_type>"
        "<default_value></default_value><values></values></attribute>"
        for name in _DECLARED
    )
    labels = "\n".join(
        f"<label><name>{escape(name)}</name><color>{css_colour(colour)}</color><type>any</type>"
        f"<attributes>{attributes}</attributes></label>"
        for name, colour in zip(names, label_colours(names), strict=True)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        f"<meta>\n<task>\n<name>ovseg</name><size>{reader.num_images}</size>"
        f"<mode>annotation</mode>\n<labels>\n{labels}\n</labels>\n</task>\n</meta>\n"
    )


def _xml_image(
    image: Row,
    rows: list[Row],
    attributes: list[Row],
    runs: list[bytes],
    names: Mapping[str, str],
) -> bytes:
    head = (
        f'<image id="{image["number"] - 1}" name={quoteattr(in_xml(image["path"]))} '
        f'width="{image["width"]}" height="{image["height"]}">\n'
    )
    labels = [names[row["label"]] for row in rows]
    masks = map(_xml_mask, rows, labels, attributes, runs, z_orders(rows))
    return b"".join([head.encode(), *masks, b"</image>\n"])


_quoted = cache(quoteattr)
"""Of labels, which are few."""


def _xml_mask(row: Row, label: str, attributes: Row, runs: bytes, z_order: int) -> bytes:
    left, top, width, height = map(int, row["bbox_xywh"])
    inside = "".join(
        f'<attribute name="{name}">{value}</attribute>' for name, value in attributes.items()
    )
    head = f'<mask label={_quoted(label)} source="auto" occluded="0" rle="'
    tail = (
        f'" left="{left}" top="{top}" width="{width}" height="{height}" z_order="{z_order}">'
        f"{inside}</mask>\n"
    )
    return b"%b%b%b" % (head.encode(), runs, tail.encode())
