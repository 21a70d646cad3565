"""Lists of a run's images: written, read again, taken by other commands."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.collection.collect import collect
from pipeline.curation.image_lists import (
    FILES,
    list_name,
    listed_images,
    lists_of,
    read_run_list,
    write_list,
)
from pipeline.curation.images import annotated_images
from pipeline.run.folder import RunFolder
from schemas.config import ImageConfig
from schemas.errors import ConfigError, UserError
from tests.helpers.drawn_runs import Scene, label_map, make_run, odd_scenes


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, odd_scenes())


def test_list_names_the_images_under_the_paths_of_the_run(run: RunFolder, tmp_path: Path):
    images = annotated_images(run)
    places = np.array([4, 0, 7])
    paths = images.paths.take(places).to_pylist()
    for out in ("", str(tmp_path / "mine.csv")):
        place = write_list(images, places, {"note": ["a", "b", "c"]}, "sample-doubt", out)
        assert place == (out or f"{run.folder.uri}/exports/lists/sample-doubt.csv")
        with Path(place).open(encoding="utf-8", newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == paths
        listed = collect(place, ImageConfig())
        assert sorted(listed["path"].to_pylist()) == sorted(paths)
        assert all(Path(uri).is_file() for uri in listed["uri"].to_pylist())
        ids = images.table["image_id"].take(places).to_pylist()
        assert listed_images(run, place) == frozenset(ids)
    assert list(lists_of(run)) == ["sample-doubt"]
    assert read_run_list(run, "sample-doubt") == dict(zip(paths, "abc", strict=True))


def test_list_of_addresses_alone_is_known_by_them(run: RunFolder, tmp_path: Path):
    images = annotated_images(run)
    out = write_list(images, np.array([1, 2]), {"note": ["", ""]}, "x", str(tmp_path / "a.txt"))
    assert len(Path(out).read_text("utf-8").splitlines()) == 2
    ids = images.table["image_id"].take(np.array([1, 2])).to_pylist()
    assert listed_images(run, out) == frozenset(ids)


def test_wrong_lists_are_refused_and_unknown_names_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    images = annotated_images(run)
    with pytest.raises(ConfigError, match=r"ends in \.csv or \.txt"):
        write_list(images, np.array([0]), {}, "x", str(tmp_path / "a.xlsx"))
    with pytest.raises(UserError, match="no such list"):
        listed_images(run, str(tmp_path / "gone.csv"))
    with pytest.raises(UserError, match="expected a list of images"):
        listed_images(run, str(tmp_path / "a.png"))
    some = tmp_path / "some.csv"
    some.write_text("uri,path\nx/1.png,1.png\nx/a.png,a.png\nx/b.png,b.png\n", "utf-8")
    assert listed_images(run, str(some)) == {"id-1.png"}
    assert "2 images not of the run: a.png, b.png" in caplog.text
    some.write_text("uri,path\nx/a.png,a.png\n", "utf-8")
    with pytest.raises(UserError, match=r"names no image of .*run \(but a\.png\)"):
        listed_images(run, str(some))


def test_names_of_lists_are_plain():
    assert list_name("sample", "doubt") == "sample-doubt"
    assert list_name("search", "A Red/Fish?!") == "search-a-red-fish"
    for words in ("猫", "../../猫", "красная рыба", "a 🐟", "caf\udce9", "x" * 500):
        name = list_name("search", words)
        assert re.fullmatch(FILES, f"{name}.csv"), words
        assert re.search("^search.*-[0-9a-f]{6}$", name), words


def test_no_two_searches_have_one_list():
    words = ["猫", "犬", "красная рыба", "fish", "fish 猫", "🐟", "x" * 60, "x" * 61]
    assert len({list_name("search", one) for one in words}) == len(words)
    assert list_name("search", "Café") == list_name("search", "cafe\u0301")
