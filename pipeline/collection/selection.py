"""Which files of a folder or archive are taken as images, and counts of those that are not."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from ovseg_core.images.decoding.formats import missing_decoders
from pipeline.collection.left_out import LeftOut
from pipeline.collection.rows import EMPTY_PART
from pipeline.storage.places import WILDCARD
from schemas.config import ImageConfig
from schemas.untrusted import is_relative_path

_WINDOWS = re.compile(r"\\|^[A-Za-z]:")
_ANY_SUFFIX = "*"
PACKED = (
    *(".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".7z", ".rar", ".cbz", ".cbr"),
    *(".gz", ".bz2", ".xz", ".zst", ".lz4", ".z", ".iso", ".lmdb", ".tfrecord", ".tfrecords"),
    *(".h5", ".hdf5", ".npz", ".mat"),
)
"""Endings of files that hold others; some of them are read in place, see `packed`."""
_FOLDERS = 1 << 14
"""Folders whose reason to be left out is kept: millions of images may each have their own."""
_MAX_ENDINGS_LEFT_OUT = 20
"""Endings left out that are counted apart; names such as `scan.0001` have as many as files."""


class Selection:
    """What is taken of one collection, and counts of the rest.

    Args:
        config: endings and what is left out.
        inner_runs: paths of run folders, each with its slash; nothing in them is taken.
        all_endings: whatever its ending, a file is taken.

    Attributes:
        endings: that are taken; none: all.
        column: of tables, that has the images; empty: not said.
    """

    def __init__(
        self, config: ImageConfig, inner_runs: Sequence[str] = (), *, all_endings: bool = False
    ) -> None:
        self._decoders = missing_decoders()
        self.column = config.column
        endings = [suffix.lower() for suffix in config.suffixes]
        if all_endings or _ANY_SUFFIX in config.suffixes:
            self.endings: list[str] = []
        else:
            self.endings = [ending for ending in endings if ending not in self._decoders]
        self._has_ending = _ending_test(self.endings)
        self._reason = _reasons(config.exclude, inner_runs)
        self._others: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._hints: dict[str, str] = {}

    def allows(self, path: str) -> bool:
        """Return whether no part of a path is left out by its name; if not, count it."""
        why = self._reason(path)
        if why:
            self.leave_out(path, why)
        return not why

    def takes(self, path: str) -> bool:
        """Return whether a file that is allowed has the ending of an image; if not, count it."""
        if not self.endings or self._has_ending(path):
            return True
        self.leave_out(path)
        return False

    def leave_out(self, path: str, why: str = "", hint: str = "") -> None:
        """Count a file that is not taken.

        Args:
            path: of the file.
            why: its kind in the counts; empty: its ending.
            hint: what to do to have it taken.
        """
        why = why or PurePosixPath(path.rstrip()).suffix.lower() or "without ending"
        self._others[why] += 1
        self._examples.setdefault(why, path)
        if hint:
            self._hints[why] = hint

    @property
    def left_out(self) -> list[LeftOut]:
        """What was left out by kind, the most frequent first.

        Rare endings beyond 20 are counted as one kind, unless something can be done about them.
        """
        kinds = [kind for kind, _ in self._others.most_common()]
        hints = {kind: self._hint(kind) for kind in kinds}
        endings = [kind for kind in kinds if kind.startswith(".") and not hints[kind]]
        rare = endings[_MAX_ENDINGS_LEFT_OUT:]
        if len(rare) < 2:
            rare = []
        apart = set(kinds) - set(rare)
        left_out = [
            LeftOut(
                what=kind,
                count=self._others[kind],
                example=self._examples[kind],
                hint=hints[kind],
            )
            for kind in kinds
            if kind in apart
        ]
        if rare:
            what = f"with {len(rare):,} other endings"
            total = sum(self._others[kind] for kind in rare)
            left_out.append(LeftOut(what=what, count=total, example=self._examples[rare[0]]))
        return left_out

    def _hint(self, kind: str) -> str:
        of_packed = "archives: unpack them" if kind.endswith(PACKED) else ""
        return self._decoders.get(kind) or self._hints.get(kind) or of_packed


def glob_regex(pattern: str) -> str:
    """Translate a glob: `**/` any folders; `*`, `?`, `[..]` and `[!..]` within a name.

    Not `fsspec.utils.glob_translate`: it takes `[z-a]` for a pattern that matches nothing, and
    `[!]*` for a literal bracket.
    """
    parts = []
    place = 0
    for match in re.finditer(r"\*\*/|\*\*$|\*|\?|\[[^/\]]{1,255}\]", pattern):
        parts.append(re.escape(pattern[place : match.start()]))
        parts.append(_wildcard(match[0]))
        place = match.end()
    return "".join(parts) + re.escape(pattern[place:]) + r"\Z"


def _wildcard(text: str) -> str:
    plain = {"**/": "(?:.+/)?", "**": ".+", "*": "[^/]*", "?": "[^/]"}
    if text in plain:
        return plain[text]
    negated = len(text) > 3 and text[1] == "!"
    characters = text[2:-1] if negated else text[1:-1]
    inner = "".join(char if char == "-" else re.escape(char) for char in characters)
    return f"[^{inner}]" if negated else f"[{inner}]"


def _ending_test(endings: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a path has one of the endings, which are in small letters."""
    # Nearly all names are in the set: one look-up in place of thirty comparisons.
    after_dot = frozenset(ending.removeprefix(".") for ending in endings if ending[:1] == ".")
    all_of_them = tuple(endings)

    def has_ending(path: str) -> bool:
        return path[path.rfind(".") + 1 :] in after_dot or path.rstrip().lower().endswith(
            all_of_them
        )

    return has_ending


