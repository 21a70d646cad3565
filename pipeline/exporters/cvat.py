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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pydantic import NonNegativeInt

from ovseg_core.rle import number_lists
from pipeline.collection.overlay import hex_colour
from pipeline.exporters.shared import coco_file, mask_texts, segments
from pipeline.exporters.shared.losses import LossReport
from pipeline.exporters.shared.priorities import Priorities
from pipeline.exporters.shared.segments import DIGITS, Segments
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader
from schemas.base import Frozen
from schemas.records import Share
from schemas.score_columns import SCORE

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
_BLOCK = 1 << 20
"""Characters that are packed at a time."""


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


def export(run: RunFolder, options: Options) -> list[str]:
    """Write archive, XML and labels; return their paths in the run folder."""
    finished = RunReader(run)
    losses = LossReport("CVAT: what its masks do not hold of this run", _NEVER)
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
    finished: RunReader, options: Options, losses: LossReport, folder: Path, open_files: ExitStack
) -> list[Path]:
    archive = _Archive(folder / "coco.zip", open_files)
    for text in _before_annotations(finished, options):
        archive.write(text)
    xml = open_files.enter_context((folder / "annotations.xml").open("wb"))
    xml.write(_xml_head(finished).encode())
    number, order = 0, Priorities(finished.run, options.comparison)
    stems = Counter(map(_stem, finished.run.manifest().column("path").to_pylist()))
    for image, rows, runs in _images(finished, options, losses, open_files):
        losses.lost(_SAME_STEM, stems[_stem(image["path"])] > 1)
        attributes = [_attributes(row, order) for row in rows]
        for row, own in zip(rows, attributes, strict=True):
            entry = coco_file.annotation(number + 1, image["number"], row)
            entry["attributes"] = {**entry.get("attributes", {}), **own}
            archive.write((",\n" if number else "\n") + json.dumps(entry))
            number += 1
        if options.xml:
            xml.write(_xml(image, rows, attributes, runs))
    archive.write(coco_file.END)
    archive.close()
    xml.write(b"</annotations>\n")
    xml.close()
    return [archive.path, Path(xml.name)] if options.xml else [archive.path]


def _images(
    finished: RunReader, options: Options, losses: LossReport, open_files: ExitStack
) -> Iterator[tuple[Row, list[Row], list[bytes]]]:
    """Yield images, their segments and, if the XML wants them, the runs of their masks."""
    cut = (options.segments, options.min_score, options.min_area_px)
    images = segments.images(finished, losses, *cut)
    if options.xml:
        return mask_texts.with_texts(finished, images, number_lists.run_lengths, open_files)
    return ((image, rows, []) for image, rows in images)


def _before_annotations(finished: RunReader, options: Options) -> Iterator[str]:
    """Yield the beginning of the COCO file: readers expect the images first."""
    info = coco_file.info(finished, options.segments)
    del info["fingerprint"]  # it knows where the collection lies; the archive should not differ
    head = {"info": info, "licenses": [], "categories": coco_file.categories(finished)}
    yield coco_file.before_images(head)
    separator = "\n"
    for shard in finished.shards(segments.IMAGE_COLUMNS):
        for image in shard.images.values():
            yield separator + json.dumps(coco_file.image(image, image["path"]))
            separator = ",\n"
    yield coco_file.BEFORE_ANNOTATIONS


class _Archive:
    """A zip with one file of ASCII, which a thread packs while more of it is made."""

    def __init__(self, path: Path, open_files: ExitStack) -> None:
        """Begin; `open_files` closes what is open after an error."""
        self.path = path
        self._open = open_files.enter_context(ExitStack())
        entry: Any = zipfile.ZipInfo(_MEMBER, _EPOCH)
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry._compresslevel = 1  # the archive's own level is not asked where there is an entry
        archive = self._open.enter_context(zipfile.ZipFile(path, "w"))
        self._member = self._open.enter_context(archive.open(entry, "w", force_zip64=True))
        self._thread = self._open.enter_context(ThreadPoolExecutor(1))
        self._packing = self._thread.submit(self._member.write, b"")
        self._waiting: list[str] = []
        self._size = 0

    def write(self, text: str) -> None:
        """Append; a block is packed at a time, and the next one waits."""
        self._waiting.append(text)
        self._size += len(text)
        if self._size >= _BLOCK:
            self._pack()

    def _pack(self) -> None:
        block = "".join(self._waiting).encode("ascii")
        self._waiting, self._size = [], 0
        self._packing.result()
        self._packing = self._thread.submit(self._member.write, block)

    def close(self) -> None:
        """Finish the archive."""
        self._pack()
        self._packing.result()
        self._open.close()


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


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


def _attributes(row: Row, order: Priorities) -> dict[str, float | int]:
    return {
        "score": round(row[SCORE], DIGITS),
        "review_priority": order.of_mask(row),
        "segment_index": row.get("part_of", row["segment_index"]),
    }


def _xml_head(finished: RunReader) -> str:
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


def _xml(image: Row, rows: list[Row], attributes: list[Row], runs: list[bytes]) -> bytes:
    head = (
        f'<image id="{image["number"] - 1}" name={quoteattr(image["path"])} '
        f'width="{image["width"]}" height="{image["height"]}">\n'
    )
    masks = map(_mask, rows, attributes, runs, range(len(rows)))
    return b"".join([head.encode(), *masks, b"</image>\n"])


_quoted = cache(quoteattr)
"""Of labels, which are few."""


def _mask(row: Row, attributes: Row, runs: bytes, place: int) -> bytes:
    left, top, width, height = map(int, row["bbox_xywh"])
    inside = "".join(
        f'<attribute name="{name}">{value}</attribute>' for name, value in attributes.items()
    )
    head = f'<mask label={_quoted(row["label"])} source="auto" occluded="0" rle="'
    tail = (
        f'" left="{left}" top="{top}" width="{width}" height="{height}" z_order="{place}">'
        f"{inside}</mask>\n"
    )
    return b"%b%b%b" % (head.encode(), runs, tail.encode())
