"""Neighbours in an archive come by one request; whatever is asked for, the bytes are right."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.collection import read_ahead
from pipeline.collection.collect import collect
from pipeline.collection.read_ahead import ReadAhead
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError
from schemas.records import ImageRef
from schemas.tables import to_records
from tests.helpers.packed_images import FileServer, drawn, samples_of, serving_files, tar_bytes
from tests.helpers.places import ANYWHERE

NUM_IMAGES = 60


@pytest.fixture
def served(tmp_path: Path) -> Iterator[FileServer]:
    with serving_files(tmp_path) as server:
        yield server


@pytest.fixture
def refs(tmp_path: Path, served: FileServer) -> list[ImageRef]:
    """Return the images of a tar at a web address."""
    (tmp_path / "x.tar").write_bytes(tar_bytes(samples_of(0, NUM_IMAGES)))
    table = collect(f"{served.url}/x.tar", ImageConfig())
    served.ranges.clear()
    return list(to_records("manifest", table))


def read(ahead: ReadAhead, refs: list[ImageRef], threads: int = 4) -> list[bytes]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda ref: ahead.read_bytes(ref, 10**6), refs))


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_neighbours_are_fetched_by_one_request(
    refs: list[ImageRef], served: FileServer, is_shuffled: bool
) -> None:
    numbers = list(range(NUM_IMAGES))
    if is_shuffled:
        random.Random(0).shuffle(numbers)
    ahead = ReadAhead(ANYWHERE)
    ahead.expect([refs[number] for number in numbers])
    images = read(ahead, [refs[number] for number in numbers])
    assert images == [drawn(number) for number in numbers]
    assert len(served.ranges) == 1


def test_images_that_begin_the_next_shard_are_fetched_once(
    refs: list[ImageRef], served: FileServer
) -> None:
    ahead = ReadAhead(ANYWHERE)
    ahead.expect(refs[:23])
    assert read(ahead, refs[:23]) == [drawn(number) for number in range(23)]
    ahead.expect(refs[20:40])
    assert read(ahead, refs[23:40]) == [drawn(number) for number in range(23, 40)]
    assert len(served.ranges) == 2
    first_of_second = served.ranges[1].partition("=")[2].partition("-")[0]
    assert f"#tar={int(first_of_second) + 512}+" in refs[23].uri


def test_an_image_that_was_not_announced_is_read_alone(
    refs: list[ImageRef], served: FileServer
) -> None:
    ahead = ReadAhead(ANYWHERE)
    ahead.expect(refs[:5])
    found = read(ahead, [refs[9], refs[1], refs[1]], threads=1)
    assert found == [drawn(9), drawn(1), drawn(1)]
    assert len(served.ranges) == 3


def test_spans_and_what_is_held_are_bounded(
    refs: list[ImageRef], served: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "MAX_SPAN_BYTES", 20_000)
    ahead = ReadAhead(ANYWHERE)
    ahead.expect(refs)
    assert read(ahead, refs) == [drawn(number) for number in range(NUM_IMAGES)]
    sizes = [int(last) - int(first) + 1 for first, last in map(range_of, served.ranges)]
    assert max(sizes) <= 20_000
    assert len(sizes) < NUM_IMAGES / 2
    monkeypatch.setattr(read_ahead, "MAX_HELD_BYTES", 30_000)
    served.ranges.clear()
    again = ReadAhead(ANYWHERE)
    again.expect(refs)
    assert read(again, refs[::-7], threads=1) == [drawn(number) for number in range(59, -1, -7)]
    sizes = [int(last) - int(first) + 1 for first, last in map(range_of, served.ranges)]
    assert sum(size > 10_000 for size in sizes) == 1


def range_of(header: str) -> list[str]:
    return header.partition("=")[2].split("-")


def test_one_image_that_is_gone_takes_no_other_with_it(
    refs: list[ImageRef], tmp_path: Path
) -> None:
    data = bytearray((tmp_path / "x.tar").read_bytes())
    place = int(refs[3].uri.partition("=")[2].partition("+")[0])
    data[place - 512 : place] = bytes(512)
    (tmp_path / "x.tar").write_bytes(data[: int(refs[50].uri.partition("=")[2].partition("+")[0])])
    ahead = ReadAhead(ANYWHERE)
    ahead.expect(refs)
    for number, ref in enumerate(refs[:51]):
        if number in (3, 50):
            with pytest.raises(ImageError) as caught:
                ahead.read_bytes(ref, 10**6)
            expected = ErrorCode.NOT_FOUND if number == 3 else ErrorCode.TRUNCATED
            assert caught.value.code is expected
        else:
            assert ahead.read_bytes(ref, 10**6) == drawn(number)
