"""Uploads and requests of the try page."""

import io
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from jobs.demo.draw import draw_scenes
from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.review.session import ReviewSession
from pipeline.review.try_page import MAX_UPLOAD_BYTES, TryPage, Uploads
from pipeline.run.folder import RunFolder
from schemas.config import ImageConfig, JobConfig
from schemas.errors import ImageError, UserError
from tests.helpers.drawn_runs import RunSpec, Scene, grow_run, label_map, make_run
from tests.helpers.review_server import read_picture


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 199)).save(buffer, "PNG")
    return buffer.getvalue()


def test_upload_is_decoded_by_its_key():
    uploads = Uploads(ImageConfig())
    upload = uploads.add(_png(90, 60))
    assert (upload.height, upload.width) == (60, 90)
    assert uploads.add(_png(90, 60)).key == upload.key
    decoded = uploads.decoder(upload.key)(0)
    assert decoded.rgb.shape == (60, 90, 3)


def test_unknown_upload_is_refused():
    with pytest.raises(UserError, match="upload it again"):
        Uploads(ImageConfig()).decoder("unknown")


def test_upload_above_the_limits_is_refused():
    with pytest.raises(ImageError, match="more than 32 MB"):
        Uploads(ImageConfig()).add(bytes(MAX_UPLOAD_BYTES + 1))
    with pytest.raises(ImageError, match="90 x 60 pixels"):
        Uploads(ImageConfig(max_pixels=5000)).add(_png(90, 60))


def test_oldest_upload_is_dropped():
    uploads = Uploads(ImageConfig(), kept_bytes=len(_png(90, 60)) + len(_png(80, 60)))
    first, second, third = (uploads.add(_png(width, 60)).key for width in (90, 80, 70))
    assert uploads.decoder(third)(0).width == 70
    assert uploads.decoder(second)(0).width == 80
    with pytest.raises(UserError):
        uploads.decoder(first)


def test_photo_of_an_upload_is_a_jpeg(tmp_path):
    page = TryPage(ReviewSession(make_run(tmp_path, [Scene("a.png", label_map(0))])))
    taken = page.upload(_png(90, 60))
    assert read_picture(page.photo(taken["upload"])).shape == (60, 90, 3)


@pytest.mark.parametrize("change", [{"source": "web"}, {"words": 3}, {"more": 1}, {"id": None}])
def test_malformed_request_is_refused(tmp_path, change):
    page = TryPage(ReviewSession(make_run(tmp_path, [Scene("a.png", label_map(0))])))
    body = {"source": "run", "id": "id-a.png", "words": ["cat"], "method": "clip_diy"} | change
    with pytest.raises(ValidationError):
        page.segment(body)


def test_words_are_tried_on_an_image_as_it_is_since_the_update(tmp_path):
    spec = RunSpec(job={"clip": "embedded", "run": {"device": "cpu"}})
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(2)], spec)
    session = ReviewSession(run)
    page = TryPage(session)
    body = {"source": "run", "id": "id-1.png", "words": ["cat", "dog"], "method": "maskclip"}
    assert [page.segment(body)["encoded"] for _ in range(2)] == [True, False]
    grow_run(run, changed=[Scene("1.png", label_map(8, 30, 70))])
    session.refresh()
    now = page.segment(body)
    assert now["encoded"], "features of the image as it was are not scored"
    assert (now["height"], now["width"]) == (30, 70)


@pytest.mark.parametrize(("limit", "said"), [(4, ["image.limit=4"]), (0, [])])
def test_command_takes_as_many_images_as_the_run_has_since_the_update(tmp_path, limit, said):
    job = {"clip": "embedded", "run": {"device": "cpu"}, "image": {"limit": 2}}
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(4)]
    run = make_run(tmp_path, scenes[:2], RunSpec(job=job))
    session = ReviewSession(run)
    page = TryPage(session)
    body = {"source": "run", "id": "id-1.png", "words": ["cat", "dog"], "method": "maskclip"}

    def limits() -> list[str]:
        words = shlex.split(page.segment(body)["command"])
        return [word for word in words if word.startswith("image.limit")]

    assert limits() == ["image.limit=2"]
    grow_run(run, scenes[2:], limit=limit)
    session.refresh()
    assert limits() == said


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A run of two shards with features."""
    place = tmp_path_factory.mktemp("kept")
    draw_scenes(place, 3, 3)
    fields = {
        "images": f"{place}/scene_*.png",
        "labels": ["red solid circle", "blue striped fish"],
        "out": str(place / "run"),
        "clip": {"model": "embedded"},
        "shard_size": 2,
        "run": {"local": True, "keep_features": "float16", "device": "cpu"},
    }
    job.run(JobConfig.model_validate(fields), Progress())
    return place / "run"


@pytest.mark.parametrize("folder", ["features", "done"])
def test_relabel_is_offered_where_it_will_work(kept: Path, folder: str) -> None:
    page = TryPage(ReviewSession(RunFolder.open(str(kept))))
    image_id = RunFolder.open(str(kept)).manifest()["image_id"][0].as_py()
    body = {"source": "run", "id": image_id, "words": ["red fish", "star"], "method": "clip_diy"}

    def offered() -> str:
        page.own_method()  # as when the page is loaded
        return page.segment(body)["command"].split()[1]

    assert offered() == "relabel"
    assert page.segment({**body, "method": "maskclip"})["command"].split()[1] == "annotate"
    file = sorted((kept / folder).iterdir())[1]
    away = kept.parent / file.name
    shutil.move(file, away)  # one of the two shards
    assert offered() == "annotate"
    shutil.move(away, file)
    assert offered() == "relabel"


def test_word_with_a_comma_is_refused_before_the_image_is_encoded(tmp_path):
    page = TryPage(ReviewSession(make_run(tmp_path, [Scene("a.png", label_map(0))])))
    body = {"source": "run", "id": "id-a.png", "words": ["cat", "a, b"], "method": "clip_diy"}
    with pytest.raises(UserError, match="without commas"):
        page.segment(body)