def _reasons(exclude: Sequence[str], inner_runs: Sequence[str]) -> Callable[[str], str]:
    """Return why a path is left out, whatever its ending; empty: it is not.

    Args:
        exclude: globs of `image.exclude`: of a name anywhere in a path, or of a path from the root.
        inner_runs: paths of run folders, each with its slash.
    """
    # Names with a dot in front are left out anyway.
    names = [glob for glob in exclude if "/" not in glob and not glob.startswith(".")]
    plain_names = frozenset(glob for glob in names if not WILDCARD.search(glob))
    is_name_excluded = _matcher(glob for glob in names if glob not in plain_names)
    is_path_excluded = _matcher(glob.strip("/") for glob in exclude if "/" in glob)
    runs = tuple(inner_runs)

    def own_reason(path: str, name: str) -> str:
        if name.startswith("."):
            return "hidden or in a run folder"
        # The colon of a drive stands in the first name only, but a path is seldom looked at here.
        if ("\\" in name or ":" in name) and (
            _WINDOWS.search(path) and not is_relative_path(EMPTY_PART.sub("%2F", path))
        ):
            return "with a name that leaves its folder on Windows"
        is_excluded = (
            name in plain_names
            or (is_name_excluded and is_name_excluded(name))
            or (is_path_excluded and is_path_excluded(path))
        )
        return "by image.exclude" if is_excluded else ""

    @lru_cache(_FOLDERS)  # a folder has many files, one after another
    def reason_of_folder(folder: str) -> str:
        if f"{folder}/".startswith(runs):
            return "hidden or in a run folder"
        above, _, name = folder.rpartition("/")
        return (above and reason_of_folder(above)) or own_reason(folder, name)

    def reason(path: str) -> str:
        folder, _, name = path.rpartition("/")
        return (folder and reason_of_folder(folder)) or own_reason(path, name)

    return reason


def _matcher(globs: Iterable[str]) -> Callable[[str], object] | None:
    """Return what matches a text with any of the globs; None where there are none."""
    patterns = "|".join(map(glob_regex, globs))
    return re.compile(patterns).match if patterns else None
