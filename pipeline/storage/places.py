"""The rule for places: from where images may be read, and which addresses may be called for them.

A manifest, a table and a list are input: what they name is read only where this rule allows it.

- The collection that a user gives to `ovseg annotate` is his own: what it lists is read, and links
  in it are followed. A list at a URL names no files of this machine, and a list names no stores of
  unusual kinds, unless their folder is given as well (`--images-root`).
- Images of a run that was made elsewhere are read only under the roots that its opener confirms,
  and links that lead out of these are not followed.
- Loopback, link-local and private addresses are called only for a URL that the user gave as the
  collection itself, or with `--allow-private-addresses`. What counts is the address that is
  connected to, see `http`.
"""

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute

from pipeline.storage import uris
from schemas.errors import ConfigError, ErrorCode, ImageError
from schemas.redact import redact

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

WEB = ("http", "https")
"""Schemes whose URLs name a machine to call."""
LISTED_SCHEMES = frozenset({*WEB, "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf"})
"""Schemes that any list may name; in the others a URL can hold settings of a client."""
WILDCARD = re.compile(r"\*|\?|\[[^/\]]{1,255}\]")
"""What makes a glob of a path; no name is longer than brackets may be."""
_PORTS = {"http": 80, "https": 443}
_DOT_PARTS = r"(?i)[/\\](?:\.|%2e){1,2}(?:[/\\?#]|%2f|%5c|$)"
_EMBEDDED_IPV4 = [ipaddress.ip_network(text) for text in ("64:ff9b::/96", "::/96")]
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10", "192.0.0.0/24", "fec0::/10", "64:ff9b:1::/48", "2001::/23",
        "168.63.129.16/32",
    )
]  # fmt: skip
"""Beside those that every version of Python knows; the last one is Azure's for its own machines."""


@dataclass(frozen=True)
class ImagePlaces:
    """From where the images of one collection may be read; without arguments from nowhere.

    Attributes:
        roots: normalised URIs, below which images are read; None: anywhere, because this user's
            own job has listed them.
        follows_links: links below a local root may lead out of it.
        hosts: `host:port` of URLs whose addresses may be private.
        allow_private: so may all others.
    """

    roots: tuple[str, ...] | None = ()
    follows_links: bool = False
    hosts: frozenset[str] = frozenset()
    allow_private: bool = False

    @classmethod
    def of_own(cls, images: str, *, allow_private: bool) -> "ImagePlaces":
        """Return the places of a collection that this user has given himself.

        Args:
            images: folder, glob, image or list file; its own address may be private.
            allow_private: so may addresses in it.
        """
        return cls(None, True, hosts_of([images]), allow_private)

    def checked(self, place: str) -> str:
        """Return the place to open for a normalised URI: links are resolved where they matter.

        Raises:
            ImageError: `permission_denied`, it is not allowed.
        """
        if self.roots is None:
            return place
        if not is_below(place, self.roots):
            raise _refused(place, "is not below " + self._shown_roots())
        if uris.scheme(place) or self.follows_links:
            return place
        target = os.path.realpath(place)
        if not is_below(target, [os.path.realpath(root) for root in self.roots if _is_local(root)]):
            raise _refused(place, f"is a link to {target}, which is not below the images' root")
        return target

    def may_call(self, host: str, port: int | None) -> bool:
        """Return whether a machine may be called whatever its address is."""
        return self.allow_private or f"{host.lower()}:{port}" in self.hosts

    def _shown_roots(self) -> str:
        return ", ".join(map(redact, self.roots or ())) or "a root that was confirmed"


def hosts_of(places: Sequence[str]) -> frozenset[str]:
    """Return `host:port` of those places that are web addresses."""
    found = set()
    for place in places:
        if uris.scheme(place) in WEB:
            try:
                parts = urlsplit(place)
                port = parts.port or _PORTS[parts.scheme.lower()]
            except ValueError as error:
                raise ConfigError(f"{redact(place)} is not a web address: {error}") from error
            found.add(f"{parts.hostname}:{port}")
    return frozenset(found)


def root_of(images: str) -> str:
    """Return the normalised place below which the images of a folder, glob or image lie."""
    place = uris.normalise(images)
    return place if _is_local(place) and Path(place).is_dir() else before_wildcard(place)


def before_wildcard(place: str) -> str:
    """Return the folder of a glob, and any other normalised place as it is."""
    match = WILDCARD.search(place.partition("?")[0] if uris.scheme(place) in WEB else place)
    return place[: match.start()].rpartition("/")[0] or "/" if match else place


def is_below(place: str, roots: Sequence[str]) -> bool:
    """Return whether a normalised place is one of some normalised roots or below one.

    A member of an archive lies where its archive does.
    """
    place = uris.holding_file(place)
    if uris.scheme(place) and re.search(_DOT_PARTS, _decoded(place)):
        return False
    return any(place == root or place.startswith(root.rstrip("/") + "/") for root in roots)


def outside(column: pa.ChunkedArray, roots: Sequence[str]) -> list[str]:
    """Return the URIs of a column that are not below the roots; fast where none is."""
    beginnings = [root.rstrip("/") + "/" for root in roots]
    column = _files_of(column)
    is_fine = compute.is_in(column, value_set=pa.array(roots, pa.string()))
    for beginning in beginnings:
        is_fine = compute.or_(is_fine, compute.starts_with(column, beginning))
    odd = compute.match_substring_regex(column, f"{_DOT_PARTS}|%25")
    is_fine = compute.fill_null(compute.and_not(is_fine, odd), False)
    rest = column.filter(compute.invert(is_fine)).to_pylist()
    return [str(uri) for uri in rest if uri is None or not _is_below_roots(uri, roots)]


def _files_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of URIs with those of archives in place of their members'."""
    return compute.replace_substring_regex(column, rf"(?s){uris.IN_ARCHIVE}.*\z", "")


def _is_below_roots(uri: str, roots: Sequence[str]) -> bool:
    try:
        return is_below(uris.normalise(uri), roots)
    except (ConfigError, ValueError):
        return False


def is_private(address: str) -> bool:
    """Return whether an IP address is not one of the public internet.

    Args:
        address: as text; one that Python cannot read counts as private, since a system may read it
            in its own way (`127.1`, `0177.0.0.1`, `2130706433`).
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if any(parsed in network for network in _EMBEDDED_IPV4):
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_private(str(inner))
    is_listed = any(parsed in network for network in _NOT_PUBLIC)
    return is_listed or not parsed.is_global or parsed.is_multicast


def is_address(host: str) -> bool:
    """Return whether a host is called without looking its name up: it is an address."""
    return ":" in host or host.replace(".", "").isdigit()


def _is_local(place: str) -> bool:
    return not uris.scheme(place)


def _decoded(place: str) -> str:
    for _ in range(3):  # some servers decode twice
        place = unquote(place)
    return place


def _refused(place: str, why: str) -> ImageError:
    return ImageError(
        ErrorCode.PERMISSION_DENIED,
        f"{redact(place)} {why}: it is not read; --images-root FOLDER_OR_URL confirms its place",
    )
