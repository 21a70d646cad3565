"""A file's format is told by its content, whatever its name is."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_core.images.decoding.decode import decode
from ovseg_core.images.decoding.formats import KNOWN_FORMATS, accepts, missing_decoders
from schemas.config import ImageConfig
from schemas.errors import ImageError


def picture() -> Image.Image:
    rows, columns = np.mgrid[:24, :36]
    return Image.fromarray(np.stack([rows * 10, columns * 7, rows + columns], 2).astype(np.uint8))


def saved(name: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture().save(file, name, **options)
    return file.getvalue()


FILES = {name: saved(name) for name in ("JPEG", "PNG", "BMP", "DIB", "TIFF", "GIF", "PPM", "TGA")}
FILES["TGA"] = saved("TGA", compression="tga_rle")
PLAIN_TGA = saved("TGA")[: 18 + 24 * 36 * 3]  # version 1 of the format has no footer


@pytest.mark.parametrize("name", FILES)
def test_content_has_one_format(name: str) -> None:
    assert next(other for other in KNOWN_FORMATS if accepts(other, FILES[name])) == name
    image = decode(FILES[name], ImageConfig())
    assert image.rgb.shape == (24, 36, 3)
    assert abs(image.rgb.astype(int) - np.asarray(picture())).mean() < 12


def test_targa_without_footer_is_read_and_other_bytes_are_not() -> None:
    assert decode(PLAIN_TGA, ImageConfig()).rgb.shape == (24, 36, 3)
    noise = np.random.default_rng(0)
    for length in (1, 3, 18, 400):
        for _ in range(200):
            data = noise.integers(0, 256, length, np.uint8).tobytes()
            assert not accepts("TGA", data) or length == 400
    with pytest.raises(ImageError, match="not_an_image"):
        decode(b"# notes\nnothing of an image here\n" * 40, ImageConfig())


@pytest.mark.parametrize(("name", "package"), [("HEIF", "pillow_heif"), ("JXL", "pillow_jxl")])
def test_formats_of_the_extras(name: str, package: str) -> None:
    pytest.importorskip(package, reason=f"the extra that brings {package} is not installed")
    data = saved(name, quality=90)
    assert [other for other in KNOWN_FORMATS if accepts(other, data)] == [name]
    image = decode(data, ImageConfig())
    assert abs(image.rgb.astype(int) - np.asarray(picture())).mean() < 12
    assert not {".heic", ".jxl"} & missing_decoders().keys()


def test_an_extra_that_does_not_load_is_a_hint_and_no_end(tmp_path: Path) -> None:
    for package in ("pillow_heif", "pillow_jxl"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('libx.so is missing')")
    code = (
        "from ovseg_core.images.decoding import formats as f\n"
        "print(f.KNOWN_FORMATS[-1], f.missing_decoders()['.heic'], f.missing_decoders()['.jxl'])"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for extra, package in (("heif", "pillow_heif"), ("jxl", "pillow_jxl")):
        hint = f"pip install 'ovseg[{extra}]'; {package} is here but does not load: ImportError"
        assert f"{hint}: libx.so is missing" in done.stdout, done.stderr
    assert done.stdout.startswith("TGA")


def test_heif_of_the_general_brand_is_not_taken_for_avif() -> None:
    pytest.importorskip("pillow_heif", reason="the extra `heif` is not installed")
    data = saved("HEIF")
    general = data.replace(b"ftypheic", b"ftypmif1", 1)
    assert not accepts("AVIF", general)
    assert decode(general, ImageConfig()).rgb.shape == (24, 36, 3)
