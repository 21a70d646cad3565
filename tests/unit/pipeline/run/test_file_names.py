"""Names of files for images: unique, stable, and short enough for a disk."""

from pathlib import Path

import numpy as np

from pipeline.run.file_names import FileNames, flat_name
from pipeline.run.folder import RunFolder
from tests.helpers.drawn_runs import RunSpec, Scene, grow_run, make_run


def test_names_without_suffix_are_unique_and_independent_of_what_is_finished(
    tmp_path: Path,
) -> None:
    paths = ["a.jpg", "a.png", "a.jpg.tif", "b/c.v2.JPG", "b/c.jpg", "d"]
    scenes = [Scene(path, np.ones((4, 5), np.uint16)) for path in paths]
    run = make_run(tmp_path, scenes, RunSpec(unfinished=(0, 1)))
    reports: list[tuple[str, str]] = []
    names = FileNames(run, lambda what, name: reports.append((what, name)))
    expected = ["a.jpg", "a.png", "a.jpg.tif", "b/c.v2", "b/c", "d"]
    assert [names.of_image(path) for path in paths] == expected
    kept = "file names keep the image's ending: another image has the same stem"
    assert reports == [(kept, path) for path in paths[:3]]


def test_names_that_differ_in_case_only_are_named(tmp_path: Path) -> None:
    paths = ["Sub/a.png", "sub/A.jpg", "sub/b.png"]
    said: list[tuple[str, str]] = []
    run = make_run(tmp_path, [Scene(path, np.ones((4, 5), np.uint16)) for path in paths])
    names = FileNames(run, lambda what, name: said.append((what, name)))
    assert [names.of_image(path) for path in paths] == ["Sub/a", "sub/A", "sub/b"]
    assert [name for what, name in said if "differ in case only" in what] == paths[:2]


def test_unused_names_are_those_of_the_other_images(tmp_path: Path) -> None:
    scenes = [Scene(f"{name}.png", np.ones((4, 5), np.uint16)) for name in "abc"]
    names = FileNames(make_run(tmp_path, scenes), lambda what, name: None)
    names.of_image("b.png")
    assert sorted(names.unused()) == ["a", "c"]


def test_files_of_images_that_are_gone_or_have_another_name_now_are_unused(tmp_path: Path) -> None:
    def scene(path: str) -> Scene:
        return Scene(path, np.ones((4, 5), np.uint16))

    run = make_run(tmp_path, [scene("a.jpg"), scene("b.png"), scene("c.png")])
    names = FileNames(run, lambda what, name: None)
    assert [names.of_image(path) for path in ("a.jpg", "b.png", "c.png")] == ["a", "b", "c"]
    assert list(names.unused()) == []
    grown = grow_run(run, [scene("a.png")], vanished={"b.png"})
    for now in (grown, RunFolder.open(f"{run.folder.uri}@1")):
        names = FileNames(now, lambda what, name: None)
        named = {path: names.of_image(path) for path in now.manifest()["path"].to_pylist()}
        assert (named["a.jpg"], named["c.png"]) == ("a.jpg", "c")
        assert "a" in set(names.unused())
    assert "b" not in set(names.unused())  # of generation 1
    names = FileNames(grown, lambda what, name: None)
    assert "b" in set(names.unused())


def test_flat_names_are_unique() -> None:
    paths = [
        "a/b.jpg",
        "a__b.jpg",
        "a_/b.jpg",
        "a/_b.jpg",
        "a/__b.jpg",
        "a__/b.jpg",
        "a/b/c",
        "_/_",
    ]
    names = [flat_name(path) for path in paths]
    assert len(set(names)) == len(paths)
    assert names[0] == "a__b.jpg"
    assert all(name.endswith(".jpg") for name in names[:6])


def test_flat_names_of_deep_folders_fit_a_disk() -> None:
    paths = [f"{'猫/' * 100}{number}.jpg" for number in range(3)]
    names = [flat_name(path) for path in paths]
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= 255 and name.endswith(".jpg") for name in names)
    assert len(flat_name("d/a." + "x" * 253).encode()) <= 255


def test_names_that_leave_no_room_for_a_suffix_are_shortened(tmp_path: Path) -> None:
    paths = [
        *("ü" * 125 + ".png", "ü" * 124 + "nn.png", "n" * 239 + ".jpg", "s/" + "n" * 251 + ".png"),
        *("m" * 248 + ".jpg", "m" * 248 + ".png", "short.png"),
    ]
    said: list[tuple[str, str]] = []
    scenes = [Scene(path, np.ones((4, 5), np.uint16)) for path in paths]
    run = make_run(tmp_path, scenes)
    names = FileNames(run, lambda what, name: said.append((what, name)))
    found = [names.of_image(path) for path in paths]
    assert len(set(found)) == len(found)
    assert all(len(name.rpartition("/")[2].encode()) + len(".json") <= 255 for name in found)
    assert (found[2], found[-1]) == ("n" * 239, "short")
    shortened = {name.partition(" is ")[0] for what, name in said if "shortened" in what}
    assert shortened == {paths[0], paths[1], paths[3], paths[4], paths[5]}
