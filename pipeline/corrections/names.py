"""Find images and labels of a run by the names that other tools give them.

`match_names` compares all names of a file with all paths of the run at once, because whether a name
is unique can only be told on both sides. It serves `ovseg import-review` and `ovseg evaluate
--truth` alike:

    matches = match_names(paths, [(file_name,), (path, file_name, original_name), ...])
    for image, match in zip(images, matches.found, strict=True):
        match is None       # no image of the run, or `matches.ambiguous`: it could be several
        match.path          # of the run
        match.how           # "" if name and path are the same, else in words how they differ

From close to loose, and what is found closer is not looked for further:

1. the path itself;
2. the path in composed Unicode, with other letter case, with another suffix; each first as the
   name stands, then as tools rewrite names (`readings`): URLs, percent quoting, Windows separators,
   Label Studio's upload prefix and `fileuri=`, Roboflow's `.rf.`;
3. the path less folders in front, which must be the same for all names of the file (or for all
   paths of the run);
4. the flat name, `a__b.jpg`;
5. the base name.

From 2 on a form counts only if one path of the run and one name of the file have it. Folders
that differ are no reason to take an image in the root: see `_strip`.
"""

import base64
import binascii
import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os.path import commonprefix
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.run.file_names import flat_name
from schemas.errors import UserError
from schemas.untrusted import in_xml

Form = Callable[[str], str]
_MAX_FOLDERS = 64
"""Folders in front of names that may be left out; each is compared with all names of a file."""
Reading = tuple[str, str]
"""A name as it may be meant, and in words what was undone; empty: nothing."""


class NameMatch(NamedTuple):
    """The image of the run that a name stands for.

    Attributes:
        path: of the run's image.
        how: in words how the name differs from the path; empty: it does not.
    """

    path: str
    how: str


@dataclass(frozen=True)
class NameMatches:
    """What `match_names` found.

    Attributes:
        found: of each image of the file; None: not in the run, or ambiguous.
        ambiguous: places in `found` of names that could be several images of the run, or that
            several names of the file could be.
    """

    found: tuple[NameMatch | None, ...]
    ambiguous: tuple[int, ...]


def match_names(paths: Iterable[str], files: Sequence[Sequence[str]]) -> NameMatches:
    """Find the image of the run of each image of a file.

    Several images of the file may be the same image of the run only if their names are the same,
    and none of them can be another image of that base name: see `_Matcher.take_exact`.

    Args:
        paths: of all images of the run.
        files: the names of each image of the file, the most certain first.
    """
    matcher = _Matcher(list(paths), files)
    matcher.take_exact()
    for place in (_Matcher.take_full, _Matcher.take_stripped, _Matcher.take_flat):
        if not matcher.is_complete:
            place(matcher)
    if not matcher.is_complete:
        matcher.take_base_names()
    return NameMatches(tuple(matcher.found), tuple(matcher.ambiguous()))


