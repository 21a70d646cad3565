"""Label Studio: `config.xml` and `tasks.json` with a brush prediction for each image.

Label Studio checks nothing on import, so what it needs is written with care: brush bytes of 0 and
255, sizes as displayed, labels that the config has, percent-quoted names, a score by which the
lowest comes first. Files stay under the server's limit on an upload; import one after another.
"""

import json
import os
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pydantic import Field

from ovseg_core.rle import number_lists
from pipeline.collection.overlay import hex_colour
from pipeline.exporters.shared import mask_texts, segments
from pipeline.exporters.shared.losses import LossReport
from pipeline.exporters.shared.priorities import Priorities
from pipeline.exporters.shared.segments import DIGITS, Segments
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader
from schemas.base import Frozen
from schemas.records import Share
from schemas.score_columns import SCORE

FOLDER = "exports/label_studio"
_TAG, _IMAGE = "tag", "image"
"""Names that tie predictions to the config."""
_MANY = 50
"""More masks of one image are known to fill a browser's memory (label-studio issue 4940)."""
_NEVER = (
    "Score columns but the mean probability: COCO and the run's own Parquet files have them.",
    "A score of a single mask is shown beside it; Label Studio cannot sort or filter by it.",
)


class Options(Frozen):
    """Options of the Label Studio exporter."""

    url: str = "/data/local-files/?d="
    """What stands before an image's percent-quoted path: the default is Label Studio's local
    storage, whose LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is then the collection's folder; add the
    folder's name, `/data/local-files/?d=photos/`, where it is the folder above."""
    quoted: bool = True
    """Percent-quote the paths, as URLs and local storage want; a bucket's URI (`s3://`) as the
    storage connectors take it has them plain."""
    model_version: str = ""
    """Whose predictions these are, as a project's settings name them; empty: the method."""
    min_score: Share = 0.0
    """Segments with a lower score (mean probability of the label under the mask) are left out."""
    segments: Segments = "as_run"
    """How masks are cut: `as_run`, `class` (one for each label and image) or `components`."""
    comparison: str = ""
    """A table that `ovseg compare` has written into the run: masks come sooner where the other run
    disagrees; empty: by the run's own scores."""
    max_bytes: Annotated[int, Field(ge=1000)] = 100_000_000
    """Begin another file where this size would be passed; the server's own limit is 250 MB."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write config and tasks; return their paths in the run folder."""
    finished, order = RunReader(run), Priorities(run, options.comparison)
    losses = LossReport("Label Studio: what its predictions do not hold of this run", _NEVER)
    if not options.model_version:
        named = {"model_version": run.info.job().method.name}
        options = options.model_copy(update=named)
    with tempfile.TemporaryDirectory(prefix="ovseg-ls-") as folder, ExitStack() as open_files:
        batches = _Batches(Path(folder), options.max_bytes, open_files)
        cut = (options.segments, options.min_score)
        images = segments.images(finished, losses, *cut)
        work = number_lists.brushes
        for image, rows, brushes in mask_texts.with_texts(finished, images, work, open_files):
            batches.add(_with_regions(_task(image, rows, order, options), rows, brushes))
            losses.lost("images with more than 50 masks, slow to open", len(rows) > _MANY)
        files = batches.close()
        place = run.folder.child(*FOLDER.split("/"))
        place.atomic_write("config.xml", _config(run.info.job().vocabulary.names).encode())
        for file in files:
            place.put_file(file.name, file)
    losses.write(place)
    names = {file.name for file in files}
    for name in place.list():
        if name.startswith("tasks") and name not in names:
            place.delete(name)
    return [f"{FOLDER}/{name}" for name in ("config.xml", *sorted(names))]


def _config(names: tuple[str, ...]) -> str:
    """Return the labelling interface: brush and eraser with a colour for each label."""
    labels = "\n".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(hex_colour(number))}/>"
        for number, name in enumerate(names, start=1)
    )
    return (
        f'<View>\n  <Image name="{_IMAGE}" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="{_TAG}" toName="{_IMAGE}">\n{labels}\n  </BrushLabels>\n</View>\n'
    )


def _task(image: Row, rows: list[Row], order: Priorities, options: Options) -> dict[str, Any]:
    path, doubt = image["path"], order.of_image(image, rows)
    return {
        "data": {
            "image": options.url + (quote(path) if options.quoted else path),
            "file_name": path,
            "image_id": image["image_id"],
            "review_priority": doubt,
        },
        "predictions": [
            {
                "model_version": options.model_version,
                "score": round(1 - doubt, DIGITS),  # the lowest comes first in its queues
                "result": [],
            }
        ],
    }


def _with_regions(task: dict[str, Any], rows: list[Row], brushes: list[bytes]) -> bytes:
    """Return a task as JSON; brush bytes, most of it, are text already."""
    regions = b", ".join(map(_region, rows, brushes))
    # Inside a name the quotes would have backslashes: this is the key, and there is one.
    begin, end = json.dumps(task).encode().split(b'"result": []')
    return b'%b"result": [%b]%b' % (begin, regions, end)


def _region(row: Row, brush: bytes) -> bytes:
    region = {
        "id": _id(row),
        "type": "brushlabels",
        "from_name": _TAG,
        "to_name": _IMAGE,
        "score": round(row[SCORE], DIGITS),
        "original_width": row["width"],
        "original_height": row["height"],
        "image_rotation": 0,
        "value": {"brushlabels": [row["label"]], "format": "rle", "rle": []},
    }
    begin, end = json.dumps(region).encode().split(b'"rle": []')
    return b'%b"rle": [%b]%b' % (begin, brush, end)


def _id(row: Row) -> str:
    """Return a name that no other region of the image has, and that tells the run's segment."""
    index = row["segment_index"]
    return f"ovseg-{row['part_of']}-{index}" if "part_of" in row else f"ovseg-{index}"


class _Batches:
    """Local files of tasks: `tasks.json`, then `tasks-00002.json` and so on."""

    def __init__(self, folder: Path, max_bytes: int, open_files: ExitStack) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._open_files = open_files
        self._files: list[Path] = []
        self._disk = open_files.enter_context(ThreadPoolExecutor(1))
        self._endings: list[Future[None]] = []
        self._begin()

    def _begin(self) -> None:
        number = len(self._files) + 1
        name = "tasks.json" if number == 1 else f"tasks-{number:05d}.json"
        self._files.append(self._folder / name)
        self._file = self._open_files.enter_context(self._files[-1].open("wb"))
        self._size = self._file.write(b"[")
        self._separator = b"\n"

    def add(self, task: bytes) -> None:
        """Append a task; it stays whole, even where it alone is larger than a file may be."""
        is_first = self._separator == b"\n"
        if not is_first and self._size + len(task) + 5 > self._max_bytes:
            self._end()
            self._begin()
        self._size += self._file.write(self._separator + task)
        self._separator = b",\n"

    def _end(self) -> None:
        self._file.write(b"\n]\n")
        # The disk works on it while the next one is made: together they are many gigabytes.
        self._endings.append(self._disk.submit(_to_disk, self._file))

    def close(self) -> list[Path]:
        """End the last file and return all."""
        self._end()
        for ending in self._endings:
            ending.result()
        return self._files


def _to_disk(file: BinaryIO) -> None:
    with file:
        file.flush()
        os.fsync(file.fileno())
