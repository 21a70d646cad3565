"""`LOSSES.txt`: what a format could not hold of a run, counted.

An exporter counts while it writes, and the file is written last: an export without it is not
finished.
"""

import bisect
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

from schemas.base import Frozen
from schemas.untrusted import shown_text

LOSSES_FILE = "LOSSES.txt"
GOOD_IOU = 0.95
"""Outlines with a lower IoU with their mask are counted as poor."""
_BINS = 1000
_NUM_NAMED = 10
_WRITTEN, _LOST = "Written:", "Lost in this export:"
_OPTION = re.compile(r"\b(\w{1,64})=(.*?)(?=, \w{1,64}=|$)")
_COUNT = re.compile(r" {0,9}([0-9]{1,18})  (.+)")
NOT_ANNOTATED = "images that the run has not annotated yet"
FAILED_IMAGES = "images that failed in the run"


class LossReport:
    """The counts of one export; they do not depend on the order in which losses are counted.

    Args:
        title: the first line of the file.
        options: of the exporter, for the second line.
        not_held: what the format has no place for in any run, one phrase each.
        source: one line about what was read; empty: none.
        note: one line about how far the masks can be trusted; empty: none.
    """

    def __init__(
        self,
        title: str,
        options: Frozen,
        not_held: Sequence[str] = (),
        source: str = "",
        note: str = "",
    ) -> None:
        given = options.model_dump(mode="json").items()
        values = (f"{key}={value}" for key, value in given)
        self.options_line = shown_text(f"Options: {', '.join(values)}")
        self._title = title
        self._source = source
        self._note = note
        self._not_held = tuple(not_held)
        self._written: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._named: defaultdict[str, list[str]] = defaultdict(list)
        self._iou_histogram = [0] * (_BINS + 1)
        self._lowest_iou = 1.0

    def count_written(self, what: str, count: int = 1) -> None:
        """Count something that the format holds.

        Args:
            what: in the plural, such as "images".
            count: how many; a count of 0 is listed too.
        """
        self._written[what] += count

    def count_lost(self, what: str, count: int = 1) -> None:
        """Count a loss.

        Args:
            what: in the plural, such as "masks with holes filled".
            count: how many; a count of 0 is listed too.
        """
        self._lost[what] += count

    def name_lost(self, what: str, name: str) -> None:
        """Count a loss, and name it if it is among the first ten by name.

        Args:
            what: in the plural, such as "masks that are damaged".
            name: which one.
        """
        self._lost[what] += 1
        named = self._named[what]
        bisect.insort(named, name)
        del named[_NUM_NAMED:]

    def count_outline(self, iou: float) -> None:
        """Count an outline that replaces a mask.

        Args:
            iou: of the mask with the outline as the format's readers fill it, 0 to 1.
        """
        self._iou_histogram[int(_BINS * iou)] += 1
        self._lowest_iou = min(self._lowest_iou, iou)

    @property
    def num_poor_outlines(self) -> int:
        """Outlines whose IoU with their mask is below `GOOD_IOU`."""
        return sum(self._iou_histogram[: round(_BINS * GOOD_IOU)])

    def text(self) -> str:
        """Return the content of the file."""
        lines = [self._title, self.options_line, *filter(None, [self._source, self._note])]
        lines += ["", _WRITTEN, *_count_lines(self._written, {})]
        lines += ["", _LOST, *_count_lines(self._lost, self._named)]
        num_outlines = sum(self._iou_histogram)
        if num_outlines:
            lines += [
                "",
                "Outlines, compared with their masks (what fills a hole counts as well):",
                f"{num_outlines:>10}  outlines: IoU {self._median_iou(num_outlines):.3f} in the "
                f"median, {self._lowest_iou:.3f} at the lowest",
                f"{self.num_poor_outlines:>10}  masks whose outline has an IoU under {GOOD_IOU}",
            ]
        if self._not_held:
            lines += ["", "What this format has no place for:"]
            lines += [f"- {what}" for what in self._not_held]
        return "\n".join(map(shown_text, lines)) + "\n"

    def _median_iou(self, num_outlines: int) -> float:
        seen = 0
        for place, count in enumerate(self._iou_histogram):
            seen += count
            if 2 * seen >= num_outlines:
                return place / _BINS
        raise AssertionError("the histogram is empty")


class Recorded(NamedTuple):
    """What a `LOSSES.txt` says of its export."""

    options: dict[str, str]
    source: str
    """Whose masks; empty: it does not say."""
    written: dict[str, int]
    """Counts by what they are, in the plural."""
    lost: dict[str, int]


def recorded_of(text: str) -> Recorded:
    """Return what the content of a `LOSSES.txt` says, as far as it can be read."""
    lines = text.splitlines()
    options = dict(_OPTION.findall(lines[1])) if lines[1:] else {}
    source = lines[2] if lines[2:] and lines[2].startswith("masks: ") else ""
    return Recorded(options, source, _counts_below(lines, _WRITTEN), _counts_below(lines, _LOST))


def _counts_below(lines: Sequence[str], title: str) -> dict[str, int]:
    below = takewhile(bool, lines[lines.index(title) + 1 :] if title in lines else ())
    found = (_COUNT.fullmatch(line) for line in below)
    return {match[2]: int(match[1]) for match in found if match}


def summary_of(text: str) -> str:
    """Return from the content of a `LOSSES.txt` whose masks it tells of, and what was written."""
    recorded = recorded_of(text)
    written = ", ".join(f"{count} {what}" for what, count in recorded.written.items())
    return "; ".join(filter(None, (recorded.source, written)))


def _count_lines(counts: Counter[str], named: Mapping[str, Sequence[str]]) -> list[str]:
    lines = []
    for what, count in sorted(counts.items()):
        names = named.get(what, ())
        lines += [f"{count:>10}  {what}", *(f"{'':>12}{name}" for name in names)]
        if 0 < len(names) < count:
            lines.append(f"{'':>12}and {count - len(names):,} more")
    return lines or ["- nothing"]