class _Matcher:
    def __init__(self, paths: list[str], files: Sequence[Sequence[str]]) -> None:
        self.found: list[NameMatch | None] = [None] * len(files)
        self._paths = paths
        self._files = files
        self._identity = [tuple(map(_composed, names)) for names in files]
        self._readings: list[list[Reading]] = []
        self._level: dict[str, _Level] = {}
        self._unclear: set[int] = set()

    @property
    def is_complete(self) -> bool:
        return None not in self.found

    def take_exact(self) -> None:
        """Take names that are paths of the run, but for those that a tool has cut.

        A file of a tool that drops folders names `cam1/1.png`, `cam2/1.png` and the root's `1.png`
        alike: `1.png` more than once, in a file without folders, could be any of the three.
        """
        paths = {path: path for path in self._paths}
        # Tools add names; the first is what it is, however many others share the second.
        self.found = [
            NameMatch(names[0], "") if names and names[0] in paths else None
            for names in self._files
        ]
        self._unclear = self._cut_names()
        for place in self._unclear:
            self.found[place] = None
        self._take([[(name, "") for name in names] for names in self._files], paths)
        if not self.is_complete:
            self._readings = [list(readings(names)) for names in self._files]

    def _cut_names(self) -> set[int]:
        """Return the places of exact names that could be several images, as a tool cut them."""
        counts = Counter(match.path for match in self.found if match is not None)
        repeated = {path for path, count in counts.items() if count > 1}
        if not repeated or any("/" in name for names in self._files for name in names):
            return set()
        base_names = Counter(_base(path) for path in self._paths)
        cut = {path for path in repeated if base_names[path] > 1}
        return {place for place, match in enumerate(self.found) if match and match.path in cut}

    def take_full(self) -> None:
        for shared in self._shared_folders():
            note = f"without the run's folder {shared}" if shared else ""
            for level in self._levels():
                table = _unique((level.form(path[len(shared) :]), path) for path in self._paths)
                self._take_readings(level.names, table, level.note, note)

    def take_stripped(self) -> None:
        if any(match is not None for match in self.found):
            return  # names stand as they are in this file: nothing was put in front
        for level in self._levels():
            for shared in self._shared_folders():
                table = _unique((level.form(path[len(shared) :]), path) for path in self._paths)
                strip = _strip(level.names, table, {_base(form) for form in table})
                if strip is None:
                    continue
                rests = [
                    [(n.removeprefix(strip.folder), how) for n, how in names if strip.allows(n)]
                    for names in level.names
                ]
                self._take(rests, table, level.note, f"without the folder {strip.folder}")
                return

    def take_flat(self) -> None:
        flat = [(flat_name(path), path) for path in self._paths if "/" in path]
        for level in self._levels():
            table = _unique((level.form(name), path) for name, path in flat)
            self._take_readings(level.base_names(), table, level.note, "flat name")

    def take_base_names(self) -> None:
        for level in self._levels():
            table = _unique((_base(level.form(path)), path) for path in self._paths)
            self._take_readings(level.base_names(), table, level.note, "base name only")

    def _levels(self) -> Iterator["_Level"]:
        """Yield the levels of comparison, as long as some name has no image."""
        for note, form in _LEVELS:
            if self.is_complete:
                return
            if note not in self._level:
                names = [[(form(name), how) for name, how in names] for names in self._readings]
                self._level[note] = _Level(note, form, names)
            yield self._level[note]

    def _shared_folders(self) -> list[str]:
        return list(dict.fromkeys(("", _shared_folder(self._paths))))

    def ambiguous(self) -> Iterator[int]:
        """Yield the places without an image whose base name, loosely, some image has."""
        if self.is_complete:
            return
        loose = {_stem(_base(path)) for path in self._paths}
        for place, match in enumerate(self.found):
            if match is None and any(_stem(_base(n)) in loose for n, _ in self._readings[place]):
                yield place

    def _take_readings(
        self, forms: list[list[Reading]], table: Mapping[str, str], *notes: str
    ) -> None:
        """Match names as they stand, then names as they may be meant."""
        as_they_stand = [[one for one in names if not one[1]] for names in forms]
        self._take(as_they_stand, table, *notes)
        self._take(forms, table, *notes)

    def _take(self, forms: list[list[Reading]], table: Mapping[str, str], *notes: str) -> None:
        """Give each name the image of its first form that is in the table.

        Nothing is given to several names that have the same form, and no image twice.
        """
        if self.is_complete:
            return
        closed = {match.path for match in self.found if match is not None}
        chosen = [next((one for one in names if one[0] in table), None) for names in forms]
        users: dict[str, set[tuple[str, ...]]] = {}
        for identity, one in zip(self._identity, chosen, strict=True):
            if one is not None:
                users.setdefault(one[0], set()).add(identity)
        for place, one in enumerate(chosen):
            is_free = self.found[place] is None and place not in self._unclear
            if one is not None and is_free and len(users[one[0]]) == 1:
                path = table[one[0]]
                if path not in closed:
                    self.found[place] = NameMatch(path, _words(one[1], *notes))


class _Level(NamedTuple):
    """How exactly names are compared, and all names of the file in this form."""

    note: str
    form: Form
    names: list[list[Reading]]

    def base_names(self) -> list[list[Reading]]:
        return [[(_base(name), how) for name, how in names] for names in self.names]


class _Strip(NamedTuple):
    folder: str
    fits_all: bool

    def allows(self, name: str) -> bool:
        keeps_folder = "/" in name.removeprefix(self.folder)
        return name.startswith(self.folder) and (keeps_folder or self.fits_all)


