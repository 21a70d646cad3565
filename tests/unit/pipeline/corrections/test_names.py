"""Images and labels of a run, found by the names in a tool's file."""

import base64
import time
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corrections.names import LabelNames, match_names

CAMERAS = ("1.png", "cam1/1.png", "cam1/2.png", "cam2/1.png")
MIXED = ("photos/a.png", "b c/ü.png", "d.png", "x.jpg", "x.png")


def _found(paths: tuple[str, ...], *names: str | tuple[str, ...]) -> list[str | None]:
    files = [(name,) if isinstance(name, str) else name for name in names]
    matches = match_names(paths, files)
    return [match and match.path for match in matches.found]


def _fileuri(uri: str) -> str:
    return "/tasks/7/resolve/?fileuri=" + base64.urlsafe_b64encode(uri.encode()).decode()


@pytest.mark.parametrize(
    ("name", "expected", "how"),
    [
        ("photos/a.png", "photos/a.png", ""),
        ("b c/u\u0308.png", "b c/ü.png", ""),
        ("./photos//a.png", "photos/a.png", ""),
        ("Photos/A.PNG", "photos/a.png", "letter case"),
        ("photos/a.jpeg", "photos/a.png", "another suffix"),
        ("/data/images/photos/a.png", "photos/a.png", "without the folder data/images/"),
        ("photos__a.png", "photos/a.png", "flat name"),
        ("a.png", "photos/a.png", "base name only"),
        ("e/d.png", "d.png", "base name only"),
        ("photos\\a.png", "photos/a.png", "Windows separators"),
        ("C:\\job\\photos\\a.png", "photos/a.png", "Windows separators, without the folder job/"),
        ("b%20c/%C3%BC.png", "b c/ü.png", "percent quoting"),
        ("/data/upload/3/0a1b2c3d-d.png", "d.png", "upload prefix, base name only"),
        ("0a1b2c3d-%C3%BC.png", "b c/ü.png", "percent quoting, upload prefix, base name only"),
        ("a_png.rf.5d41402abc4b2a76b9719d911017c592.jpg", "photos/a.png",
         "Roboflow's name, base name only"),
        ("/data/local-files/?d=photos/a.png", "photos/a.png", "URL"),
        (_fileuri("s3://bucket/set/photos/a.png"), "photos/a.png",
         "fileuri, URL, without the folder set/"),
        ("x.jpg", "x.jpg", ""),
        ("x.bmp", None, None),
        ("e.png", None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_find_image_by_names_of_every_tool(name, expected, how):
    (match,) = match_names(MIXED, [(name,)]).found
    assert (match and match.path, match and match.how) == (expected, how)


def test_first_known_name_counts():
    assert _found(MIXED, ("nothing", "d.png")) == ["d.png"]
    assert _found(MIXED, ("new_jpg.rf.1a.jpg", "d.png")) == ["d.png"]


def test_base_name_counts_only_if_unique_on_both_sides():
    assert _found(CAMERAS, "1.png") == ["1.png"]
    assert _found(CAMERAS, "cam9/1.png") == [None]
    assert _found(CAMERAS, "x/2.png") == ["cam1/2.png"]
    assert _found(CAMERAS, "x/2.png", "y/2.png") == [None, None]
    assert _found(CAMERAS, "cam1/2.png", "y/2.png") == ["cam1/2.png", None]
    assert _found(("x.png", "x.jpg"), "y/x.bmp") == [None]
    assert match_names(CAMERAS, [("cam9/1.png",), ("new.png",)]).ambiguous == (0,)


def test_a_name_that_a_tool_has_cut_is_not_taken_for_the_image_in_the_root():
    cut = ("1.png", "1.png", "1.png", "2.png")  # of a tool that drops folders
    assert _found(CAMERAS, *cut) == [None, None, None, "cam1/2.png"]
    assert match_names(CAMERAS, [(name,) for name in cut]).ambiguous == (0, 1, 2)
    # Folders in the file, one such name, or one such image: the name is what it says.
    assert _found(CAMERAS, "1.png", "1.png", "cam1/2.png") == ["1.png", "1.png", "cam1/2.png"]
    assert _found(CAMERAS, "1.png") == ["1.png"]
    assert _found(("1.png", "a/2.png"), "1.png", "1.png") == ["1.png", "1.png"]


def test_folders_are_stripped_only_if_the_strip_fits_the_whole_file():
    whole = [f"set/a/{path}" for path in CAMERAS]
    assert _found(CAMERAS, *whole) == list(CAMERAS)
    some = ["set/cam1/1.png", "set/cam9/1.png", "set/new.png"]
    assert _found(CAMERAS, *some) == ["cam1/1.png", None, None]
    # In the root of the run, but no folder speaks for it.
    assert _found(CAMERAS, "cam9/1.png", "cam9/2.png") == [None, "cam1/2.png"]
    assert _found(CAMERAS, "set/1.png", "set/cam1/1.png", "set/cam9/1.png")[:2] == [
        None,
        "cam1/1.png",
    ]
    assert _found(CAMERAS, "a/cam1/1.png", "b/cam2/1.png") == [None, None]


def test_folder_that_all_images_of_the_run_share_may_be_left_out():
    paths = tuple(f"2026/may/{path}" for path in CAMERAS)
    assert _found(paths, *CAMERAS) == list(paths)
    assert _found(paths, *(f"images/{path}" for path in CAMERAS)) == list(paths)


def test_image_with_a_close_name_is_not_found_again_by_a_loose_one():
    assert _found(("a.png", "b.png"), "a.png", "A.PNG", "a.bmp") == ["a.png", None, None]
    assert _found(("a.png",), "a.png", "a.png") == ["a.png", "a.png"]
    assert _found(("é.png", "e\u0301.png"), "é.png", "e\u0301.png") == ["é.png", "e\u0301.png"]
    assert _found(("back\\slash.png", "back/slash.png"), "back\\slash.png") == ["back\\slash.png"]


def test_no_path_of_a_run_is_taken_for_another_under_any_rewriting():
    paths = (*CAMERAS, *MIXED, "Photos/a.png", "b%20c.png", "q?d=1.png", "0a1b2c3d-d.png")
    for before in ("", "/", "./", "images/default/", "C:\\x\\"):
        rewritten = [before + path for path in paths]
        found = _found(paths, *rewritten)
        assert all(match in (None, path) for match, path in zip(found, paths, strict=True)), before
        assert None not in found, before


NAMES = st.text(st.sampled_from("ab1Éé \\%2_-.#?&=d"), min_size=1, max_size=6)
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), min_size=1, unique=True)
REWRITES = (
    str,
    lambda path: f"images/default/{path}",
    lambda path: path.replace("/", "\\"),
    lambda path: path.upper(),
    lambda path: quote(path),
    lambda path: f"/data/local-files/?d={quote(f'set/{path}')}",
    lambda path: _fileuri(f"s3://bucket/{path}"),
    lambda path: unicodedata.normalize("NFD", path),
    lambda path: f"{path.rpartition('/')[0]}/0a1b2c3d-{path.rpartition('/')[2]}",
    lambda path: path.rpartition("/")[2],
    lambda path: f"{path}.jpg",
)


@given(PATHS, st.sampled_from(REWRITES), st.randoms())
def test_no_image_is_taken_for_another_however_a_tool_rewrites_names(paths, rewrite, random):
    chosen = random.sample(paths, random.randint(1, len(paths)))
    found = match_names(paths, [(rewrite(path),) for path in chosen]).found
    if rewrite is str:
        assert [match and match.path for match in found] == chosen
    if len(chosen) == len(paths):
        wrong = [
            (path, match.path)
            for path, match in zip(chosen, found, strict=True)
            if match is not None and match.path != path and rewrite(path) not in paths
        ]
        assert not wrong


def test_find_label_ignores_case_and_names_a_near_one():
    labels = LabelNames(["cat", "Cat ", "é", "object"])
    assert [labels.find(name) for name in ("cat", "Cat ", " E\u0301", "cow")] == [1, 2, 3, None]
    assert [labels.near(name) for name in ("Objects", "zebra")] == ["object", None]


def test_names_of_many_folders_are_compared_in_linear_time():
    """Folder by folder this took gigabytes for one name, and hours for some hundred."""
    deep = "a/" * 4000
    paths = ["x/1.png", "y/2.png", "3.png"]
    files = [(f"{deep}{k}.png",) for k in range(300)]
    begin = time.process_time()
    found = match_names(paths, files).found
    assert time.process_time() - begin < 5
    assert [match and match.path for match in found[:4]] == [None, "x/1.png", "y/2.png", "3.png"]


def test_one_value_of_an_address_is_a_name_of_its_image():
    query = "&".join(f"d=photos/{k}.png" for k in range(2000))
    found = match_names(["photos/0.png", "photos/1.png"], [(f"/data/local-files/?{query}",)]).found
    assert found[0] is not None
    assert found[0].path == "photos/0.png"
