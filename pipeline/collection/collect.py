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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from pipeline.collection import list_file, packed, rows
from pipeline.collection.archives.shared.members import ArchiveError
from pipeline.collection.left_out import LeftOut, describe, with_left_out
from pipeline.collection.list_file import ListedImage
from pipeline.collection.manifest import PackedRows, with_coco_ids
from pipeline.collection.rows import Listing
from pipeline.collection.selection import PACKED, Selection, glob_regex
from pipeline.storage import uris
from pipeline.storage.folder import Folder, WalkedFile
from pipeline.storage.places import WILDCARD, ImagePlaces
from schemas.config import HeadConfig, ImageConfig, JobConfig
from schemas.errors import CollectionError
from schemas.redact import redact
from schemas.tables import to_array

logger = logging.getLogger(__name__)
_RUN_FILE = "run.yaml"
_BESIDE = "archives are read where no images lie beside them: give them by a glob, or one by one"
_Found = tuple[Listing, list[LeftOut]]


def own_places(config: JobConfig | HeadConfig) -> ImagePlaces:
    """Return from where a job reads the images that it has listed itself."""
    return ImagePlaces.of_own(config.images, allow_private=config.run.allow_private_addresses)


def collect(images: str, config: ImageConfig, roots: Sequence[str] = ()) -> pa.Table:
    """List the images of a collection, see `collect_packed`."""
    return collect_packed(images, config, roots).table()


