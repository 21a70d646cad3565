"""A run whose tables name files and addresses of its opener: nothing is read, nobody is called."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.review.pictures import SIDE_PX
from pipeline.run.folder import RunFolder
from pipeline.run.trust.confirmed import Confirmed
from tests.helpers.calls_server import CallsServer, calls_server
from tests.helpers.drawn_runs import Scene, label_map, make_run
from tests.helpers.review_server import serving
from tests.helpers.tampering import change_uris

NUM_IMAGES = 8


@pytest.fixture
def server() -> Iterator[CallsServer]:
    with calls_server(image=b"secret") as found:
        yield found


@pytest.fixture
def hostile(tmp_path: Path, server: CallsServer) -> Path:
    """Return a run whose first image is honest; the others lie where no image may lie."""
    scenes = [Scene(f"{place}.png", label_map(place)) for place in range(NUM_IMAGES)]
    make_run(tmp_path, scenes)
    secret = tmp_path / "secret.png"
    shutil.copy(tmp_path / "photos/1.png", secret)
    (tmp_path / "photos/link.png").symlink_to(secret)
    places = [
        None,
        secret.as_uri(),
        f"{tmp_path}/photos/../secret.png",
        f"{tmp_path}/photos/link.png",
        f"{server.url}/image",
        f"http://2130706433:{server.port}/image",
        f"simplecache::{server.url}/image",
        f"zip://image::{server.url}/image",
    ]
    rows = iter(places * 3)  # the manifest, then the images tables in order
    change_uris(tmp_path / "run", lambda _, uri: next(rows) or uri)
    return tmp_path / "run"


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def copied(run: Path, *flags: str) -> tuple[list[str], str]:
    """Export with photographs; return the names of those that were copied, and the losses."""
    shutil.rmtree(run / "exports", ignore_errors=True)
    result = ovseg("export", str(run), "--to", "yolo_seg", "--set", "copy_images=true", *flags)
    assert result.exit_code == 0, result.output
    folder = run / "exports/yolo_seg"
    names = sorted(file.name for file in folder.glob("images/*"))
    return names, (folder / "LOSSES.txt").read_text()


def test_exports_copy_nothing_but_confirmed_images(hostile: Path, server: CallsServer) -> None:
    names, losses = copied(hostile)
    assert names == []
    assert f"{NUM_IMAGES}  photographs that may not be read" in losses
    assert all(f"images/{place}.png" in losses for place in range(NUM_IMAGES))
    names, losses = copied(hostile, "--images-root", str(hostile.parent / "photos"))
    assert names == ["0.png"]
    names, _ = copied(hostile)  # it is remembered
    assert names == ["0.png"]
    result = ovseg("export", str(hostile), "--to", "gallery")
    assert result.exit_code == 0, result.output
    pictures = list((hostile / "exports/gallery/pictures").iterdir())
    assert len(pictures) == 2 + (NUM_IMAGES - 1)  # of the others masks on a plain ground
    assert not any(b"secret" in picture.read_bytes() for picture in pictures)
    assert server.calls == []


def test_the_review_page_shows_masks_alone(hostile: Path, server: CallsServer) -> None:
    with serving(RunFolder.open(str(hostile))) as client:
        facts = client.get("/api/run").json
        assert f"--images-root {hostile.parent}/photos" in facts["images_notice"]
        for place in range(NUM_IMAGES):
            for size in SIDE_PX:
                answer = client.get("/photo", id=f"id-{place}.png", size=size)
                assert (answer.status, answer.json["code"]) == (422, "permission_denied")
            assert client.get("/tint", id=f"id-{place}.png").status == 200
    confirmed = Confirmed.from_flags([str(hostile.parent / "photos")], allow_private=False)
    with serving(RunFolder.open(str(hostile), confirmed)) as client:
        assert client.get("/api/run").json["images_notice"] == ""
        found = [client.get("/photo", id=f"id-{place}.png").status for place in range(NUM_IMAGES)]
    assert found == [200, *[422] * (NUM_IMAGES - 1)]
    assert server.calls == []


def test_a_confirmed_web_address_is_private_all_the_same(
    hostile: Path, server: CallsServer
) -> None:
    names, _ = copied(hostile, "--images-root", server.url)
    assert (names, server.calls) == ([], [])
    names, losses = copied(hostile, "--images-root", server.url, "--allow-private-addresses")
    assert names == []
    assert "1  photographs whose file is no image" in losses
    assert server.calls == ["GET /image"]
