"""Label Studio: `config.xml` and `tasks.json` with a brush prediction for each image.

Label Studio checks nothing on import, so every file follows its rules: brush bytes of 0 and 255,
sizes as displayed, labels of the config, percent-quoted names, and a score of which the lowest
comes first. Files stay below the server's limit on an upload; import one after another.
"""

import json
import os
import re
import shlex
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pydantic import Field

from ovseg_core.images.label_colours import css_colour, label_colours
from ovseg_core.rle import number_lists
from pipeline.exporters.shared import mask_texts
from pipeline.exporters.shared.export import Export, ExportOptions
from pipeline.exporters.shared.priorities import Priorities
from pipeline.exporters.shared.segments import DIGITS, SegmentKind
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row
from schemas.records import Share
from schemas.score_columns import SCORE
from schemas.untrusted import in_xml

FOLDER = "exports/label_studio"
FILES = r"config\.xml|tasks(?:-\d{5})?\.json"
_CONFIG = "config.xml"
_TASK_FILES = re.compile(r"tasks(-[0-9]{5,})?[.]json")
_TAG, _IMAGE = "tag", "image"
"""Names by which predictions refer to the config."""
_MANY_MASKS = 50
"""More masks of one image are known to fill a browser's memory (label-studio issue 4940)."""
_NOT_HELD = (
    "Score columns except the mean probability: COCO and the run's own Parquet files have them.",
    "Sorting by a mask's score: it is shown beside the mask; Label Studio cannot sort or filter "
    "by it.",
)


class Options(ExportOptions):
    """Options of the Label Studio exporter."""

    url: str = "/data/local-files/?d="
    """URL before an image's path. The default is Label Studio's local storage, if its
    LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the collection's folder; if it is the folder above,
    add the folder's name: `/data/local-files/?d=photos/`."""
    quoted: bool = True
    """Percent-quote the paths, as URLs and local storage need; off for a bucket's URI (`s3://`),
    which the storage connectors take unquoted."""
    model_version: str = ""
    """Name of these predictions in a project's settings; empty: the method."""
    min_score: Share = 0.0
    """Segments with a lower score (mean probability of the label under the mask) are left out."""
    segments: SegmentKind = "as_run"
    """What a mask is: `as_run`, `class` (one for each label and image) or `components`."""
    comparison: str = ""
    """A table that `ovseg compare` wrote into the run: images come sooner where the other run
    disagrees; empty: by the run's own scores."""
    max_bytes: Annotated[int, Field(ge=1000)] = 100_000_000
    """Start another file before this size is exceeded; the server's own limit is 250 MB."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write config and tasks; return their paths in the run folder."""
    priorities = Priorities(run, options.comparison)
    title = "Label Studio: what its predictions do not hold of this run"
    with Export(run, FOLDER, options, title, _NOT_HELD) as export:
        for name in run.info.job().vocabulary.names:
            if in_xml(name) != name:
                export.losses.name_lost("labels with escapes for what XML cannot hold", name)
        files = _TaskFiles(export, options.max_bytes)
        images = mask_texts.with_texts(
            export.reader,
            export.images(options.segments, options.min_score),
            number_lists.brush_texts,
            export.open_files,
        )
        model_version = options.model_version or run.info.job().method.name
        for image, rows, brushes in images:
            path, priority = image["path"], priorities.of_image(image, rows)
            prediction = {
                "model_version": model_version,
                "score": round(1 - priority, DIGITS),  # the lowest comes first in its queues
                "result": [],
            }
            task = {
                "data": {
                    "image": options.url + (quote(path) if options.quoted else path),
                    "file_name": path,
                    "image_id": image["image_id"],
                    "review_priority": priority,
                },
                "predictions": [prediction],
            }
            files.add(_insert(task, "result", map(_region, rows, brushes)))
            if len(rows) > _MANY_MASKS:
                export.losses.count_lost("images with more than 50 masks, slow to open")
        written = files.close()
        export.write(_CONFIG, _config(run.info.job().vocabulary.names).encode())
        export.upload(written)
        names = [file.name for file in written]
        export.remove_matching(_TASK_FILES, keep=names)
    return [f"{FOLDER}/{name}" for name in (_CONFIG, *names)]


