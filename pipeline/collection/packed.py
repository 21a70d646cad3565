"""Images that are members of archives: listed, and read in place.

An archive is read as a folder with its name. A member that is replaced by a later one of the same
name is left out, as when the archive is unpacked.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from types import ModuleType

import pyarrow as pa

from pipeline.collection.archives.shared.members import ArchiveError, Member, ReadPart
from pipeline.collection.archives.shared.range_file import RangeFile
from pipeline.collection.list_file import ListedImage
from pipeline.collection.manifest import ROWS_AT_ONCE, PackedRows, has_repeats, joined_texts
from pipeline.collection.rows import Listing, is_plain
from pipeline.collection.selection import Selection
from pipeline.storage import uris
from pipeline.storage.http import ByteRange
from pipeline.storage.places import ImagePlaces
from pipeline.storage.uris import ArchiveMember
from pipeline.storage.waiting import StorageThreads
from schemas import plugins
from schemas.errors import CollectionError, ErrorCode, ImageError, StorageError
from schemas.records import ImageRef
from schemas.redact import redact
from schemas.tables import to_array
from schemas.untrusted import printable

logger = logging.getLogger(__name__)
ARCHIVES = "pipeline.collection.archives"
_LISTED_AT_ONCE = 16
_MEMBERS = pa.schema(
    {
        "name": pa.string(),
        "first": pa.int64(),
        "second": pa.int64(),
        "size_bytes": pa.int64(),
        "version": pa.string(),
        "why_not": pa.string(),
        "is_image": pa.int8(),
    }
)
"""Columns of `Member`."""
_MOST_BYTES = 10**18 - 1
"""What a member's URI has room for, see `uris.IN_ARCHIVE`."""
_IMPOSSIBLE = "member of an archive with an impossible size"
_REPLACED = "member that a later one of the same name replaces"
_UNREADABLE = "archive that cannot be read"


@cache  # it looks into the folder
def _kinds() -> dict[str, ModuleType]:
    return {name: plugins.load_plugin(ARCHIVES, name) for name in plugins.names(ARCHIVES)}


@cache
def _endings() -> dict[str, str]:
    """Return the kind of archive of each ending."""
    return {ending: kind for kind, plugin in _kinds().items() for ending in plugin.ENDINGS}


def is_archive(name: str) -> bool:
    """Return whether a file is read as an archive, by its name."""
    return name.lower().endswith(tuple(_endings()))


def images_in(
    archives: Iterable[ListedImage], selection: Selection, places: ImagePlaces, most: int = 0
) -> Listing:
    """Return the images in archives, sorted by the archives' paths.

    Args:
        archives: their `path` stands before the members' paths; empty: nothing does.
        selection: what of them is taken; the rest is counted there.
        places: from where the archives may be read.
        most: archives are listed until there are so many images; 0: all.

    Raises:
        ArchiveError: none of the archives can be read.
        CollectionError: one may not be read, or has vanished.
        StorageError: the store fails.
    """
    found = Listing()
    errors: list[ArchiveError] = []
    in_order = sorted(archives, key=lambda archive: f"{archive.path}/")
    with StorageThreads(_LISTED_AT_ONCE, "archives") as threads:
        for begin in range(0, len(in_order), _LISTED_AT_ONCE):
            some = in_order[begin : begin + _LISTED_AT_ONCE]
            of_each = partial(_members_or_error, places=places, column=selection.column)
            listed = threads.map(of_each, some)
            for archive, members in zip(some, listed, strict=True):
                if isinstance(members, ArchiveError):
                    errors.append(members)
                    selection.leave_out(archive.path, _UNREADABLE)
                    logger.warning("%s", members)
                    continue
                _take(archive, members, selection, found)
            if most and found.num_images >= most:
                break
    if not found.num_images and errors:
        raise errors[0]
    return found


def is_list_of_uris(table: ListedImage, places: ImagePlaces) -> bool:
    """Return whether a Parquet file is a list of images; else it has their bytes.

    Raises:
        ArchiveError, CollectionError, StorageError: see `images_in`.
    """
    with _as_listing_errors():
        return _kinds()["parquet"].has_uris(_file_of(table, places))


def _members_or_error(
    archive: ListedImage, places: ImagePlaces, column: str
) -> PackedRows | ArchiveError:
    """Return the members of an archive, in its order."""
    plugin = _kinds()[_kind_of(archive.uri)]
    found = PackedRows(_MEMBERS)
    try:
        with _as_listing_errors():
            members = iter(plugin.members(_file_of(archive, places, column)))
            while block := list(islice(members, ROWS_AT_ONCE)):
                columns = zip(zip(*map(_possible, block), strict=True), _MEMBERS.types, strict=True)
                arrays = [to_array(values, kind) for values, kind in columns]
                found.add(pa.RecordBatch.from_arrays(arrays, schema=_MEMBERS))
    except ArchiveError as error:
        return error
    return found


