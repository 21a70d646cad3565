"""An image is read by its reference, whichever table the reference comes from."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.collection.image_source import read_bytes, read_image
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError
from schemas.records import ImageRef
from tests.helpers.image_files import encoded, picture, with_orientation
from tests.helpers.places import ANYWHERE


@pytest.fixture
def ref(tmp_path: Path) -> ImageRef:
    """Return the reference of an image that shows `picture()` upright and is stored turned."""
    data = with_orientation(6, kind="PNG")
    (tmp_path / "a.png").write_bytes(data)
    uri = str(tmp_path / "a.png")
    return ImageRef(image_id="a", path="a.png", uri=uri, size_bytes=len(data))


def test_read_image_returns_upright_pixels(ref: ImageRef) -> None:
    image = read_image(ref, ImageConfig(), ANYWHERE)
    assert (image.height, image.width, image.exif_orientation) == (24, 40, 6)
    assert np.array_equal(image.rgb, picture())


def test_read_image_reduces_a_jpeg(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture(240, 400), "JPEG"))
    ref = ImageRef(image_id="a", path="a.jpg", uri=str(tmp_path / "a.jpg"))
    image = read_image(ref, ImageConfig(), ANYWHERE, side_px=60)
    assert (image.height, image.width) == (240, 400)
    assert image.rgb.shape == (60, 100, 3)


def test_read_bytes_returns_the_file(ref: ImageRef) -> None:
    assert read_bytes(ref, 0, ANYWHERE) == Path(ref.uri).read_bytes()


@pytest.mark.parametrize(
    ("content", "limits", "code"),
    [
        (None, {}, ErrorCode.NOT_FOUND),
        (b"", {}, ErrorCode.EMPTY_FILE),
        (b"text", {}, ErrorCode.NOT_AN_IMAGE),
        (encoded(picture()), {"max_bytes": 9}, ErrorCode.TOO_LARGE),
        (encoded(picture()), {"max_pixels": 9}, ErrorCode.TOO_LARGE),
    ],
)
def test_read_image_says_what_is_wrong(
    tmp_path: Path, content: bytes | None, limits: dict[str, int], code: ErrorCode
) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    ref = ImageRef(image_id="a", path="a.png", uri=str(tmp_path / "a.png"))
    with pytest.raises(ImageError) as caught:
        read_image(ref, ImageConfig(**limits), ANYWHERE)
    assert caught.value.code == code
