"""Images that are read and decoded in threads, in order and within a bound."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from ovseg_core.images.batch import to_tensor
from pipeline.annotate.observer import Observer
from pipeline.annotate.prefetch import load_image, map_ahead
from pipeline.annotate.rows import FailedImage
from pipeline.collection.read_ahead import ReadAhead
from schemas.config import ImageConfig
from schemas.errors import ErrorCode
from schemas.records import ImageRef
from tests.helpers.places import ANYWHERE


def ref_of(path):
    return ImageRef(image_id="id", path=path.name, uri=str(path))


def test_load_image_returns_pixels_and_seconds(tmp_path):
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = load_image(
        ref_of(tmp_path / "a.png"),
        ImageConfig(),
        ReadAhead(ANYWHERE),
        side_px=0,
        observer=Observer(),
    )
    tensor = to_tensor(loaded.image.rgb)
    assert tensor.shape == (3, 5, 7)
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), pixels)
    assert loaded.seconds.read_s > 0
    assert loaded.seconds.decode_s > 0


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, ErrorCode.NOT_FOUND), (b"", ErrorCode.EMPTY_FILE), (b"text", ErrorCode.NOT_AN_IMAGE)],
)
def test_load_image_returns_failures(tmp_path, content, code):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    failed = load_image(
        ref_of(tmp_path / "a.png"),
        ImageConfig(),
        ReadAhead(ANYWHERE),
        side_px=0,
        observer=Observer(),
    )
    assert isinstance(failed, FailedImage)
    assert failed.error.code is code


def test_map_ahead_keeps_the_order_and_the_bound():
    lock, started, taken, most = threading.Lock(), 0, 0, 0

    def work(item):
        nonlocal started, most
        with lock:
            started += 1
            most = max(most, started - taken)
        time.sleep(0.001 * (item % 3))
        return item * item

    results = []
    for value in map_ahead(work, range(50), threads=8, depth=5):
        with lock:
            taken += 1
        results.append(value)
    assert results == [item * item for item in range(50)]
    assert most <= 5 + 1  # the one that is being handed over counts too


def test_map_ahead_stops_when_its_reader_does():
    started = []
    stream = map_ahead(lambda item: started.append(item), range(1000), threads=2, depth=4)
    next(stream)
    stream.close()
    assert len(started) < 10


@pytest.mark.parametrize("error", [ValueError("bad"), KeyError("odd")])
def test_map_ahead_raises_what_its_work_raises(error):
    def work(item):
        if item == 3:
            raise error
        return item

    with pytest.raises(type(error)):
        list(map_ahead(work, range(6), threads=2, depth=2))
