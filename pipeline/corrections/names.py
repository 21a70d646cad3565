"""Find images and labels of a run by the names that annotation tools give them."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

from pipeline.run.file_names import flat_name
from pipeline.run.folder import RunFolder


class ImageMatch(NamedTuple):
    """The image of the run that a tool's name stands for.

    Attributes:
        image_id: of the run.
        distance: how much the tool's name differs from the run's path: (kind of comparison,
            folders left out); (0, 0): it is the same.
    """

    image_id: str
    distance: tuple[int, int]


class ImageNames:
    """Finds images of a run by the names in a tool's file.

    A name is tried as it is, then without its first folders one by one (tools put their own in
    front), in composed Unicode, as a flat name (`a__b.jpg`), as a base name, and last as a base
    name without its suffix; the last three only if no other image of the run has the same.

    Args:
        run: its manifest is read.
    """

    def __init__(self, run: RunFolder) -> None:
        table = run.manifest()
        paths, ids = (table.column(name).to_pylist() for name in ("path", "image_id"))
        self._exact = dict(zip(paths, ids, strict=True))

    def find(self, names: Sequence[str]) -> ImageMatch | None:
        """Return the best match of an image's names; None: no name is known."""
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
                        return ImageMatch(table[form], (kind, place))
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
        """Return the image ids by a form of their paths, if no other path has the same form."""
        listed = [(form(path), key) for path, key in self._exact.items()]
        counts = Counter(name for name, _ in listed)
        return {name: key for name, key in listed if counts[name] == 1}


class LabelNames:
    """Finds labels of a vocabulary: exactly, else ignoring case and white space at the ends.

    Args:
        names: of the labels, in the vocabulary's order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._exact = {name: number for number, name in enumerate(names, start=1)}
        self._loose = {_plain(name): number for number, name in enumerate(names, start=1)}
        self.names = tuple(names)

    def find(self, label: str) -> int | None:
        """Return the category id of a label; None: the run does not have it."""
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
