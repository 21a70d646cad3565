"""A real Label Studio: import of our tasks, images served, predictions submitted, export read back.

Opt-in, `make test-labelstudio`: the server takes a gigabyte and minutes to start. It must not share
our environment; OVSEG_LABEL_STUDIO names its executable.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.exporters import label_studio
from pipeline.import_review import import_review
from pipeline.reviewed import ReviewedLayer
from pipeline.rundir import RunDir
from tests.exports import run_masks
from tests.runs import awkward_scenes, make_run, odd_scenes

WANTED = os.environ.get("OVSEG_LABEL_STUDIO", "")
START_S = 600

pytestmark = [
    pytest.mark.skipif(not WANTED, reason="opt-in: OVSEG_LABEL_STUDIO names no executable"),
    pytest.mark.timeout(2 * START_S),
]


@dataclass(frozen=True)
class Server:
    url: str
    token: str

    def call(self, path: str, body: Any = None) -> Any:
        return json.loads(self.fetch(path, body))

    def fetch(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Token {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path, [*awkward_scenes(), *odd_scenes()])


@pytest.fixture
def server(tmp_path: Path, run: RunDir) -> Iterator[Server]:
    """Serve on the loopback, with the run's photographs below the document root."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    executable = shutil.which(WANTED)
    assert executable, f"{WANTED} is no executable"
    token = secrets.token_hex(20)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(tmp_path),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "false",
    }
    command = [
        executable, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port),
        "--data-dir", str(tmp_path / "ls"), "--username", "a@example.org",
        "--password", secrets.token_hex(8), "--user-token", token,
    ]  # fmt: skip
    log = tmp_path / "label-studio.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            yield _started(Server(f"http://127.0.0.1:{port}", token), process, log)
        finally:
            process.terminate()
            process.wait(60)


def _started(server: Server, process: subprocess.Popen, log: Path) -> Server:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.fetch("/api/projects/")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error}: {error.read()[:500]!r}") from error
        except OSError:
            time.sleep(2)
        else:
            return server
    raise AssertionError(f"no server: {log.read_text()[-2000:]}")


def test_every_mask_survives_the_server(server: Server, run: RunDir, tmp_path: Path) -> None:
    names = label_studio.export(
        run, label_studio.Options(url="/data/local-files/?d=photos/", max_bytes=8_000)
    )
    config = run.folder.read_bytes(names[0]).decode()
    project = server.call("/api/projects/", {"title": "ovseg", "label_config": config})["id"]
    storage = {"project": project, "path": str(tmp_path / "photos"), "use_blob_urls": True}
    server.call("/api/storages/localfiles/", storage)
    batches = [json.loads(run.folder.read_bytes(name)) for name in names[1:]]
    assert len(batches) > 1
    for batch in batches:
        answer = server.call(f"/api/projects/{project}/import", batch)
        assert answer["task_count"] == answer["prediction_count"] == len(batch)
    exported = server.call(
        f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true"
    )
    scores = {}
    for task in exported:
        photo = server.fetch(task["data"]["image"])
        path = task["data"]["file_name"]
        assert photo == Path(tmp_path, "photos", path).read_bytes(), path
        (prediction,) = server.call(f"/api/predictions/?task={task['id']}")
        scores[path] = prediction["score"]
        submitted = {"result": prediction["result"], "lead_time": 12.0}
        server.call(f"/api/tasks/{task['id']}/annotations/", submitted)
    assert len(set(scores.values())) > 3
    review = tmp_path / "review.json"
    review.write_bytes(server.fetch(f"/api/projects/{project}/export?exportType=JSON"))
    report = import_review(run, "label-studio", str(review))
    layer = ReviewedLayer(run)
    masks = [mask for image_id in layer.images for mask in layer.masks(image_id)]
    assert {mask.verdict for mask in masks} == {"accepted"}
    paths = {image_id: image.path for image_id, image in layer.images.items()}
    ours = sorted((paths[mask.image_id], mask.label, mask.rle_counts) for mask in masks)
    assert ours == run_masks(run)
    assert report.num_images == len(scores) == report.num_images_with_time
    assert report.minutes == pytest.approx(0.2 * len(scores))