def _strip(
    forms: Sequence[Sequence[Reading]], table: Mapping[str, str], base_names: set[str]
) -> _Strip | None:
    """Return the folders in front of all names of the file, without which most are in the run.

    A name that keeps a folder is then certain enough. One that keeps none is so only if the strip
    fits all names of the file that could be in the run, and some of them keep a folder: else
    `cam9/1.png` would be the root's `1.png` in a run that has `cam1/1.png` and `cam2/1.png` too.
    """
    folders = {folder for name, _ in forms[0] for folder in _folders(name)} if forms else set()
    for names in forms:
        folders = {one for one in folders if any(name.startswith(one) for name, _ in names)}
        if not folders:
            return None
    found: list[tuple[int, int, str]] = []
    for folder in folders:
        rests = [
            [name[len(folder) :] for name, _ in names if name.startswith(folder)] for names in forms
        ]
        fitting = [[rest for rest in several if rest in table] for several in rests]
        if any("/" in rest for several in fitting for rest in several):
            found.append((-sum(map(bool, fitting)), len(folder), folder))
    if not found:
        return None
    num_fitting, _, best = min(found)
    possible = sum(any(_base(name) in base_names for name, _ in names) for names in forms)
    return _Strip(best, -num_fitting == possible)


def readings(names: Iterable[str]) -> Iterator[Reading]:
    """Yield the names of an image as they may be meant, those with the least undone first."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(name, "")
    for note, undo in _REWRITES:
        for name, before in list(found.items()):
            for meant in undo(name):
                found.setdefault(meant, _words(before, note))
    yield from found.items()


_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")
_ROBOFLOW = re.compile(r"(.+)_(jpe?g|png|bmp|webp|tiff?)\.rf\.\w+\.\w+", re.IGNORECASE)
_ROBOFLOW_SHORT = re.compile(r"(.+)\.rf\.\w+(\.\w+)", re.IGNORECASE)


def _file_uri(name: str) -> Iterator[str]:
    for value in _query_values(name, ("resolve", "presign"), "fileuri"):
        try:
            yield base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode()
        except (binascii.Error, ValueError):
            continue


def _url_path(name: str) -> Iterator[str]:
    yield from _query_values(name, ("local-files",), "d")
    try:
        url = urlsplit(name)
    except ValueError:
        return
    if (url.scheme and url.netloc) or (url.path != name and name.startswith("/")):
        yield url.path


def _query_values(name: str, pages: tuple[str, ...], key: str) -> list[str]:
    """Return the first value of a key in the query of one of Label Studio's pages."""
    path, _, query = name.partition("?")
    is_page = path.rstrip("/").rpartition("/")[2] in pages
    return parse_qs(query).get(key, [])[:1] if is_page else []


def _unquoted(name: str) -> Iterator[str]:
    if "%" in name:
        yield unquote(name)


def _slashes(name: str) -> Iterator[str]:
    if "\\" in name:
        yield re.sub("^[A-Za-z]:", "", name.replace("\\", "/"))


def _without_upload_prefix(name: str) -> Iterator[str]:
    folder, slash, base = name.rpartition("/")
    if _UPLOAD.match(base):
        yield folder + slash + base[9:]


def _without_roboflow(name: str) -> Iterator[str]:
    folder, slash, base = name.rpartition("/")
    if found := _ROBOFLOW.fullmatch(base):
        yield f"{folder}{slash}{found[1]}.{found[2]}"
    elif found := _ROBOFLOW_SHORT.fullmatch(base):
        yield f"{folder}{slash}{found[1]}{found[2]}"


_REWRITES = (
    ("fileuri", _file_uri),
    ("URL", _url_path),
    ("percent quoting", _unquoted),
    ("Windows separators", _slashes),
    ("upload prefix", _without_upload_prefix),
    ("Roboflow's name", _without_roboflow),
)


MAX_LABEL_CHARACTERS = 64
"""CVAT cuts names of labels to this length."""


