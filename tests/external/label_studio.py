"""A real Label Studio on the loopback, with its own data and without telemetry.

The server must not share our environment: OVSEG_LABEL_STUDIO is its executable, which
`make test-labelstudio` installs.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.exporters import label_studio
from pipeline.run.folder import RunFolder

WANTED = os.environ.get("OVSEG_LABEL_STUDIO", "")
START_S = 600
STOP_S = 30
USER = "a@example.org"
opt_in = [
    pytest.mark.skipif(not WANTED, reason="opt-in, takes 1 GB and minutes: make test-labelstudio"),
    pytest.mark.timeout(2 * START_S),
]


@dataclass(frozen=True)
class Server:
    url: str
    root: Path
    """Photographs below this folder are served."""
    token: str
    password: str

    def call(self, path: str, body: Any = None) -> Any:
        return json.loads(self.fetch(path, body))

    def fetch(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Token {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read()

    def new_project(self, run: RunFolder, photos: Path, **options: Any) -> int:
        """Export a run, import it as a person would, return the project's number."""
        url = f"/data/local-files/?d={photos.relative_to(self.root)}/"
        given = label_studio.Options(url=url, **options)
        names = label_studio.export(run, given)
        config = run.folder.read_bytes(names[0]).decode()
        project = self.call("/api/projects/", {"title": "ovseg", "label_config": config})["id"]
        storage = {"project": project, "path": str(photos), "use_blob_urls": True}
        self.call("/api/storages/localfiles/", storage)
        for name in names[1:]:
            batch = json.loads(run.folder.read_bytes(name))
            answer = self.call(f"/api/projects/{project}/import", batch)
            assert answer["task_count"] == answer["prediction_count"] == len(batch)
        return project

    def tasks(self, project: int) -> list[dict]:
        return self.call(f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve until the block ends; database, settings and log lie in the folder too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    executable = shutil.which(WANTED)
    assert executable, f"OVSEG_LABEL_STUDIO={WANTED} is not executable"
    server = Server(f"http://127.0.0.1:{port}", folder, secrets.token_hex(20), secrets.token_hex(8))
    command = [
        executable, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port),
        "--data-dir", str(folder / "ls"), "--username", USER,
        "--password", server.password, "--user-token", server.token,
    ]  # fmt: skip
    log = folder / "label-studio.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=_environment(folder), stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait(server, process, log)
            yield server
        finally:
            _stop(process)


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(folder),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "false",
    }


def _wait(server: Server, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.fetch("/api/projects/")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error}: {error.read()[:500]!r}") from error
        except OSError:
            time.sleep(1)
        else:
            return
    raise AssertionError(f"no server: {log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen) -> None:
    """End the server and whatever it started: all of it is a session of its own."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(STOP_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        return
