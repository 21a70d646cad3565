"""Rows of a run's tables that cannot be what ovseg wrote: found before they are used, and counted.

A run folder may come from somebody else, so its masks are input: run lengths that are no mask of
their image would end the process, or show what lies in its memory. A damaged row is left out where
it is read; everything else of the run stays of use.
"""

import logging
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ovseg_core.rle.check import MaskFacts, mask_facts
from ovseg_core.rle.coco_segmentation import compress_segmentation
from pipeline.run.tables.rows import Row
from schemas.base import Frozen
from schemas.untrusted import MAX_PIXELS, printable

logger = logging.getLogger(__name__)
compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

DAMAGED_MASKS = "masks of the run that are damaged"
DAMAGED_IMAGES = "images of the run whose row is damaged"
_NUM_NAMED = 10


class Damage(Frozen):
    """One kind of what was left out because it cannot be what ovseg wrote."""

    count: int
    first: tuple[str, ...]
    """The first ten, with what is wrong."""

    @classmethod
    def of(cls, names: Sequence[str], count: int = 0) -> "Damage":
        """Return so many, or all of the names."""
        return cls(count=count or len(names), first=tuple(names[:_NUM_NAMED]))


class DamagedRows:
    """Counts rows that were left out, and keeps the first ten of each kind; safe for threads.

    Attributes:
        counts: by what they are, in the plural.
        first: the names of the first ten of each.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, list[str]] = {}
        self._seen: set[tuple[str, str]] = set()
        self._lock = Lock()

    def add(self, what: str, names: Mapping[str, Sequence[str]]) -> None:
        """Count rows; those of an image once, however often it is read.

        Args:
            what: in the plural.
            names: by `image_id`, of all such rows of the image, with what is wrong.
        """
        for image_id, of_image in names.items():
            with self._lock:
                if (what, image_id) in self._seen:
                    continue
                self._seen.add((what, image_id))
                first = self.first.setdefault(what, [])
                new = of_image[: _NUM_NAMED - len(first)]
                first += new
                self.counts[what] = self.counts.get(what, 0) + len(of_image)
            for name in new:
                logger.warning("left out, %s: %s", what, printable(name))

    def report(self) -> dict[str, Damage]:
        """Return what was left out, by what it is, in the plural."""
        with self._lock:
            return {what: Damage.of(self.first[what], n) for what, n in self.counts.items() if n}


def is_image_size(image: Row) -> bool:
    """Return whether a row of `images` states a size that an image can have."""
    height, width = image["height"] or 0, image["width"] or 0
    return height > 0 and width > 0 and height * width <= MAX_PIXELS


def size_problem(image: Row) -> str:
    """Return the name of an image whose size no image can have, with what is wrong."""
    return f"{image['path']}: no image is {image['width']} x {image['height']} pixels"


def check_masks(table: pa.Table, images: Mapping[str, Row]) -> tuple[pa.Table, dict[int, str]]:
    """Return rows of `annotations` with run lengths in canonical form, and which are damaged.

    Args:
        table: rows with `image_id` and `rle_counts`; what other columns of a mask there are is
            checked too, all else was checked before (`row_check`).
        images: rows of the annotated images by `image_id`; rows of other images are not checked.

    Returns:
        The table, and in words what is wrong with the rows that are damaged, by their place.
    """
    if not table.num_rows:
        return table, {}
    codes, ids = _codes(table["image_id"])
    sizes_of_ids = np.array([_size_of(images.get(one)) for one in ids] + [(-1, -1)], np.int64)
    sizes = sizes_of_ids[codes]
    is_known = sizes[:, 0] >= 0
    facts = mask_facts(_texts(table["rle_counts"]), sizes)
    unusual = np.flatnonzero(facts.is_sound & ~facts.is_canonical & is_known)
    if len(unusual):
        table, facts = _in_canonical_form(table, unusual, sizes)
    found: dict[int, str] = {}
    for wrong, problem in _problems(table, facts, sizes):
        for place in np.flatnonzero(wrong & is_known).tolist():
            height, width = sizes[place].tolist()
            found.setdefault(place, problem.format(size=f"{width} x {height}"))
    return table, found


def without_damaged(
    table: pa.Table, problems: Mapping[int, str], images: Mapping[str, Row]
) -> tuple[pa.Table, dict[str, list[str]]]:
    """Return a table without its damaged rows, and the names of these by `image_id`.

    Args:
        table: as it was checked.
        problems: what `check_masks` has found.
        images: rows of the annotated images by `image_id`.
    """
    names: dict[str, list[str]] = {}
    if not problems:
        return table, names
    places = sorted(problems)
    has_index = "segment_index" in table.column_names
    indices = table["segment_index"].take(places).to_pylist() if has_index else places
    codes, ids = _codes(table["image_id"])
    for place, index in zip(places, indices, strict=True):
        image_id = ids[codes[place]]
        name = f"{images[image_id]['path']}, segment {index}: {problems[place]}"
        names.setdefault(image_id, []).append(name)
    kept = np.ones(table.num_rows, bool)
    kept[places] = False
    return table.filter(pa.array(kept)), names


def _problems(
    table: pa.Table, facts: MaskFacts, sizes: NDArray[np.int64]
) -> list[tuple[NDArray[np.bool_], str]]:
    """Return what can be wrong with rows, in words, and for each the rows (N,) that it is true of.

    Only columns that the table has are looked at.
    """
    found = [(~facts.is_sound, "its run lengths are no mask of {size} pixels")]
    columns = set(table.column_names)
    for name, expected in (("height", sizes[:, 0]), ("width", sizes[:, 1])):
        if name in columns:
            found.append((_numbers(table, name) != expected, "its image is {size} pixels"))
    if "area_px" in columns:
        found.append((_numbers(table, "area_px") != facts.area_px, "its area_px is another"))
    if "bbox_xywh" in columns:
        boxes = facts.boxes_xywh.astype(np.float32)
        found.append(((_boxes(table) != boxes).any(axis=1), "its bbox_xywh is not around it"))
    if "segment_index" in columns:
        found.append((_numbers(table, "segment_index") < 0, "its segment_index is no number"))
    return found


def _size_of(image: Row | None) -> tuple[int, int]:
    """Return an image's size; (-1, -1): not annotated; (0, 0): no image can have its size."""
    if image is None:
        return -1, -1
    return (image["height"], image["width"]) if is_image_size(image) else (0, 0)


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.integer], list[Any]]:
    """Return a column as places in a list of its different values; -1 where there is none."""
    encoded: Any = column
    if not pa.types.is_dictionary(column.type):
        encoded = column.dictionary_encode()
    joined: Any = encoded.unify_dictionaries().combine_chunks()
    return joined.indices.fill_null(-1).to_numpy(), joined.dictionary.to_pylist()


