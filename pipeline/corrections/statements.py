"""Which of a file's statements on an image counts, and whether it says anything at all.

One rule for all tools: an image counts as reviewed by a file only if the file says something about
it. Of several statements the one that the tool marks as the truth counts, else one with masks, else
one that says that there are none, else the newest by the tool's clock, else the last of the file.
"""

from collections.abc import Sequence

from pipeline.corrections.names import match_names
from pipeline.importers.shared.notes import NoteKind, Notes
from pipeline.importers.shared.tool_file import ToolImage


def statements_by_path(
    paths: Sequence[str], images: Sequence[ToolImage], notes: Notes
) -> dict[str, list[ToolImage]]:
    """Return a tool's images by the image of the run that each is; note the names not as they are.

    Args:
        paths: of all images of the run.
        images: of the tool's file.
        notes: get what is not found, what could be several images and what is matched loosely.
    """
    by_path: dict[str, list[ToolImage]] = {}
    matches = match_names(paths, [image.names for image in images])
    ambiguous = set(matches.ambiguous)
    for place, (image, match) in enumerate(zip(images, matches.found, strict=True)):
        if match is None:
            is_ambiguous = place in ambiguous
            kind = NoteKind.AMBIGUOUS_NAMES if is_ambiguous else NoteKind.UNKNOWN_IMAGES
            notes.add(kind, image.name)
            continue
        if match.how:
            notes.add(NoteKind.LOOSE_NAMES, f"{image.name}: {match.path} ({match.how})")
        by_path.setdefault(match.path, []).append(image)
    return by_path


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
