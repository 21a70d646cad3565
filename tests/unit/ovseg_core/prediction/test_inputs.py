import numpy as np
import pytest
from PIL import Image

from ovseg_core.images.decoding.decode import decode
from ovseg_core.prediction.inputs import content_key, pixels_of
from schemas.config import ImageConfig
from schemas.errors import ImageError
from tests.helpers.icc_profiles import SWAPPED
from tests.helpers.image_files import encoded, picture, rgba, with_orientation

CONFIG = ImageConfig()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_orientation(6), id="turned by EXIF"),
        pytest.param(encoded(picture(), "PNG", icc_profile=SWAPPED), id="colour profile"),
        pytest.param(encoded(rgba(), "PNG"), id="transparent"),
        pytest.param(encoded(Image.fromarray(picture()).convert("CMYK"), "TIFF"), id="CMYK"),
    ],
)
def test_an_opened_image_has_the_pixels_that_its_file_has(data, tmp_path):
    (tmp_path / "image").write_bytes(data)
    with Image.open(tmp_path / "image") as image:
        ours = pixels_of(image, CONFIG, side_px=0)
    file = decode(data, CONFIG)
    np.testing.assert_array_equal(ours.rgb, file.rgb)
    assert (ours.height, ours.width) == (file.height, file.width)


def test_deep_numbers_of_an_opened_image_are_left_to_the_file():
    with pytest.raises(ImageError, match="give the file's path"):
        pixels_of(Image.new("I;16", (4, 6)), CONFIG, side_px=0)


def test_max_pixels_counts_for_opened_images_too():
    with pytest.raises(ImageError, match=r"more than image\.max_pixels"):
        pixels_of(Image.new("RGB", (40, 60)), ImageConfig(max_pixels=2000), side_px=0)


def test_a_grey_array_is_an_image():
    grey = picture()[..., 0]
    assert pixels_of(grey, CONFIG, side_px=0).rgb.tolist() == np.dstack([grey] * 3).tolist()


def test_other_pixels_have_another_key():
    pixels = picture()
    other = pixels.copy()
    other[3, 5, 1] ^= 1
    assert content_key(pixels) == content_key(pixels.copy())
    assert len({content_key(one) for one in (pixels, other, pixels[:, ::-1])}) == 3
    opened = Image.fromarray(pixels)
    turned = Image.fromarray(pixels)
    turned.info["exif"] = b"Exif"
    assert content_key(opened) != content_key(turned)
