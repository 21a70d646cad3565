"""What annotation tools call images and labels, and what the run calls them."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

from pipeline.run.file_names import flat_name
from pipeline.run.folder import RunFolder


class Found(NamedTuple):
    """An image of the run."""

    image_id: str
    distance: tuple[int, int]
    """How far the tool's name is from the run's; (0, 0): it is the same."""


class ImageNames:
    """Finds images of a run by the names that tools give them.

    A name is tried as it is, then without its first folders one by one (tools put their own in
    front), in composed Unicode, as a flat name (`a__b.jpg`), and last as a base name or one without
    its ending, where no other image of the run has the same.
    """

    def __init__(self, run: RunFolder) -> None:
        """Read the manifest."""
        table = run.manifest()
        paths, ids = (table.column(name).to_pylist() for name in ("path", "image_id"))
        self._exact = dict(zip(paths, ids, strict=True))

    def find(self, names: Sequence[str]) -> Found | None:
        """Return the image that fits best; None where no name is one of the run's."""
        for kind, (table, forms) in enumerate(
            (
                (self._exact, _tails),
                (self._composed, lambda name: map(_composed, _tails(name))),
                (self._flat, lambda name: map(_base, (name, _composed(name)))),
                (self._base_names, lambda name: map(_base, (name, _composed(name)))),
                (self._stems, lambda name: map(_stem, (name, _composed(name)))),
            )
        ):
            for name in names:
                for place, form in enumerate(forms(name)):
                    if form in table:
                        return Found(table[form], (kind, place))
        return None

    @cached_property
    def _composed(self) -> dict[str, str]:
        return self._unique(_composed)

    @cached_property
    def _flat(self) -> dict[str, str]:
        return self._unique(flat_name)

    @cached_property
    def _base_names(self) -> dict[str, str]:
        return self._unique(_base)

    @cached_property
    def _stems(self) -> dict[str, str]:
        return self._unique(_stem)

    def _unique(self, form: Callable[[str], str]) -> dict[str, str]:
        """Return the ids by a form of the paths, where no other image has the same."""
        listed = [(form(path), key) for path, key in self._exact.items()]
        counts = Counter(name for name, _ in listed)
        return {name: key for name, key in listed if counts[name] == 1}


class LabelNames:
    """Finds labels of a vocabulary: as they are, else without regard to case and space around."""

    def __init__(self, names: Sequence[str]) -> None:
        """Take the names in the vocabulary's order."""
        self._exact = {name: number for number, name in enumerate(names, start=1)}
        self._loose = {_plain(name): number for number, name in enumerate(names, start=1)}
        self.names = tuple(names)

    def find(self, label: str) -> int | None:
        """Return the category id; None where it is no label of the run."""
        return self._exact.get(label) or self._loose.get(_plain(label))


def _tails(name: str) -> list[str]:
    parts = name.lstrip("/").split("/")
    return [name, *("/".join(parts[start:]) for start in range(len(parts)))]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return PurePosixPath(_base(name)).stem


def _plain(label: str) -> str:
    return _composed(label).strip().casefold()
