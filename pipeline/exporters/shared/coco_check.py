"""Exported COCO files against what they should hold, read line by line; memory does not grow.

ovseg writes one entry a line, images by ascending id, then annotations in the order of their images
(`coco_file`). Files of another layout were rewritten by somebody, and are told as such.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from pipeline.exporters.shared.coco_file import BEFORE_ANNOTATIONS, END

Entry = Mapping[str, Any]
_BEFORE_IMAGES = ', "images": ['
_MAX_LINE = 1 << 26
"""Characters of one entry."""
_SHOWN = 60


class ExportProblem(NamedTuple):
    """What is not as it should be in a file of an export."""

    where: str
    """Name of the file, then the entry."""
    expected: str
    found: str


class ExpectedCoco(NamedTuple):
    """What the files should hold together."""

    head: Entry
    """Of each file: values that its own must have, by key."""
    images: Iterable[tuple[Entry, Sequence[Entry]]]
    """Images by ascending id, each with its annotations. What an entry has beside these keys is not
    looked at."""


class _FileEntry(NamedTuple):
    file: str
    value: Entry
    id: int
    image_id: int


def coco_problems(
    expected: ExpectedCoco, datasets: Sequence[Path], results: Sequence[Path]
) -> Iterator[ExportProblem]:
    """Yield what is not as expected.

    Args:
        expected: see there.
        datasets: local files, `instances.json` or its parts in order.
        results: likewise of `results_segm.json`.
    """
    number = 0
    with ExitStack() as open_files:
        try:
            for path in datasets:
                yield from _head_problems(path, expected.head, open_files)
            images = chain.from_iterable(_entries(p, open_files, "images") for p in datasets)
            found = chain.from_iterable(_entries(p, open_files, "annotations") for p in datasets)
            compared = _Compared(images, found)
            for image, annotations in expected.images:
                number += len(annotations)
                yield from compared.next(image, annotations)
            yield from compared.rest()
            num_results = sum(_num_results(path, open_files) for path in results)
        except _NotOurLayoutError as error:
            where, found_text = error.args
            yield ExportProblem(where, "a file as ovseg writes it, one entry a line", found_text)
            return
    if num_results != number:
        name = "results_segm.json"
        yield ExportProblem(name, f"{number:,} masks, as in the tables", f"{num_results:,}")


class _NotOurLayoutError(Exception):
    """A file, and what in it ovseg does not write."""


class _Compared:
    """Two streams of a file's entries beside those that are expected."""

    def __init__(self, images: Iterator[_FileEntry], annotations: Iterator[_FileEntry]) -> None:
        self._images, self._annotations = images, annotations
        self._image, self._annotation = next(images, None), next(annotations, None)

    def next(self, image: Entry, annotations: Sequence[Entry]) -> Iterator[ExportProblem]:
        """Compare the next image."""
        name = str(image["file_name"])
        while self._image is not None and self._image.id < image["id"]:
            yield from self._foreign_image()
        if self._image is None or self._image.id > image["id"]:
            yield ExportProblem("images", f"an entry {image['id']}, {name}", "none")
        else:
            yield from _differences(self._image, image, f"image {image['id']}, {name}")
            self._image = next(self._images, None)
        there: dict[int, _FileEntry] = {}
        while self._annotation is not None and self._annotation.image_id <= image["id"]:
            if self._annotation.image_id < image["id"] or self._annotation.id in there:
                yield from self._foreign_annotation()
                continue
            there[self._annotation.id] = self._annotation
            self._annotation = next(self._annotations, None)
        for entry in annotations:
            what = f"annotation {entry['id']}, {name}"
            found = there.pop(entry["id"], None)
            if found is None:
                yield ExportProblem("annotations", f"an entry {entry['id']} of {name}", "none")
            else:
                yield from _differences(found, entry, what)
        for found in there.values():
            where = f"{found.file}, annotation {found.id}, {name}"
            yield ExportProblem(where, "segments of the tables", "one that is not in them")

    def rest(self) -> Iterator[ExportProblem]:
        """Yield the entries of which none was expected."""
        while self._image is not None:
            yield from self._foreign_image()
        while self._annotation is not None:
            yield from self._foreign_annotation()

    def _foreign_image(self) -> Iterator[ExportProblem]:
        assert self._image is not None
        where = f"{self._image.file}, image {self._image.id}"
        yield ExportProblem(where, "annotated images of the run, ids ascending", "another")
        self._image = next(self._images, None)

    def _foreign_annotation(self) -> Iterator[ExportProblem]:
        assert self._annotation is not None
        where = f"{self._annotation.file}, annotation {self._annotation.id}"
        found = f"image_id {self._annotation.image_id}"
        yield ExportProblem(where, "images of the file in their order, each id once", found)
        self._annotation = next(self._annotations, None)


def _differences(found: _FileEntry, expected: Entry, what: str) -> Iterator[ExportProblem]:
    for key, value in expected.items():
        if found.value.get(key) != value:
            where = f"{found.file}, {what}"
            there = _shortened(found.value.get(key))
            yield ExportProblem(where, f"{key} {_shortened(value)}", f"{key} {there}")


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _opened(path: Path, open_files: ExitStack) -> TextIO:
    return open_files.enter_context(path.open(encoding="ascii", errors="replace", newline="\n"))


def _head_problems(path: Path, expected: Entry, open_files: ExitStack) -> Iterator[ExportProblem]:
    line = _opened(path, open_files).readline(_MAX_LINE).rstrip("\n")
    if not line.endswith(_BEFORE_IMAGES):
        raise _NotOurLayoutError(path.name, _shortened(line[:_SHOWN]))
    head = _parsed(path, line.removesuffix(_BEFORE_IMAGES) + "}")
    for key, value in expected.items():
        found = {**head, **_mapping(head.get("info"))}.get(key)
        if found != value:
            yield ExportProblem(path.name, f"{key} {_shortened(value)}", _shortened(found))


def _mapping(value: Any) -> Entry:
    return value if isinstance(value, dict) else {}


def _entries(path: Path, open_files: ExitStack, which: str) -> Iterator[_FileEntry]:
    """Yield a file's images or annotations."""
    file, between = _opened(path, open_files), BEFORE_ANNOTATIONS.lstrip("\n")
    file.readline(_MAX_LINE)
    is_wanted, end = which == "images", END.lstrip("\n")
    while line := file.readline(_MAX_LINE):
        if line in (between, end) or line == f"{between}\n":
            if is_wanted:
                return
            is_wanted = line.rstrip("\n") == between
        elif is_wanted and (text := line.rstrip(",\n")):
            value = _parsed(path, text)
            number, image = value.get("id"), value.get("id" if which == "images" else "image_id")
            if not (isinstance(number, int) and isinstance(image, int)):
                raise _NotOurLayoutError(path.name, text[:_SHOWN])
            yield _FileEntry(path.name, value, number, image)
    raise _NotOurLayoutError(path.name, "it ends before its end")


def _parsed(path: Path, text: str) -> Entry:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _NotOurLayoutError(path.name, f"{text[:_SHOWN]}: {error}") from error
    if not isinstance(value, dict):
        raise _NotOurLayoutError(path.name, text[:_SHOWN])
    return value


def _num_results(path: Path, open_files: ExitStack) -> int:
    file = _opened(path, open_files)
    count, last = 0, ""
    while line := file.readline(_MAX_LINE):
        count += line.startswith("{")
        last = line
    if last.rstrip() != "]":
        raise _NotOurLayoutError(path.name, "it ends before its end")
    return count
