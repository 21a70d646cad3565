"""A run's images with the texts of their masks, which helper processes make for large runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

from ovseg_core.rle.number_lists import Masks
from pipeline.exporters.shared.helpers import Helpers, wanted
from pipeline.run.reader import Row, RunReader

_CHARACTERS = 1 << 18
"""Of run lengths that are asked for at a time: so many that asking costs little beside it."""

Image = tuple[Row, list[Row]]


def with_texts(
    finished: RunReader,
    images: Iterable[Image],
    work: Callable[[list[Masks]], list[list[bytes]]],
    open_files: ExitStack,
) -> Iterator[tuple[Row, list[Row], list[bytes]]]:
    """Yield the images and their segments as they come, and the text of each segment's mask.

    Args:
        finished: the run.
        images: of it, with the rows of their segments.
        work: makes the texts (`ovseg_core.rle.number_lists`).
        open_files: ends the helpers, after an error too.
    """
    num_segments = sum(marker.tally.num_segments for marker in finished.markers)
    helpers = open_files.enter_context(Helpers(work, wanted(num_segments)))
    questions = ((some, [_masks(rows) for _, rows in some]) for some in _batches(images))
    for some, answer in helpers.answers(questions):
        for (image, rows), texts in zip(some, answer, strict=True):
            yield image, rows, texts


def _batches(images: Iterable[Image]) -> Iterator[list[Image]]:
    batch, size = [], 0
    for image, rows in images:
        batch.append((image, rows))
        size += 1 + sum(len(row["rle_counts"]) for row in rows)
        if size >= _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _masks(rows: list[Row]) -> Masks:
    if not rows:
        return Masks([], (1, 1), [])
    boxes = [[int(value) for value in row["bbox_xywh"]] for row in rows]
    return Masks(
        [row["rle_counts"] for row in rows],
        (rows[0]["height"], rows[0]["width"]),
        [(top, left, height, width) for left, top, width, height in boxes],
    )
