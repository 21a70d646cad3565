"""Pictures for the browser: their size, and how long they are kept."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.review.index import ReviewIndex
from pipeline.review.pictures import Pictures, thumbnail_size
from pipeline.run.images import RunImages
from schemas.errors import ImageError
from tests.helpers.drawn_runs import Scene, label_map, make_run


@pytest.fixture
def index(tmp_path) -> ReviewIndex:
    return ReviewIndex(make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)]))


def test_picture_is_made_once_for_all_requests(index):
    pictures = Pictures(index, RunImages(index.run))
    together = threading.Barrier(6)

    def get(_: int) -> bytes:
        together.wait(20)
        return pictures.get(0, "large")

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(get, range(6)))
    assert all(one is made[0] for one in made)


def test_pictures_are_kept_up_to_a_limit(index, tmp_path):
    sizes = [len(Pictures(index, RunImages(index.run)).get(row, "small")) for row in range(3)]
    pictures = Pictures(index, RunImages(index.run), kept_bytes=sum(sizes) - 1)
    _, second, third = (pictures.get(row, "small") for row in (0, 1, 2))
    for file in (tmp_path / "photos").iterdir():
        file.unlink()
    assert (pictures.get(1, "small"), pictures.get(2, "small")) == (second, third)
    with pytest.raises(ImageError, match=r"0\.png"):  # the oldest was dropped
        pictures.get(0, "small")
    too_small = Pictures(index, RunImages(index.run), kept_bytes=1)
    assert too_small.get(1, "segments") == too_small.get(1, "segments")


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [
        ((100, 50), (100, 50)),
        ((4000, 2000), (360, 180)),
        ((1, 9000), (1, 360)),
        ((360, 1), (360, 1)),
    ],
)
def test_thumbnail_size_never_enlarges(size_hw, expected):
    assert thumbnail_size(size_hw, 360) == expected