def short_labels(names: Sequence[str]) -> dict[str, str]:
    """Return names of labels of at most 64 characters, all different, by the labels' names.

    Escapes stand in them for characters that XML has no place for. Where two would be the same
    after the cut, the later ones end in `~2`, `~3` and so on.
    """
    in_tools = {name: in_xml(name) for name in names}
    taken = {name for name in names if len(in_tools[name]) <= MAX_LABEL_CHARACTERS}
    found = {}
    for label, name in in_tools.items():
        short, number = name[:MAX_LABEL_CHARACTERS].rstrip(), 1
        while len(name) > MAX_LABEL_CHARACTERS and short in taken:
            number += 1
            end = f"~{number}"
            short = name[: MAX_LABEL_CHARACTERS - len(end)] + end
        taken.add(short)
        found[label] = short
    return found


class LabelNames:
    """Finds labels of a vocabulary: exactly, else ignoring case and white space at the ends.

    A label of more than 64 characters is also found by its short name, see `short_labels`.

    Args:
        names: of the labels, in the vocabulary's order.
        renamed: labels of the run by the names that another tool gives them; these go first.

    Raises:
        UserError: a label in `renamed` is not one of the names.

    Attributes:
        used: names of `renamed` that were found.
    """

    def __init__(self, names: Sequence[str], renamed: Mapping[str, str] | None = None) -> None:
        self._renamed: dict[str, tuple[str, int]] = {}
        self._exact = {name: number for number, name in enumerate(names, start=1)}
        self._loose = {_plain(name): number for number, name in enumerate(names, start=1)}
        for name, short in short_labels(names).items():
            for theirs in (short, in_xml(name)):
                self._loose.setdefault(_plain(theirs), self._exact[name])
        self.names = tuple(names)
        found: dict[str, tuple[str, int]] = {}
        for theirs, ours in (renamed or {}).items():
            number = self.find(ours)
            if number is None:
                near = self.near(ours)
                hint = f"; did you mean {near!r}?" if near else ""
                raise UserError(f"{ours!r} is not a label of the run{hint}")
            found[_plain(theirs)] = theirs, number
        self._renamed = found
        self.used: set[str] = set()

    def find(self, label: str) -> int | None:
        """Return the category id of a label; None: the run does not have it."""
        renamed = self._renamed.get(_plain(label))
        if renamed is not None:
            self.used.add(renamed[0])
            return renamed[1]
        return self._exact.get(label) or self._loose.get(_plain(label))

    def near(self, label: str) -> str | None:
        """Return the label whose name is most like this one; None: none is."""
        plain = {_plain(name): name for name in self.names}
        found = difflib.get_close_matches(_plain(label), plain, 1, 0.7)
        return plain[found[0]] if found else None


def _unique(listed: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the paths by those forms that no other path has."""
    found = list(listed)
    counts = Counter(form for form, _ in found)
    return {form: path for form, path in found if form and counts[form] == 1}


def _shared_folder(paths: Sequence[str]) -> str:
    """Return the folders, with a slash at the end, that all paths begin with."""
    if not paths:
        return ""
    # What these two share, all share.
    shared = commonprefix((min(paths), max(paths)))  # noqa: RUF071 - cut at a slash below
    return shared[: shared.rfind("/") + 1]


def _folders(name: str) -> list[str]:
    """Return `a/` and `a/b/` of `a/b/c`, no more than names of files ever have."""
    ends = islice(re.finditer("/", name), _MAX_FOLDERS)
    return [name[: end.end()] for end in ends]


def _words(*notes: str) -> str:
    return ", ".join(note for note in notes if note)


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _plain_path(name: str) -> str:
    """Return a path in composed Unicode without slashes and dots that mean nothing."""
    name = in_xml(_composed(name))  # as a tool that reads XML gives it back
    if "//" in name or "/./" in name:
        name = _EMPTY_PART.sub("/", name)
    return name.removeprefix("./").lstrip("/")


_EMPTY_PART = re.compile(r"/(?:\./|/)+")


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _lower(name: str) -> str:
    return _plain_path(name).casefold()


def _stem(name: str) -> str:
    folder, slash, base = _lower(name).rpartition("/")
    stem, dot, _ = base.rpartition(".")
    return folder + slash + (stem if dot and stem else base)


_LEVELS: tuple[tuple[str, Form], ...] = (
    ("", _plain_path),
    ("letter case", _lower),
    ("another suffix", _stem),
)


def _plain(label: str) -> str:
    return _composed(label).strip().casefold()
