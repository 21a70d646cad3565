"""An image by HTTP: each redirect is looked at, and no private address is called without a say-so.

The address that counts is the one that is connected to: names are looked up once, by a resolver
that drops private addresses, and its answer is what the connection is made to.
"""

import asyncio
import socket
from typing import Any, NamedTuple
from urllib.request import getproxies, proxy_bypass

from pipeline.storage.local import FileTooLargeError
from pipeline.storage.places import WEB, ImagePlaces, is_address, is_private
from pipeline.storage.retry import Deadline
from schemas.errors import ErrorCode, ImageError
from schemas.redact import redact

_MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_PART_BYTES = 1 << 18
_PARTIAL = 206


class ByteRange(NamedTuple):
    """A part of a file."""

    begin: int
    num_bytes: int
    """1 or more."""

    @property
    def header(self) -> str:
        """The value of HTTP's and S3's header `Range`."""
        return f"bytes={self.begin}-{self.begin + self.num_bytes - 1}"


async def public_session(**options: Any) -> Any:
    """Return an aiohttp session that connects to public addresses only."""
    import aiohttp
    from aiohttp.abc import AbstractResolver
    from aiohttp.resolver import ThreadedResolver

    class PublicResolver(AbstractResolver):
        """Looks names up as the system does, without the private addresses."""

        def __init__(self) -> None:
            self._system = ThreadedResolver()

        async def resolve(self, host: str, *args: Any, **kwargs: Any) -> list[Any]:
            found = await self._system.resolve(host, *args, **kwargs)
            public = [one for one in found if not is_private(one["host"])]
            if not public:
                raise private_address(host)
            return public

        async def close(self) -> None:
            await self._system.close()

    connector = aiohttp.TCPConnector(resolver=PublicResolver())
    return aiohttp.ClientSession(connector=connector, **options)


async def image_content(
    files: tuple[Any, Any],
    url: str,
    max_bytes: int,
    places: ImagePlaces,
    deadline: Deadline,
    part: ByteRange | None = None,
) -> bytes:
    """Return what an address holds.

    Args:
        files: fsspec's HTTP file systems: one whose session is `public_session`, and one that
            connects to any address.
        url: http or https.
        max_bytes: more are not read; 0: no limit.
        places: says which addresses may be private.
        deadline: a second is added for each 256 KiB.
        part: of the file; None: all of it.

    Raises:
        FileTooLargeError: it has more than `max_bytes`.
        ImageError: `permission_denied`: the address, or one that it leads to, is not called;
            `not_an_image`: its server gives no parts of files.
    """
    headers = {} if part is None else {"Range": part.header}
    public, anywhere = files
    target = public.encode_url(url)
    for _ in range(_MAX_REDIRECTS):
        is_free = places.may_call(target.raw_host or "", target.port)
        is_free = is_free or await _goes_to_proxy(target)
        if not is_free and is_address(target.raw_host) and is_private(target.raw_host):
            raise private_address(target.raw_host)
        session = await (anywhere if is_free else public).set_session()
        async with session.get(target, allow_redirects=False, headers=headers) as answer:
            if answer.status in _REDIRECTS and "location" in answer.headers:
                target = _next(target, answer.headers["location"])
                continue
            answer.raise_for_status()
            if part is not None and answer.status != _PARTIAL:
                raise ImageError(
                    ErrorCode.NOT_AN_IMAGE,
                    f"{redact(url)}: its server gives whole files only, so that no member of an "
                    "archive can be read there; unpack it, or copy it to this machine or a bucket",
                )
            return await _limited(answer, url, max_bytes, deadline)
    raise ImageError(
        ErrorCode.STORAGE_ERROR, f"{redact(url)}: more than {_MAX_REDIRECTS} redirects"
    )


async def _goes_to_proxy(target: Any) -> bool:
    """Return whether the environment's proxy makes the connection; it looks names up itself.

    Raises:
        ImageError: the address, or the name as far as it can be looked up here, is private.
    """
    if target.scheme not in getproxies() or proxy_bypass(target.host):
        return False
    host, addresses = target.raw_host, [target.raw_host]
    if not is_address(host):
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, target.port)
            addresses = [str(place[0]) for *_, place in found]
        except socket.gaierror:
            return True
    if any(map(is_private, addresses)):
        raise private_address(host)
    return True


def _next(target: Any, location: str) -> Any:
    """Return the address that a redirect leads to."""
    from yarl import URL

    try:
        following = target.join(URL(location))
    except ValueError as error:
        raise _refused_redirect(target, str(error)) from error
    if following.scheme not in WEB or not following.raw_host:
        raise _refused_redirect(target, f"a {following.scheme or 'relative'} address")
    if following.user is not None or following.password is not None:
        raise _refused_redirect(target, "an address with credentials in it")
    return following


async def _limited(answer: Any, url: str, max_bytes: int, deadline: Deadline) -> bytes:
    size = answer.content_length or 0
    deadline.allow(size)
    content = bytearray()
    if not max_bytes or size <= max_bytes:
        async for part in answer.content.iter_chunked(_PART_BYTES):
            content += part
            size = max(size, len(content))
            if max_bytes and size > max_bytes:
                break
    if max_bytes and size > max_bytes:
        raise FileTooLargeError(redact(url), size, max_bytes)
    return bytes(content)


def private_address(host: str) -> ImageError:
    """Return the error for a host that is not called."""
    return ImageError(
        ErrorCode.PERMISSION_DENIED,
        f"{host} has a loopback, link-local or private address, which is not called for images "
        "that a list or a run names: --allow-private-addresses allows it",
    )


def _refused_redirect(target: Any, what: str) -> ImageError:
    return ImageError(
        ErrorCode.PERMISSION_DENIED,
        f"{redact(str(target))} redirects to {what}, which is not followed",
    )
