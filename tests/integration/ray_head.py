"""A Ray head of our own on loopback, with its own ports, folder and token."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

_PORTS = (
    "port",
    "dashboard-port",
    "ray-client-server-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
)
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A running head: its job server, the environment that may talk to it, its process id.

    `gcs` is what RAY_ADDRESS takes.
    """

    address: str
    env: dict[str, str]
    pid: int
    gcs: str


@contextmanager
def ray_head(num_cpus: int = 2) -> Iterator[Head]:
    """Start a head, and stop it by its own process id."""
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    with tempfile.TemporaryDirectory(prefix="ovseg-", ignore_cleanup_errors=True) as folder:
        env = _environment(folder)
        log = Path(folder) / "head.log"
        command = [
            str(_BIN / "ray"),
            *("start", "--head", "--block", f"--num-cpus={num_cpus}"),
            *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
            *("--include-dashboard=true", "--object-store-memory=100000000"),
            *(f"--{name}={port}" for name, port in ports.items()),
        ]
        with log.open("w") as out:
            process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{ports['dashboard-port']}"
            _wait_for(address, process, log)
            yield Head(address, env, process.pid, f"127.0.0.1:{ports['port']}")
        finally:
            process.terminate()
            process.wait(timeout=60)


def _environment(folder: str) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return env | {
        "PATH": f"{_BIN}{os.pathsep}{env.get('PATH', '')}",  # a job's `python` is found there
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _wait_for(address: str, process: subprocess.Popen, log: Path, patience_s: float = 90) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
        except HTTPError as error:  # it answers, and wants the token
            error.close()
            return
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise RuntimeError(f"the Ray head does not answer: {log.read_text()[-2000:]}")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
