"""Names for files that belong to the images of a run: unique, and the same in every export."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from pipeline.run.folder import RunFolder

_MAX_NAME_BYTES = 255
"""What usual file systems take."""
MAX_SUFFIX_BYTES = 16
"""Names leave this much room for a suffix; what is longer is no suffix, but part of a name."""
_MAX_STEM_BYTES = _MAX_NAME_BYTES - MAX_SUFFIX_BYTES


class FileNames:
    """File names for the images of a run, finished or not, so that names never change later.

    All generations count, so that a name is the same in exports of each; an image that comes with
    the stem of one that was there changes the name of both.

    Args:
        run: its images are read.
        report: is called with a sentence, and the name, for each that is not the image's without
            its suffix, or that is another's on a disk without upper and lower case.
    """

    def __init__(self, run: RunFolder, report: Callable[[str, str], None]) -> None:
        self._report = report
        whole = run if run.generation is None else RunFolder(run.folder)
        self._has_grown = whole.generations.number > 1
        self._paths = set(whole.all_images().column("path").to_pylist())
        self._stems = Counter(without_suffix(path) for path in self._paths)
        self._regardless_of_case = Counter(self._name(path).casefold() for path in self._paths)
        self._unused = set(self._paths)

    def of_image(self, path: str) -> str:
        """Return an image's path without its suffix; with it where another has the same stem.

        A name that leaves no room for another suffix is shortened, with a hash of the path.
        """
        self._unused.discard(path)
        name = self._name(path)
        if name not in (path, without_suffix(path)):
            what = "file names are shortened: another suffix makes them too long for a disk"
            self._report(what, f"{path} is {name}")
        elif name != without_suffix(path):
            what = "file names keep the image's ending: another image has the same stem"
            self._report(what, path)
        if self._regardless_of_case[name.casefold()] > 1:
            what = "file names differ in case only: a disk without case keeps one of them"
            self._report(what, path)
        return name

    def unused(self) -> Iterator[str]:
        """Yield the names that `of_image` has not returned, but an older export may have written.

        Those of images that are not exported, and those that images had before another one came.
        """
        yield from map(self._name, self._unused)
        for path in self._paths if self._has_grown else ():
            stem = without_suffix(path)
            if self._stems[stem] > 1 and stem not in self._paths:
                yield shortened(stem, path)

    def unused_paths(self) -> Iterator[str]:
        """Yield the paths of these images."""
        return iter(self._unused)

    def _name(self, path: str) -> str:
        stem = without_suffix(path)
        is_free = self._stems[stem] == 1 and (stem not in self._paths or stem == path)
        return shortened(stem if is_free else path, path)


def shortened(name: str, path: str) -> str:
    """Return an image's path or stem, shortened where it leaves no room for another suffix."""
    folder, slash, last = name.rpartition("/")
    if len(last.encode()) <= _MAX_STEM_BYTES:
        return name
    digest = hashlib.sha256(path.encode()).hexdigest()[:12]
    kept = last.encode()[: _MAX_STEM_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{folder}{slash}{kept}-{digest}"


def flat_name(path: str) -> str:
    """Return a path as one name, `a/b.jpg` as `a__b.jpg`; no two paths get the same."""
    parts = path.split("/")
    joined = "__".join(parts)
    is_unambiguous = all("__" not in part and part == part.strip("_") for part in parts)
    if is_unambiguous and len(joined.encode()) <= _MAX_NAME_BYTES:
        return joined
    # Underscores of its own make a name ambiguous; deep folders make one that no disk takes.
    digest, ending = hashlib.sha256(path.encode()).hexdigest()[:12], suffix(joined)
    room = _MAX_NAME_BYTES - len(f"-{digest}{ending}".encode())
    kept = joined.removesuffix(ending).encode()[:room].decode(errors="ignore")
    return f"{kept}-{digest}{ending}"


def suffix(path: str) -> str:
    """Return the suffix of a path's last part; "" for one of more than `MAX_SUFFIX_BYTES`."""
    found = PurePosixPath(path).suffix
    return found if len(found.encode()) <= MAX_SUFFIX_BYTES else ""


def without_suffix(path: str) -> str:
    """Return a path without the suffix of its last part."""
    return str(PurePosixPath(path).with_suffix(""))