def _file_of(archive: ListedImage, places: ImagePlaces, column: str = "") -> RangeFile:
    return RangeFile(archive.uri, archive.size_bytes or 0, archive.etag, places, column)


@contextmanager
def _as_listing_errors() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        if error.code is ErrorCode.STORAGE_ERROR:
            raise StorageError(error.message) from error
        raise CollectionError(error.message) from error


def _possible(member: Member) -> Member:
    """Return a member with numbers that a column can hold; whoever made the archive wrote them."""
    if max(member.first, member.second, member.size_bytes or 0) <= _MOST_BYTES:
        return member
    why_not = member.why_not or _IMPOSSIBLE
    return member._replace(first=0, second=0, size_bytes=None, why_not=why_not)


def _take(archive: ListedImage, members: PackedRows, selection: Selection, found: Listing) -> None:
    """Take the members that are images; count the others."""
    kind, uri = _kind_of(archive.uri), uris.as_text(archive.uri)
    folder = f"{archive.path}/" if archive.path else ""
    is_replaced = _replaced_places(members).__contains__
    begin = 0
    for batch in members.batches():
        columns = (batch[name].to_pylist() for name in ("name", "why_not", "is_image"))
        taken = []
        for place, (name, why_not, is_image) in enumerate(zip(*columns, strict=True)):
            path = f"{folder}{name}"
            if why_not:
                selection.leave_out(path, why_not)
            elif not selection.allows(path) or not (is_image or selection.takes(path)):
                continue
            elif is_replaced(begin + place):
                selection.leave_out(path, _REPLACED)
            else:
                taken.append(place)
        begin += batch.num_rows
        if taken:
            _add(batch.take(to_array(taken, pa.int64())), folder, f"{uri}#{kind}=", found)


def _add(images: pa.RecordBatch, folder: str, place: str, found: Listing) -> None:
    """Add members with their URIs, see `ArchiveMember.uri`."""
    names, first, second = (images[name].cast(pa.string()) for name in ("name", "first", "second"))
    address = joined_texts(place, first, "+", second, "/", names)
    rest = images["size_bytes"], images["version"]
    if is_plain(folder):
        paths = joined_texts(folder, names)
        found.add_columns([paths, address, *rest])
    else:
        values = zip(*(column.to_pylist() for column in (names, address, *rest)), strict=True)
        found.add([ListedImage(f"{folder}{name}", *more) for name, *more in values])


def _replaced_places(members: PackedRows) -> set[int]:
    """Return the places of members that a later one of the same name replaces."""
    names = pa.chunked_array([batch["name"] for batch in members.batches()], pa.string())
    if not has_repeats(names):
        return set()
    last: dict[str, int] = {}
    replaced = set()
    for place, name in enumerate(names.to_pylist()):
        if name in last:
            replaced.add(last[name])
        last[name] = place
    return replaced


def _kind_of(uri: str) -> str:
    name = uris.without_query(uri).lower()
    return next(kind for ending, kind in _endings().items() if name.endswith(ending))


def span_of(member: ArchiveMember) -> ByteRange | None:
    """Return the part of its archive that is read for a member; None where no part is known."""
    plugin = _kinds().get(member.kind)
    return None if plugin is None else plugin.span(member)


def read_member(member: ArchiveMember, max_bytes: int, read: ReadPart) -> bytes:
    """Return a member of an archive as the content of an image file.

    Args:
        member: as its URI says.
        max_bytes: larger ones are refused before they are read; 0: no limit.
        read: of the archive.

    Raises:
        ImageError: see `image_source.read_bytes`; `truncated`: the archive is cut off.
    """
    plugin = _kinds().get(member.kind)
    if plugin is None:
        raise ImageError(
            ErrorCode.NOT_AN_IMAGE,
            f"{redact(member.uri)}: no kind of archive is called {printable(member.kind)!r}",
        )
    data = plugin.content(member, read, max_bytes)
    if not data:
        raise ImageError(ErrorCode.EMPTY_FILE, f"{redact(member.uri)} has no bytes")
    return data


def moved_to(ref: ImageRef, root: str) -> str:
    """Return where an image lies if its collection is at another root now.

    Args:
        ref: the image, as listed.
        root: normalised; of one archive its own place or that of its folder.
    """
    member = uris.member_of(ref.uri)
    if member is None:
        return uris.join(root, ref.path)
    place = ref.path.removesuffix(member.name).rstrip("/")
    own_name = uris.parent_and_name(member.archive)[1]
    moved = root if is_archive(root) else uris.join(root, place or own_name)
    return member._replace(archive=moved).uri
