"""Telling at once that the Hugging Face hub cannot be reached.

The hub's client tries five times before it gives up: three quarters of a minute for every file of
a machine without a network, before the message that the user needs.
"""

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies


def check_reachable(repo_id: str) -> None:
    """Return if the repository may be had: it is cached, or the hub's name resolves.

    Behind a proxy the name need not resolve here, so nothing is checked.

    Raises:
        OSError: the hub's name does not resolve and nothing of the repository is cached.
    """
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    if cached.is_dir() or getproxies():
        return
    host = urlsplit(constants.ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise OSError(f"{host} cannot be reached from here") from error
