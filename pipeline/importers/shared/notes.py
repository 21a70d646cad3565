"""What of a tool's file was left out, replaced or read in another way: counted, and named.

Importers, `pipeline.corrections.import_review` and readers of true masks add to the same `Notes`.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from pydantic import PositiveInt

from schemas.base import Frozen

_NUM_NAMED = 10
_NAME_CHARACTERS = 300
_NUM_IN_MESSAGE = 3


class NoteKind(StrEnum):
    """Kinds of notes; the names are part of the report's JSON."""

    UNREADABLE = "unreadable"
    DROPPED_MASKS = "dropped_masks"
    UNLABELLED = "unlabelled"
    UNKNOWN_LABELS = "unknown_labels"
    UNLISTED_LABELS = "unlisted_labels"
    UNUSED_FLAGS = "unused_flags"
    BOX_ONLY = "box_only"
    OTHER_SHAPES = "other_shapes"
    UNANNOTATED = "unannotated"
    EMPTIED = "emptied"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    REPEATED = "repeated"
    UNKNOWN_IMAGES = "unknown_images"
    AMBIGUOUS_NAMES = "ambiguous_names"
    LOOSE_NAMES = "loose_names"
    WRONG_SIZE = "wrong_size"
    FRAMES = "frames"
    REPLACED = "replaced"
    SET_BACK = "set_back"
    OLDER = "older"
    PAGE_KEPT = "page_kept"
    PAGE_OVERRIDDEN = "page_overridden"


WORDS: Mapping[NoteKind, str] = MappingProxyType(
    {
        NoteKind.UNREADABLE: "left out: entries that cannot be read",
        NoteKind.DROPPED_MASKS: "left out: masks of no image, or without a pixel",
        NoteKind.UNLABELLED: "unknown: masks without a label",
        NoteKind.UNKNOWN_LABELS: "unknown: masks of labels that the run does not have",
        NoteKind.UNLISTED_LABELS: "unknown: segments of labels that the file does not list",
        NoteKind.UNUSED_FLAGS: "without effect: --label of names that no mask has",
        NoteKind.BOX_ONLY: "left out: images with boxes or points only",
        NoteKind.OTHER_SHAPES: "left out: boxes, points and texts",
        NoteKind.UNANNOTATED: "left out: images of which the file says nothing (if somebody has "
        "checked them, import again with --empty-means reviewed; no undo is needed)",
        NoteKind.EMPTIED: "left out: images without a mask in the file that have some in the run "
        "(if somebody has deleted them, import again with --empty-means reviewed; no undo is "
        "needed)",
        NoteKind.UNCHANGED: "left out: images that are as predicted, or as reviewed before, and "
        "not marked as checked (if somebody has checked them: --unchanged-means reviewed)",
        NoteKind.SKIPPED: "left out: skipped in the tool",
        NoteKind.REPEATED: "left out: another statement on the same image counts",
        NoteKind.UNKNOWN_IMAGES: "left out: images that the run has not annotated",
        NoteKind.AMBIGUOUS_NAMES: "left out: names that could be several images",
        NoteKind.LOOSE_NAMES: "found by a name that differs",
        NoteKind.WRONG_SIZE: "left out: images of another size",
        NoteKind.FRAMES: "turned, or of exchanged sides",
        NoteKind.REPLACED: "replaced: imported before",
        NoteKind.SET_BACK: "set back to the predictions: images that an earlier import had "
        "corrected (if nobody did so, take this import back, and import the file with "
        "--unchanged-means unreviewed)",
        NoteKind.OLDER: "left out: older than what was imported before",
        NoteKind.PAGE_KEPT: "decided otherwise on the review page, which counts (--prefer file)",
        NoteKind.PAGE_OVERRIDDEN: "decided otherwise on the review page; the file counts",
    }
)
"""Each kind for a person."""


class Note(Frozen):
    """One kind of note in a report."""

    count: PositiveInt
    first: tuple[str, ...]
    """The first ten, in words."""

    @property
    def has_more(self) -> bool:
        """Whether there may be more than the named ones."""
        return len(self.first) == _NUM_NAMED < self.count


class Notes:
    """Counts what happened to a file's entries, and keeps the first ten of each kind.

    Attributes:
        listed_labels: the labels that the file lists, used or not; empty: it has no such list.
    """

    def __init__(self) -> None:
        self.listed_labels: set[str] = set()
        self._counts: dict[NoteKind, int] = {}
        self._first: dict[NoteKind, dict[str, None]] = {}

    def add(self, kind: NoteKind, name: str, count: int = 1) -> None:
        """Count an entry.

        Args:
            kind: what happened to it.
            name: the image with, after a colon, what a person needs to know.
            count: of masks or shapes, where the kind counts these.
        """
        self._counts[kind] = self._counts.get(kind, 0) + count
        first = self._first.setdefault(kind, {})
        if len(first) < _NUM_NAMED:
            is_long = len(name) > _NAME_CHARACTERS
            first[f"{name[:_NAME_CHARACTERS]}..." if is_long else name] = None

    def __getitem__(self, kind: NoteKind) -> int:
        """Return how many entries of a kind were counted."""
        return self._counts.get(kind, 0)

    def report(self) -> dict[NoteKind, Note]:
        """Return what was noted, in the order of the kinds."""
        return {
            kind: Note(count=self._counts[kind], first=tuple(self._first[kind]))
            for kind in NoteKind
            if kind in self._counts
        }


def in_words(notes: Notes) -> str:
    """Return what was noted for the end of a message, with the first few of each kind."""
    return "".join(
        f"; {WORDS[kind]}: {note.count} ({', '.join(note.first[:_NUM_IN_MESSAGE])})"
        for kind, note in notes.report().items()
    )
