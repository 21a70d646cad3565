"""List the images of a collection: a folder, bucket prefix, glob, archive, image or list file.

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
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pyarrow as pa

from pipeline.collection import list_file, packed, rows
from pipeline.collection.left_out import LeftOut, describe, with_left_out
from pipeline.collection.list_file import ListedImage
from pipeline.collection.manifest import with_coco_ids
from pipeline.collection.selection import EMPTY_PART, PACKED, Selection, glob_regex
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from pipeline.storage.places import WILDCARD, ImagePlaces
from schemas.config import HeadConfig, ImageConfig, JobConfig
from schemas.errors import CollectionError
from schemas.redact import redact

logger = logging.getLogger(__name__)
_CHUNK = 65536
_BESIDE = "archives are read where no images lie beside them: give them by a glob, or one by one"
_Listing = tuple[pa.Table | list[ListedImage], list[LeftOut]]


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
    of_paths = {
        entry.path: entry.coco_id
        for entry in (() if isinstance(entries, pa.Table) else entries)
        if entry.coco_id is not None
    }
    return with_coco_ids(with_left_out(table, left_out), of_paths)


def _entries(uri: str, is_folder: bool, config: ImageConfig, roots: Sequence[str]) -> _Listing:
    parent, name = uris.parent_and_name(uri)
    size = None
    if name and not is_folder:
        with suppress(FileNotFoundError, ValueError):
            size = Folder(parent).size(name)
    if size is not None:
        name = uris.parent_and_name(uris.without_query(uri))[1]  # a query may hold a secret
        if list_file.is_list(name):
            listed = list_file.read_list(uri, roots)
            _refuse_lists_of_archives(listed, redact(uri))
            if not isinstance(listed, pa.Table) and ".json" in PurePosixPath(name.lower()).suffixes:
                list_file.check_are_there(listed, redact(uri))
            return listed, []
        if packed.is_archive(name):
            return _one_archive(ListedImage("", uri, size, ""), config)
        _refuse_containers(name, uri)
        return [ListedImage(name, uri, size, "")], []
    if WILDCARD.search(uri) and not _is_folder(uri):
        return _glob(uri, config)
    return _select(uri, re.compile(""), config)


def _is_folder(uri: str) -> bool:
    return bool(Folder(uri).peek(1)) if uris.scheme(uri) else Path(uri).is_dir()


def _refuse_lists_of_archives(listed: pa.Table | list[ListedImage], shown: str) -> None:
    places = (entry.uri for entry in listed) if isinstance(listed, list) else listed["uri"]
    first = ""
    for place in map(str, places):
        first = first or place
        if uris.member_of(place) or not packed.is_archive(place):
            return
    raise CollectionError(
        f"{shown} names archives, such as {redact(first)}: a list names images; give archives by "
        "their folder or a glob as --images"
    )


def _one_archive(archive: ListedImage, config: ImageConfig) -> _Listing:
    selection = Selection(config)
    found = packed.images_in([archive], selection, _listing_places(archive.uri), _most(config))
    if not found:
        rest = describe(selection.left_out) or "it is empty"
        raise CollectionError(f"no images in {redact(archive.uri)}: {rest}")
    return found, selection.left_out


def _refuse_containers(name: str, uri: str) -> None:
    """Refuse one file that holds many images, or a kind of list that is not read."""
    if name.lower().endswith(PACKED):
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
    names_ending = "." in WILDCARD.split(parts[-1])[-1] and not packed.is_archive(uri)
    try:
        compiled = re.compile(glob_regex(pattern))
    except re.error as error:
        raise CollectionError(
            f"images: the glob {pattern!r} has brackets that cannot be read ({error.msg}); "
            "expected ranges such as [0-9]"
        ) from error
    return _select(root, compiled, config, all_endings=names_ending)


def _select(
    root: str, pattern: re.Pattern[str], config: ImageConfig, *, all_endings: bool = False
) -> _Listing:
    files = Folder(root).walk()
    inner_runs = [path.removesuffix("run.yaml") for path, *_ in files if path.endswith("/run.yaml")]
    selection = Selection(config, inner_runs, all_endings=all_endings)
    matching = (file for file in files if pattern.match(file[0])) if pattern.pattern else files
    found, archives = _images_and_archives(root, matching, selection)
    if archives and found:
        for archive in archives:
            selection.leave_out(archive.path, hint=_BESIDE)
    elif archives:
        found = packed.images_in(archives, selection, _listing_places(root), _most(config))
    if not files and not pattern.pattern:
        raise CollectionError(f"no images under {redact(root)}: {_why_nothing(root)}")
    if not found:
        endings = selection.endings
        what = f"files ending in {' '.join(endings)}" if endings else "matching files"
        found_instead = (
            f"{len(files)} other files, for example {files[0][0]}"
            if files
            else "no file at all: check the spelling"
        )
        left_out = describe(selection.left_out)
        rest = f"; {left_out}" if left_out else ""
        raise CollectionError(
            f"no images under {redact(root)}: searched it and its folders for {what} "
            f"(hidden ones and runs left out) and found {found_instead}{rest}"
        )
    return found, selection.left_out


def _images_and_archives(
    root: str, files: Iterable[tuple[str, int | None, str]], selection: Selection
) -> tuple[list[ListedImage], list[ListedImage]]:
    images: list[ListedImage] = []
    archives: list[ListedImage] = []
    for path, size, etag in files:
        if not selection.allows(path):
            continue
        if size is None:
            is_folder = path.endswith("/")
            selection.leave_out(
                path, "folder that may not be read" if is_folder else "dangling link"
            )
        elif "#" in path and uris.member_of(path):
            selection.leave_out(path, "with a name that reads as a member of an archive")
        elif packed.is_archive(path):
            archives.append(ListedImage(path, uris.join(root, path), size, etag))
        elif selection.takes(path):
            images.append(ListedImage(path, uris.join(root, path), size, etag))
    return images, archives


def _most(config: ImageConfig) -> int:
    """Return how many images need be listed at most, in the order of their paths; 0: all."""
    return 0 if config.only else config.limit


def _listing_places(images: str) -> ImagePlaces:
    return ImagePlaces.of_own(images, allow_private=False)


def _why_nothing(root: str) -> str:
    """Return why a place has no files at all, and what to do."""
    if uris.scheme(root):  # in a bucket both are the same
        return "there is no such folder, or no file in it; check the spelling"
    if Path(root).is_dir():
        return "the folder is empty; were the images copied, is the disk mounted?"
    there = next(parent for parent in Path(root).parents if parent.is_dir())
    return f"there is no such folder; the nearest that exists is {there}: check the spelling"


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
    free = EMPTY_PART.sub("%2F", path if uris.is_text(path) else uris.percent_escaped(path))
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
