"""List the images of a collection: a folder, bucket prefix, glob, single image or list file.

Folders are searched recursively. What a listing leaves out is counted, see `left_out`: hidden files
and folders (names with a dot in front), run folders, whose review pages hold pictures of the
images, `image.exclude`, other endings, links to nowhere and folders that may not be read.
The table's `path` is relative to the collection's root: the folder, the part of a glob before its
first wildcard, a list's own folder. It gives the image its id, so that ids survive a move.
A file name that is not UTF-8 stands there with its odd bytes, and `%`, as in a URL: `caf%E9.jpg`;
so does the second slash of a bucket's key `day1//b.png`: `day1/%2Fb.png`.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

import pyarrow as pa

from ovseg_core.images.decoding.formats import missing_decoders
from pipeline.collection import list_file, rows
from pipeline.collection.left_out import LeftOut, describe, with_left_out
from pipeline.collection.list_file import ListedImage
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from pipeline.storage.places import WILDCARD, ImagePlaces
from schemas.config import HeadConfig, ImageConfig, JobConfig
from schemas.errors import CollectionError
from schemas.redact import redact
from schemas.untrusted import is_relative_path

logger = logging.getLogger(__name__)
_CHUNK = 65536
_EMPTY_PART = re.compile("(?:(?<=/)|^)/")
_WINDOWS = re.compile(r"\\|^[A-Za-z]:")
_Listing = tuple[pa.Table | list[ListedImage], list[LeftOut]]
_ANY_SUFFIX = "*"
_ARCHIVES = (
    *(".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".7z", ".rar", ".cbz", ".cbr"),
    *(".gz", ".bz2", ".xz", ".zst", ".lz4", ".z", ".iso", ".lmdb", ".tfrecord", ".tfrecords"),
    *(".h5", ".hdf5", ".npz", ".mat"),
)
_MAX_ENDINGS_LEFT_OUT = 20
"""Endings left out that are counted apart; names such as `scan.0001` have as many as files."""


def own_places(config: JobConfig | HeadConfig) -> ImagePlaces:
    """Return from where a job reads the images that it has listed itself."""
    return ImagePlaces.of_own(config.images, allow_private=config.run.allow_private_addresses)


def collect(images: str, config: ImageConfig, roots: Sequence[str] = ()) -> pa.Table:
    """List the images of a collection.

    Args:
        images: local path, glob or URL of a folder, an image, or a list, see `list_file`. A folder
            whose name looks like a glob is a folder.
        config: the endings that a folder's files must have, what is left out, the names that
            count, and the limit.
        roots: folders and URLs that a list may name beside the usual ones, see `list_file`.

    Returns:
        Rows of the manifest's schema, sorted by path (code points), each path and id once, with
        the counts of what was left out, see `left_out.left_out_of`.

    Raises:
        CollectionError: nothing is found, a list cannot be read or names images that do not exist,
            or two files share a path.
    """
    uri = uris.normalise(images)
    try:
        entries, left_out = _entries(uri, images.endswith("/"), config, roots)
    except FileNotFoundError as error:
        raise CollectionError(f"no images: {error}") from error
    listed = entries if isinstance(entries, pa.Table) else rows.to_columns(_as_paths(entries))
    listed = rows.each_once(listed, redact(uri))
    if config.only:
        listed = _named(listed, config.only)
    table = rows.with_ids(listed.slice(0, config.limit) if config.limit else listed)
    return with_left_out(table, left_out)


def _entries(uri: str, is_folder: bool, config: ImageConfig, roots: Sequence[str]) -> _Listing:
    parent, name = uris.parent_and_name(uri)
    size = None
    if name and not is_folder:
        with suppress(FileNotFoundError, ValueError):
            size = Folder(parent).size(name)
    if size is not None:
        name = uris.parent_and_name(uris.without_query(uri))[1]  # a query may hold a secret
        if list_file.is_list(name):
            return list_file.read_list(uri, roots), []
        _refuse_containers(name, uri)
        return [ListedImage(name, uri, size, "")], []
    if WILDCARD.search(uri) and not _is_folder(uri):
        return _glob(uri, config)
    return _select(uri, re.compile(""), config)


def _is_folder(uri: str) -> bool:
    return bool(Folder(uri).peek(1)) if uris.scheme(uri) else Path(uri).is_dir()


def _refuse_containers(name: str, uri: str) -> None:
    """Refuse one file that holds many images, or a kind of list that is not read."""
    if name.lower().endswith(_ARCHIVES):
        raise CollectionError(
            f"{redact(uri)} is an archive: unpack it and give the folder of its images"
        )
    if name.lower().endswith(list_file.OTHER_LISTS):
        kinds = ", ".join(list_file.SUFFIXES)
        raise CollectionError(
            f"{redact(uri)}: this kind of list is not read; expected {kinds} (also with .gz), with "
            "a URI in each line or a column `uri`"
        )


def _glob(uri: str, config: ImageConfig) -> _Listing:
    parts = uri.split("/")
    first = next(place for place, part in enumerate(parts) if WILDCARD.search(part))
    root, pattern = "/".join(parts[:first]) or "/", "/".join(parts[first:])
    if root.endswith(":/"):
        root += "/"
    # `*.jp2` names an ending, so the usual ones do not matter; `photos/*` does not.
    names_ending = "." in WILDCARD.split(parts[-1])[-1]
    try:
        compiled = re.compile(_regex(pattern))
    except re.error as error:
        raise CollectionError(
            f"images: the glob {pattern!r} has brackets that cannot be read ({error.msg}); "
            "expected ranges such as [0-9]"
        ) from error
    return _select(root, compiled, config, all_endings=names_ending)


def _regex(pattern: str) -> str:
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


def _select(
    root: str, pattern: re.Pattern[str], config: ImageConfig, *, all_endings: bool = False
) -> _Listing:
    files = Folder(root).walk()
    all_endings = all_endings or _ANY_SUFFIX in config.suffixes
    endings = [suffix.lower() for suffix in config.suffixes]
    missing = missing_decoders()
    if not all_endings:
        endings = [ending for ending in endings if ending not in missing]
    has_ending = _ending_test(endings)
    inner_runs = [path.removesuffix("run.yaml") for path, *_ in files if path.endswith("/run.yaml")]
    reason = _reasons(config.exclude, inner_runs)
    found: list[ListedImage] = []
    others: Counter[str] = Counter()
    examples: dict[str, str] = {}
    matches = pattern.match if pattern.pattern else None
    for path, size, etag in files:
        if matches and not matches(path):
            continue
        why = reason(path)
        if why:
            pass
        elif size is None:
            why = "folder that may not be read" if path.endswith("/") else "dangling link"
        elif all_endings or has_ending(path):
            found.append(ListedImage(path, uris.join(root, path), size, etag))
            continue
        else:
            why = PurePosixPath(path.rstrip()).suffix.lower() or "without ending"
        others[why] += 1
        examples.setdefault(why, path)
    left_out = _left_out(others, examples, missing)
    if not files and not pattern.pattern:
        raise CollectionError(f"no images under {redact(root)}: {_why_nothing(root)}")
    if not found:
        what = "matching files" if all_endings else f"files ending in {' '.join(endings)}"
        found_instead = (
            f"{len(files)} other files, for example {files[0][0]}"
            if files
            else "no file at all: check the spelling"
        )
        rest = f"; {describe(left_out)}" if left_out else ""
        raise CollectionError(
            f"no images under {redact(root)}: searched it and its folders for {what} "
            f"(hidden ones and runs left out) and found {found_instead}{rest}"
        )
    return found, left_out


def _why_nothing(root: str) -> str:
    """Return why a place has no files at all, and what to do."""
    if uris.scheme(root):  # in a bucket both are the same
        return "there is no such folder, or no file in it; check the spelling"
    if Path(root).is_dir():
        return "the folder is empty; were the images copied, is the disk mounted?"
    there = next(parent for parent in Path(root).parents if parent.is_dir())
    return f"there is no such folder; the nearest that exists is {there}: check the spelling"


def _left_out(
    counts: Counter[str], examples: Mapping[str, str], decoders: Mapping[str, str]
) -> list[LeftOut]:
    """Return what was left out by kind, the most frequent first.

    Rare endings beyond 20 are counted as one kind, unless something can be done about them.
    """

    def hint(kind: str) -> str:
        return decoders.get(kind) or ("archives: unpack them" if kind.endswith(_ARCHIVES) else "")

    kinds = [kind for kind, _ in counts.most_common()]
    endings = [kind for kind in kinds if kind.startswith(".") and not hint(kind)]
    rare = endings[_MAX_ENDINGS_LEFT_OUT:]
    if len(rare) < 2:
        rare = []
    apart = set(kinds) - set(rare)
    left_out = [
        LeftOut(what=kind, count=counts[kind], example=examples[kind], hint=hint(kind))
        for kind in kinds
        if kind in apart
    ]
    if rare:
        what = f"with {len(rare):,} other endings"
        total = sum(counts[kind] for kind in rare)
        left_out.append(LeftOut(what=what, count=total, example=examples[rare[0]]))
    return left_out


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
            _WINDOWS.search(path) and not is_relative_path(_EMPTY_PART.sub("%2F", path))
        ):
            return "with a name that leaves its folder on Windows"
        is_excluded = (
            name in plain_names
            or (is_name_excluded and is_name_excluded(name))
            or (is_path_excluded and is_path_excluded(path))
        )
        return "by image.exclude" if is_excluded else ""

    @cache  # a folder has many files
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
    patterns = "|".join(map(_regex, globs))
    return re.compile(patterns).match if patterns else None


def _as_paths(entries: list[ListedImage]) -> list[ListedImage]:
    """Give names that are not UTF-8 or have empty parts a form that no other file has.

    Tables and exports can hold it.
    """
    starts = range(0, len(entries), _CHUNK)
    if all(_are_plain(entries[start : start + _CHUNK]) for start in starts):
        return entries
    taken = {entry.path for entry in entries}
    return [
        entry._replace(path=_free_path(entry.path, taken), uri=uris.as_text(entry.uri))
        for entry in entries
    ]


def _are_plain(entries: Sequence[ListedImage]) -> bool:
    """Return whether all names are UTF-8 without empty parts; one text is looked at faster."""
    paths = "".join(f"\n/{entry.path}" for entry in entries)
    return "//" not in paths and uris.is_text(paths + "".join(entry.uri for entry in entries))


def _free_path(path: str, taken: set[str]) -> str:
    free = _EMPTY_PART.sub("%2F", path if uris.is_text(path) else uris.percent_escaped(path))
    while free != path and free in taken:
        free = free.replace("%", "%25")
    return free


def _named(listed: pa.Table, only: str) -> pa.Table:
    """Return the images that a split file names; it may name no others."""
    wanted = set(list_file.read_names(only))
    stems = [str(PurePosixPath(path).with_suffix("")) for path in listed["path"].to_pylist()]
    missing = sorted(wanted - set(stems))
    if missing:
        raise CollectionError(
            f"{redact(only)} names {len(wanted)} images, of which {len(missing)} are not "
            f"there, for example {missing[0]!r}; expected names such as {stems[0]!r}: paths "
            "without ending"
        )
    return listed.filter(pa.array([stem in wanted for stem in stems]))
