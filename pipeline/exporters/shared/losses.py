"""LOSSES.txt: what a format could not carry of a run, in numbers.

An exporter counts while it writes, and writes the text last: an export without it was not finished.
"""

from collections import Counter
from collections.abc import Sequence

from pipeline.storage.folder import Folder
from schemas.base import Frozen

NAME = "LOSSES.txt"
GOOD_IOU = 0.95
"""Outlines that agree less with their mask are counted one by one."""
_BINS = 1000


class LossReport:
    """Counts of one export; the same losses in any order give the same text."""

    def __init__(self, title: str, never: Sequence[str] = ()) -> None:
        """Begin to count.

        Args:
            title: the format, as the user knows it.
            never: what it has no place for in any run, a sentence each.
        """
        self._title = title
        self._never = tuple(never)
        self._written: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._ious = [0] * (_BINS + 1)
        self._lowest = 1.0
        self._options = ""

    def begin(self, place: Folder, options: Frozen, index: str = "") -> None:
        """Say that files are about to be written, and with which options.

        Should that be interrupted, files of two exports lie side by side. Where the older one had
        the same options they are alike; else its index and its LOSSES.txt are removed first, so
        that nobody takes the mixture for a whole.

        Args:
            place: the export's folder.
            options: of the exporter.
            index: the file by which readers find the others, if there is one.
        """
        given = options.model_dump(mode="json")
        self._options = f"Options: {', '.join(f'{key}={value}' for key, value in given.items())}"
        try:
            before = place.read_bytes(NAME).decode(errors="replace").splitlines()
        except FileNotFoundError:
            return
        if self._options not in before:
            for name in filter(None, (index, NAME)):
                place.delete(name)

    def wrote(self, what: str, count: int = 1) -> None:
        """Count what did get into the format, such as "images"; a unit for the losses."""
        self._written[what] += count

    def lost(self, what: str, count: int = 1) -> None:
        """Count a loss, in the plural: "masks with holes filled"; zero is said too."""
        self._lost[what] += count

    def outline(self, iou: float) -> None:
        """Count an outline that stands for a mask.

        Args:
            iou: of the two, 0 to 1, as the format's readers fill the outline.
        """
        self._ious[int(_BINS * iou)] += 1
        self._lowest = min(self._lowest, iou)

    @property
    def num_poor_outlines(self) -> int:
        """Outlines whose IoU with their mask is under 0.95."""
        return sum(self._ious[: round(_BINS * GOOD_IOU)])

    def text(self) -> str:
        """Return the file's content."""
        head = [self._title, self._options] if self._options else [self._title]
        lines = [*head, "", "Written:", *_counted(self._written, "nothing")]
        lines += ["", "Lost in this export:", *_counted(self._lost, "nothing")]
        compared = sum(self._ious)
        if compared:
            lines += [
                f"{self.num_poor_outlines:>10}  masks whose outline has an IoU under {GOOD_IOU}",
                f"{compared:>10}  outlines compared with their masks: IoU "
                f"{self._median(compared):.3f} in the median, {self._lowest:.3f} at the lowest",
            ]
        if self._never:
            lines += ["", "What this format has no place for:", *(f"- {it}" for it in self._never)]
        return "\n".join(lines) + "\n"

    def _median(self, compared: int) -> float:
        seen = 0
        for step, count in enumerate(self._ious):
            seen += count
            if 2 * seen >= compared:
                return step / _BINS
        raise AssertionError("no outlines")

    def write(self, place: Folder) -> None:
        """Write the file into an export's folder."""
        place.atomic_write(NAME, self.text().encode())


def _counted(counts: Counter[str], none: str) -> list[str]:
    return [f"{count:>10}  {what}" for what, count in sorted(counts.items())] or [f"- {none}"]
