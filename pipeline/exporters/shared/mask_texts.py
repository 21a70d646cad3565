"""A run's images with the text of each mask, which helper processes make for large runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

from ovseg_core.rle.number_lists import RleMasks
from pipeline.exporters.shared.helper_processes import HelperProcesses, num_processes
from pipeline.run.reader import Row, RunReader

_CHARACTERS = 1 << 18
"""Of RLEs in one task: enough that pickling costs little beside the work."""

ImageSegments = tuple[Row, list[Row]]
"""A row of `images` with its rows of `annotations`."""


def with_texts(
    reader: RunReader,
    images: Iterable[ImageSegments],
    work: Callable[[list[RleMasks]], list[list[bytes]]],
    open_files: ExitStack,
) -> Iterator[tuple[Row, list[Row], list[bytes]]]:
    """Yield the images and their segments as they come, and the text of each segment's mask.

    Args:
        reader: of the run.
        images: of the run, with the rows of their segments.
        work: makes the texts (`ovseg_core.rle.number_lists`).
        open_files: ends the helper processes, also after an error.
    """
    num_segments = sum(marker.tally.num_segments for marker in reader.markers)
    helpers = open_files.enter_context(HelperProcesses(work, num_processes(num_segments)))
    tasks = ((batch, [_masks(rows) for _, rows in batch]) for batch in _batches(images))
    for batch, texts_of_batch in helpers.map(tasks):
        for (image, rows), texts in zip(batch, texts_of_batch, strict=True):
            yield image, rows, texts


def _batches(images: Iterable[ImageSegments]) -> Iterator[list[ImageSegments]]:
    batch, size = [], 0
    for image, rows in images:
        batch.append((image, rows))
        size += 1 + sum(len(row["rle_counts"]) for row in rows)
        if size >= _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _masks(rows: list[Row]) -> RleMasks:
    if not rows:
        return RleMasks([], (1, 1), [])
    boxes = [[int(value) for value in row["bbox_xywh"]] for row in rows]
    return RleMasks(
        [row["rle_counts"] for row in rows],
        (rows[0]["height"], rows[0]["width"]),
        [(top, left, height, width) for left, top, width, height in boxes],
    )
