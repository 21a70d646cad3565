"""Uploads and requests of the try page."""

import io

import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.review.session import ReviewSession
from pipeline.review.try_page import MAX_UPLOAD_BYTES, TryPage, Uploads
from schemas.config import ImageConfig
from schemas.errors import ImageError, UserError
from tests.helpers.drawn_runs import Scene, label_map, make_run
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
