"""Tables as Hugging Face's `datasets` writes them, from the list of images to the review page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.demo.draw import draw_scenes
from pipeline.run.folder import RunFolder
from tests.helpers.hugging_face_hub import TOKEN, Hub, serving_hub
from tests.helpers.packed_images import drawn, hugging_face_table, parquet_bytes
from tests.helpers.review_server import read_picture, serving

NUM_IMAGES = 6


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def files_of(contents: list[bytes | None], paths: list[str | None]) -> dict[str, bytes]:
    """Return the files of a data set of two tables."""
    files = {"README.md": b"# pets"}
    for part, rows in enumerate((slice(0, 4), slice(4, None))):
        data = parquet_bytes(hugging_face_table(contents[rows], paths[rows]), row_group_size=2)
        files[f"data/train-{part:05}-of-00002.parquet"] = data
    return files


def test_a_run_its_exports_and_its_pages_read_the_rows(tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    labels = draw_scenes(scenes, NUM_IMAGES, seed=3).labels
    names = sorted(file.name for file in scenes.iterdir())
    contents: list[bytes | None] = [(scenes / name).read_bytes() for name in names]
    for path, data in files_of([*contents, None], [*names, "none.png"]).items():
        (tmp_path / "pets" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / path).write_bytes(data)
    run = tmp_path / "run"
    result = ovseg(
        "annotate", "--images", str(tmp_path / "pets"), "--labels", ",".join(list(labels)[:3]),
        "--out", str(run), "--local", "--set", "clip.model=embedded", "--set", "run.device=cpu",
        "--set", "run.max_error_share=1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "empty_file" in result.output
    for exporter in ("coco", "gallery"):
        assert ovseg("export", str(run), "--to", exporter).exit_code == 0
    coco = json.loads((run / "exports/coco/instances.json").read_text())
    paths = [image["file_name"] for image in coco["images"]]
    assert paths[0] == f"data/train-00000-of-00002.parquet/{names[0]}"
    assert len(paths) >= NUM_IMAGES
    assert len(list((run / "exports/gallery/pictures").iterdir())) >= 2 * NUM_IMAGES
    with serving(RunFolder.open(str(run))) as client:
        shown = client.shown()
        found = [client.get("/photo", id=item["image_id"], size="small") for item in shown]
    pictures = [read_picture(one.body) for one in found if one.status == 200]
    assert len(pictures) == NUM_IMAGES
    assert all(picture.shape[0] != picture.shape[1] for picture in pictures)


LIST = """
import sys
from pipeline.collection.collect import collect
from pipeline.collection.image_source import read_bytes
from pipeline.storage.folder import Folder
from schemas.config import ImageConfig
from schemas.errors import OvsegError
from schemas.tables import to_records
from tests.helpers.places import ANYWHERE
for place in sys.argv[1:]:
    try:
        refs = list(to_records("manifest", collect(place, ImageConfig())))
        sizes = [len(read_bytes(ref, 10**7, ANYWHERE)) for ref in refs]
        print(refs[0].path, *sizes)
    except OvsegError as error:
        print(error)
"""


def listed(hub: Hub, *places: str, **environment: str) -> list[str]:
    """Return what a process prints that lists collections at a hub and reads their images."""
    quick = {"OVSEG_RETRY_DELAY_S": "0.01", "OVSEG_STORAGE_TIMEOUT_S": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LIST, *places],
        env=hub.environment(**quick, **environment),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [drawn(number) for number in range(NUM_IMAGES)]


def test_a_data_set_at_the_hub_is_read_in_place(images: list[bytes]) -> None:
    sizes = [str(len(data)) for data in images]
    pets, parquet = "hf://datasets/acme/pets", "train-00001-of-00002.parquet"
    paths: list[str | None] = [f"{number}.png" for number in range(NUM_IMAGES)]
    with serving_hub(files_of([*images], paths)) as hub:
        hub.needs_token = True
        found = listed(hub, pets, f"{pets}@main", f"{pets}/data/*-00001-*.parquet", HF_TOKEN=TOKEN)
        whole = "data/train-00000-of-00002.parquet/0.png"
        assert [line.split() for line in found] == [
            [whole, *sizes], [whole, *sizes], [f"{parquet}/4.png", *sizes[4:]]
        ]  # fmt: skip
        assert all(asked.startswith("bytes=") for asked in hub.ranges)


def test_what_the_hub_refuses_says_what_to_do(images: list[bytes]) -> None:
    pets = "hf://datasets/acme/pets"
    with serving_hub(files_of([*images], [None] * NUM_IMAGES)) as hub:
        other, revision, folder, short = listed(
            hub, "hf://datasets/acme/cats", f"{pets}@v2", f"{pets}/none", "hf://datasets/pets"
        )
        assert "the hub has no such data set or revision, or it is private" in other
        assert "hf://datasets/acme/pets@v2: the hub has no such data set or revision" in revision
        assert "there is no such folder, or no file in it" in folder
        assert "expected hf://datasets/OWNER/NAME" in short
        [offline] = listed(hub, pets, HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE is set" in offline
        hub.refused = "GatedRepo"
        [gated] = listed(hub, pets)
        assert "accept them on its page" in gated
        assert "set HF_TOKEN" in gated
    [gone] = listed(hub, pets)
    assert "cannot look at hf://datasets/acme/pets" in gone
    result = ovseg("annotate", "--images", "x", "--labels", "a", "--out", "hf://datasets/a/b")
    assert result.exit_code != 0
    assert "Traceback" not in result.output
