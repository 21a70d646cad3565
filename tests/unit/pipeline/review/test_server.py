"""The socket and the URL of the review server."""

import socket

import pytest

from pipeline.review.server import Address, listen
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from tests.helpers.drawn_runs import Scene, label_map, make_run


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return make_run(tmp_path, [Scene("a.png", label_map(0))])


def test_socket_is_known_to_be_tcp(run):
    """asyncio sets TCP_NODELAY only on such sockets; without it every answer took 40 ms longer."""
    listening = listen(run, Address(port=0))
    with listening.socket as waiting:
        assert waiting.proto == socket.IPPROTO_TCP
        port = waiting.getsockname()[1]
    assert listening.url == f"http://127.0.0.1:{port}/"


def test_address_off_the_loopback_has_a_token(run):
    listening = listen(run, Address("0.0.0.0", 0))
    with listening.socket:
        assert len(listening.url.partition("?token=")[2]) >= 43
        assert socket.gethostname() in listening.url


def test_busy_port_is_refused(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            listen(run, Address(port=port))