def collect_packed(images: str, config: ImageConfig, roots: Sequence[str] = ()) -> PackedRows:
    """List the images of a collection; in little memory, of however many.

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
        listing, left_out = _found(uri, images.endswith("/"), config, roots)
    except FileNotFoundError as error:
        raise CollectionError(f"no images: {error}") from error
    listed = rows.each_once(listing.rows(), redact(uri))
    if config.only:
        listed = _named(listed, config.only)
    found = rows.with_ids(listed, config.limit)
    of_paths = listing.coco_ids
    ids = {
        image_id: of_paths[path]
        for batch in (found.batches() if of_paths else ())
        for path, image_id in zip(
            *(batch[n].to_pylist() for n in ("path", "image_id")), strict=True
        )
    }
    found.schema = with_coco_ids(with_left_out(found.schema, left_out), ids)
    return found


def _found(uri: str, is_folder: bool, config: ImageConfig, roots: Sequence[str]) -> _Found:
    parent, name = uris.parent_and_name(uri)
    size = None
    if name and not is_folder:
        with suppress(FileNotFoundError, ValueError):
            size = Folder(parent).size(name)
    if size is not None:
        name = uris.parent_and_name(uris.without_query(uri))[1]  # a query may hold a secret
        if packed.is_archive(name) and not _is_list_of(uri, name, size):
            return _one_archive(ListedImage("", uri, size, ""), config)
        if list_file.is_list(name):
            listed = list_file.read_list(uri, roots)
            _refuse_lists_of_archives(listed, redact(uri))
            if not isinstance(listed, pa.Table) and ".json" in PurePosixPath(name.lower()).suffixes:
                list_file.check_are_there(listed, redact(uri))
            return _listing_of(listed), []
        _refuse_containers(name, uri)
        return _listing_of([ListedImage(name, uri, size, "")]), []
    if WILDCARD.search(uri) and not _is_folder(uri):
        return _glob(uri, config)
    return _select(uri, re.compile(""), config)


def _listing_of(listed: pa.Table | list[ListedImage]) -> Listing:
    listing = Listing()
    if isinstance(listed, list):
        listing.add(listed)
    else:
        for part in listed.to_batches():
            listing.add_columns([part["path"], part["uri"]])
    return listing


def _is_list_of(uri: str, name: str, size: int) -> bool:
    """Return whether a file that may be either is a list of images and no table of them."""
    if not list_file.is_list(name):
        return False
    try:
        return packed.is_list_of_uris(ListedImage("", uri, size, ""), _listing_places(uri))
    except ArchiveError:
        return False
    except CollectionError:  # a list is read whole, which every web server allows
        return True


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


def _one_archive(archive: ListedImage, config: ImageConfig) -> _Found:
    selection = Selection(config)
    found = packed.images_in([archive], selection, _listing_places(archive.uri), _most(config))
    if not found.num_images:
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


def _glob(uri: str, config: ImageConfig) -> _Found:
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
) -> _Found:
    walked = Folder(root).walk_blocks(_walked)
    inner_runs = [run for block in walked for run in block.runs]
    selection = Selection(config, inner_runs, all_endings=all_endings)
    found, archives = _images_and_archives(root, walked, pattern, selection)
    if archives and found.num_images:
        for archive in archives:
            selection.leave_out(archive.path, hint=_BESIDE)
    elif archives:
        found = packed.images_in(archives, selection, _listing_places(root), _most(config))
    if not walked and not pattern.pattern:
        raise CollectionError(f"no images under {redact(root)}: {_why_nothing(root)}")
    if not found.num_images:
        endings = selection.endings
        what = f"files ending in {' '.join(endings)}" if endings else "matching files"
        found_instead = (
            f"{sum(block.files.num_rows for block in walked)} other files, for example "
            f"{walked[0].first}"
            if walked
            else "no file at all: check the spelling"
        )
        left_out = describe(selection.left_out)
        rest = f"; {left_out}" if left_out else ""
        raise CollectionError(
            f"no images under {redact(root)}: searched it and its folders for {what} "
            f"(hidden ones and runs left out) and found {found_instead}{rest}"
        )
    return found, selection.left_out


class _Walked(NamedTuple):
    """Some of the files of a folder."""

    files: PackedRows
    first: str
    runs: list[str]
    """Folders with a run in them, each with its slash."""


def _walked(files: Sequence[WalkedFile]) -> _Walked:
    runs = [path.removesuffix(_RUN_FILE) for path, *_ in files if path.endswith(f"/{_RUN_FILE}")]
    return _Walked(rows.pack_files(files), files[0][0], runs)


def _images_and_archives(
    root: str, walked: Sequence[_Walked], pattern: re.Pattern[str], selection: Selection
) -> tuple[Listing, list[ListedImage]]:
    images = Listing()
    archives: list[ListedImage] = []
    for files in (batch for block in walked for batch in block.files.batches()):
        places = []
        sizes = files["size_bytes"]
        for place, path in enumerate(rows.names_of(files)):
            if not pattern.match(path) or not selection.allows(path):
                continue
            if sizes.null_count and not sizes[place].is_valid:
                is_folder = path.endswith("/")
                selection.leave_out(
                    path, "folder that may not be read" if is_folder else "dangling link"
                )
            elif "#" in path and uris.member_of(path):
                selection.leave_out(path, "with a name that reads as a member of an archive")
            elif packed.is_archive(path):
                size, etag = sizes[place].as_py(), files["etag"][place].as_py()
                archives.append(ListedImage(path, uris.join(root, path), size, etag))
            elif selection.takes(path):
                places.append(place)
        if places:
            images.add_files(files.take(to_array(places, pa.int64())), root)
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


def _named(listed: PackedRows, only: str) -> PackedRows:
    """Return the images that a split file names; it may name no others."""
    wanted = set(list_file.read_names(only))
    named, missing, first = PackedRows(listed.schema), set(wanted), ""
    for batch in listed.batches():
        stems = [str(PurePosixPath(path).with_suffix("")) for path in batch["path"].to_pylist()]
        missing.difference_update(stems)
        first = first or stems[0]
        named.add(batch.filter(pa.array([stem in wanted for stem in stems])))
    if missing:
        raise CollectionError(
            f"{redact(only)} names {len(wanted)} images, of which {len(missing)} are not "
            f"there, for example {min(missing)!r}; expected names such as {first!r}: paths "
            "without ending"
        )
    return named