def advice(run: RunFolder, options: Options) -> str:
    """Return where Label Studio will look for the images, and what to do if they are not there."""
    return f"Label Studio will look for the images at {options.url}...{_how(run, options)}"


def _how(run: RunFolder, options: Options) -> str:
    """Return what to do so that Label Studio finds the images."""
    folder = _collection_name(run)
    if not folder or options.url != Options().url:
        return ", as option url says; docs/reviews.md, Label Studio, tells how it finds them"
    url = shlex.quote(f"url={options.url}{quote(folder)}/")
    return (
        " If its document root is the folder above theirs (docs/reviews.md), export again: "
        f"ovseg export {shlex.quote(run.folder.uri)} --to label_studio --set {url}"
    )


def _collection_name(run: RunFolder) -> str:
    """Return the name of the collection's folder; empty: it is no folder of this machine."""
    first = next(iter(run.manifest().slice(0, 1).select(["uri", "path"]).to_pylist()), None)
    if first is None or "://" in first["uri"] or not first["uri"].endswith(f"/{first['path']}"):
        return ""
    return PurePosixPath(first["uri"].removesuffix(first["path"])).name


def _config(names: tuple[str, ...]) -> str:
    """Return the labelling interface: brush and eraser with a colour for each label."""
    labels = "\n".join(
        f"    <Label value={quoteattr(in_xml(name))} background={quoteattr(css_colour(colour))}/>"
        for name, colour in zip(names, label_colours(names), strict=True)
    )
    return (
        f'<View>\n  <Image name="{_IMAGE}" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="{_TAG}" toName="{_IMAGE}">\n{labels}\n  </BrushLabels>\n</View>\n'
    )


def _insert(entry: dict[str, Any], key: str, items: Iterable[bytes]) -> bytes:
    """Return an entry as JSON with items, which are JSON already, in the empty list of a key."""
    # Inside a name the quotes would have backslashes, so this is the key.
    before, after = json.dumps(entry).encode().split(b'"%b": []' % key.encode())
    return b'%b"%b": [%b]%b' % (before, key.encode(), b", ".join(items), after)


def _region(row: Row, brush: bytes) -> bytes:
    index = row["segment_index"]
    region = {
        # Unique in the image; importers read the run's segment from it.
        "id": f"ovseg-{row['part_of']}-{index}" if "part_of" in row else f"ovseg-{index}",
        "type": "brushlabels",
        "from_name": _TAG,
        "to_name": _IMAGE,
        "score": round(row[SCORE], DIGITS),
        "original_width": row["width"],
        "original_height": row["height"],
        "image_rotation": 0,
        "value": {"brushlabels": [in_xml(row["label"])], "format": "rle", "rle": []},
    }
    return _insert(region, "rle", [brush])


class _TaskFiles:
    """Local files of tasks: `tasks.json`, then `tasks-00002.json` and so on."""

    def __init__(self, export: Export, max_bytes: int) -> None:
        self._export = export
        self._max_bytes = max_bytes
        self._files: list[Path] = []
        self._thread = export.open_files.enter_context(ThreadPoolExecutor(1))
        self._syncs: list[Future[None]] = []
        self._begin()

    def _begin(self) -> None:
        number = len(self._files) + 1
        name = "tasks.json" if number == 1 else f"tasks-{number:05d}.json"
        self._files.append(self._export.local_file(name))
        self._file = self._export.open_files.enter_context(self._files[-1].open("wb"))
        self._size = self._file.write(b"[")
        self._separator = b"\n"

    def add(self, task: bytes) -> None:
        """Append a task; it is never split, even if it alone is larger than a file may be."""
        is_first = self._separator == b"\n"
        if not is_first and self._size + len(task) + 5 > self._max_bytes:
            self._end()
            self._begin()
        self._size += self._file.write(self._separator + task)
        self._separator = b",\n"

    def _end(self) -> None:
        self._file.write(b"\n]\n")
        # The disk writes this file while the next one is made: together they are many gigabytes.
        self._syncs.append(self._thread.submit(_sync_and_close, self._file))

    def close(self) -> list[Path]:
        """End the last file and return all in order."""
        self._end()
        for sync in self._syncs:
            sync.result()
        return self._files


def _sync_and_close(file: BinaryIO) -> None:
    with file:
        file.flush()
        os.fsync(file.fileno())
