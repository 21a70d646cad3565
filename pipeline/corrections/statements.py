"""Which of a file's statements on an image counts, and whether it says anything at all.

One rule for all tools: an image counts as reviewed by a file only if the file says something about
it. Of several statements the one that the tool marks as the truth counts, else one with masks, else
one that says that there are none, else the newest by the tool's clock, else the last of the file.
"""

from collections.abc import Sequence

from pipeline.importers.shared.notes import NoteKind
from pipeline.importers.shared.tool_file import ToolImage


def silence_of(image: ToolImage, empty_means_reviewed: bool) -> NoteKind | None:
    """Return why a statement says nothing; None: it says something.

    Args:
        image: of the tool's file.
        empty_means_reviewed: whether an image without any entry was looked at.
    """
    if image.masks:
        return None
    if image.num_left_out:
        return NoteKind.BOX_ONLY
    return None if image.is_checked or empty_means_reviewed else NoteKind.UNANNOTATED


def best_statement(images: Sequence[ToolImage]) -> ToolImage:
    """Return the statement on one image that counts among several, see the module."""
    ranked = enumerate(images)
    return max(ranked, key=lambda pair: (*_rank(pair[1]), pair[0]))[1]


def _rank(image: ToolImage) -> tuple[bool, bool, bool, float]:
    told_at_s = -1.0 if image.told_at_s is None else image.told_at_s
    return image.is_ground_truth, bool(image.masks), image.is_checked, told_at_s


def seconds_of(images: Sequence[ToolImage]) -> float | None:
    """Return the time that all statements on an image took; None: none says so."""
    times = [image.seconds for image in images if image.seconds is not None]
    return sum(times) if times else None
