"""The review server: bind the port, return the URL to open, serve until Ctrl-C."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from urllib.parse import quote

import uvicorn

from pipeline.review.app import make_app
from pipeline.review.security import TOKEN_PARAMETER, Guard, new_token
from pipeline.review.session import ReviewSession
from pipeline.review.try_page import TryPage
from pipeline.run.folder import RunFolder
from schemas.errors import UserError

_GRACE_S = 3
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_EVERYWHERE = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: a name or address of this machine.
        port: 0: any free port.
        names: further host names by which browsers reach the server, for example of a proxy.
    """

    host: str = "127.0.0.1"
    port: int = 8420
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listening:
    """A server with its port bound and its run read; requests wait until `serve` is called.

    Attributes:
        url: to open in a browser; holds the token, if there is one.
        server: set `should_exit` to end it.
        socket: the bound socket.
        try_page: what a page that waits no more may have left computing when the server has ended.
    """

    url: str
    server: uvicorn.Server
    socket: socket.socket
    try_page: TryPage

    def serve(self) -> None:
        """Serve until the end; a signal takes its effect after the running requests."""
        self.server.run(sockets=[self.socket])


class _Server(uvicorn.Server):
    """A server that stops background work as soon as it ends, not after the running requests.

    Args:
        config: uvicorn's.
        end: stops the background work.
    """

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        super().__init__(config)
        self._end = end
        logging.getLogger("uvicorn.error").addFilter(_is_not_of_shutdown)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._end()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end()
        await super().shutdown(sockets)


def _is_not_of_shutdown(record: logging.LogRecord) -> bool:
    """Return False for the error of a request that was still running when the server ended."""
    cancelled = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and not record.getMessage().startswith("Cancel ")


def listen(
    run: RunFolder, address: Address, weights: Sequence[str] = (), only: str = ""
) -> Listening:
    """Bind the port and read the run.

    Args:
        run: at any place.
        address: where to listen; anywhere but on the loopback, requests need a new random token.
        weights: names of weights in the run that "Try words" may load.
        only: a list file of the images that are shown; empty: all.

    Raises:
        UserError: the address cannot be bound, or the list names no image of the run.
    """
    listening = _bind(address)
    port = listening.getsockname()[1]
    token = None if address.host in _LOOPBACK else new_token()
    everywhere = address.host in _EVERYWHERE
    session = ReviewSession(run, only=only)
    session.images.tell_once()
    try_page = TryPage(session, weights)
    own_names = (socket.gethostname(), socket.getfqdn()) if everywhere else (address.host,)
    guard = Guard(
        make_app(session, try_page),
        hosts=(*own_names, *address.names),
        any_address=everywhere,
        token=token,
    )
    config = uvicorn.Config(
        guard, lifespan="off", ws="none", access_log=False, log_config=None, log_level="error",
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=_GRACE_S,
    )  # fmt: skip
    host = socket.gethostname() if everywhere else address.host
    shown = f"[{host}]" if ":" in host else host
    query = "" if token is None else f"?{TOKEN_PARAMETER}={quote(token)}"
    server = _Server(config, try_page.end)
    return Listening(f"http://{shown}:{port}/{query}", server, listening, try_page)


def _bind(address: Address) -> socket.socket:
    """Return a listening socket; bound before the run is read, so that a mistake shows at once."""
    try:
        found = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, place = found[0]
        # With the protocol: asyncio sets TCP_NODELAY only on sockets that it knows to be TCP, else
        # every answer waits 40 ms for the browser to acknowledge its headers.
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(_why(address, error)) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
    except OSError as error:
        listening.close()
        raise UserError(_why(address, error)) from error
    listening.listen(128)
    listening.set_inheritable(True)
    return listening


def _why(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} is in use, maybe by another review: choose another with --port "
            "(0: any free port)"
        )
    return f"cannot listen at {address.host} port {address.port}: {error.strerror or error}"
