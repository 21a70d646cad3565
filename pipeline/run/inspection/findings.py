"""What `ovseg check` finds: where it is, what was expected, what is there, what to do."""

from collections import Counter
from typing import Literal, get_args

from schemas.base import Frozen

FindingKind = Literal["images", "marker", "file", "row", "reference", "mask", "review", "export"]
"""Of a finding: `images` the manifest and its generations; `marker` what says that a shard is done;
`file` a table that is gone, changed or unreadable; `row` rows that are missing, foreign, repeated
or counted wrongly; `reference` an image or a label that a row names; `mask` run lengths, area, box;
`review` decisions and imports; `export` an export against the tables."""
KINDS: tuple[FindingKind, ...] = get_args(FindingKind)
MAX_NAMED = 100
"""Findings of each kind that are told one by one; all are counted."""


class Finding(Frozen):
    """One thing that is not as it should be."""

    kind: FindingKind
    where: str
    """File of the run folder, then image and segment where it is one of these."""
    expected: str
    found: str
    advice: str
    """What to do."""


class Findings:
    """Counts findings and keeps the first of each kind.

    Attributes:
        counts: by kind.
        named: the first `MAX_NAMED` of each kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[FindingKind] = Counter()
        self.named: list[Finding] = []

    def add(self, kind: FindingKind, where: str, expected: str, found: object, advice: str) -> None:
        """Note one, see `Finding`."""
        self.counts[kind] += 1
        if self.counts[kind] <= MAX_NAMED:
            told = Finding(
                kind=kind, where=where, expected=expected, found=str(found), advice=advice
            )
            self.named.append(told)

    def count(self, kind: FindingKind, number: int) -> None:
        """Count further ones that are not told one by one."""
        self.counts[kind] += number

    def in_order(self) -> dict[FindingKind, int]:
        """Return the counts, tables first; kinds without any are left out."""
        return {kind: self.counts[kind] for kind in KINDS if self.counts[kind]}