def _texts(column: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a column of texts as the characters that lie in memory; no value is an empty text."""
    array = _filled(column, "").combine_chunks().cast(pa.large_binary())
    _, places, data = array.buffers()
    places = np.frombuffer(places, np.int64)[array.offset : array.offset + len(array) + 1]
    if data is None:
        return np.empty(0, np.uint8), places
    return np.frombuffer(data, np.uint8)[places[0] : places[-1]], places - places[0]


def _numbers(table: pa.Table, name: str) -> NDArray[np.integer]:
    return _filled(table[name], -1).to_numpy()


def _boxes(table: pa.Table) -> NDArray[np.float32]:
    column = table["bbox_xywh"]
    if column.null_count:
        parts = [compute.list_element(column, place) for place in range(4)]
        return np.column_stack([_filled(part, float("nan")).to_numpy() for part in parts])
    values: Any = column.combine_chunks()
    return values.flatten().fill_null(float("nan")).to_numpy().reshape(-1, 4)


def _filled(column: Any, value: Any) -> Any:
    return column.fill_null(value) if column.null_count else column


def _in_canonical_form(
    table: pa.Table, places: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[pa.Table, MaskFacts]:
    """Join the runs that an empty run divides, in some rows."""
    texts = dict(zip(places.tolist(), table["rle_counts"].take(places).to_pylist(), strict=True))
    changed = np.zeros(table.num_rows, bool)
    changed[places] = True
    new = [
        compress_segmentation({"size": sizes[place].tolist(), "counts": text}, tuple(sizes[place]))
        for place, text in texts.items()
    ]
    column: Any = table["rle_counts"].combine_chunks()
    column = compute.replace_with_mask(column, pa.array(changed), pa.array(new, column.type))
    number = table.schema.get_field_index("rle_counts")
    table = table.set_column(number, table.schema.field(number), column)
    return table, mask_facts(_texts(table["rle_counts"]), sizes)
