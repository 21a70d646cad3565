"""What a collection takes in, and how it says that there is nothing to take."""

import json
import logging
import os
import tempfile
import unicodedata
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipeline.collection.collect import collect
from pipeline.collection.left_out import describe, left_out_of
from pipeline.collection.rows import image_id
from pipeline.storage.folder import Folder, read_image_file
from schemas.config import ImageConfig
from schemas.errors import CollectionError, ConfigError, UserError
from schemas.tables import MANIFEST
from tests.helpers.image_files import write_image_files
from tests.helpers.places import ANYWHERE

CONFIG = ImageConfig()
TREE = [
    "b.JPG",
    "a.png",
    "sub/c.webp",
    "sub/deep/d #1 100%.jpeg",
    "sub/ü.tif",
    ".hidden.jpg",
    ".git/e.jpg",
    "sub/.cache/f.jpg",
    "notes.txt.bak",
    "sub/README",
]
FOUND = ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d #1 100%.jpeg", "sub/ü.tif"]


def paths(table: pa.Table) -> list[str]:
    return table.column("path").to_pylist()


def uris(table: pa.Table) -> list[str]:
    return table.column("uri").to_pylist()


@pytest.fixture(params=["local", "memory", "s3"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URI of a folder of files."""
    places = {"local": str(tmp_path / "my photos"), "memory": f"memory://{tmp_path.name}/photos"}
    uri = places.get(request.param) or request.getfixturevalue("s3_folder")
    for name in TREE:
        Folder(uri).atomic_write(name, name.encode())
    return uri


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_folder_is_searched_through(tree: str, ending: str) -> None:
    table = collect(f"{tree}{ending}", CONFIG)
    assert table.schema.equals(MANIFEST)
    assert paths(table) == FOUND
    assert uris(table) == [f"{tree}/{path}" for path in FOUND]
    assert table.column("size_bytes").to_pylist() == [len(path.encode()) for path in FOUND]
    assert table.column("image_id").to_pylist() == [image_id(path) for path in FOUND]
    assert all(table.column("etag").to_pylist()) == tree.startswith("s3:")


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    write_image_files(tmp_path / "x")
    table = collect(f"file://{tmp_path}/x", CONFIG)
    assert uris(table) == uris(collect(str(tmp_path / "x"), CONFIG))
    assert "name with space #1 100%~.png" in paths(table)


def test_ids_survive_a_move(tree: str, tmp_path: Path) -> None:
    table = collect(tree, CONFIG)
    moved = Folder(str(tmp_path / "moved"))
    for name in TREE:
        moved.atomic_write(name, b"1")
    assert collect(moved.uri, CONFIG).column("image_id").equals(table.column("image_id"))
    assert len(table.column("image_id")[0].as_py()) == 16


def test_the_limit_takes_the_first(tree: str) -> None:
    assert paths(collect(tree, ImageConfig(limit=2))) == FOUND[:2]
    assert paths(collect(tree, ImageConfig(limit=99))) == FOUND


@pytest.mark.parametrize(
    ("pattern", "root", "found"),
    [
        ("*.png", "", ["a.png"]),
        ("*", "", ["a.png", "b.JPG"]),
        ("sub/*", "sub", ["c.webp", "ü.tif"]),
        ("**/*.jpeg", "", ["sub/deep/d #1 100%.jpeg"]),
        ("sub/**", "sub", ["c.webp", "deep/d #1 100%.jpeg", "ü.tif"]),
        ("**/[a-b].*", "", ["a.png", "b.JPG"]),
        ("s?b/[!c]*.tif", "", ["sub/ü.tif"]),
        ("*.bak", "", ["notes.txt.bak"]),
    ],
)
def test_globs(tree: str, pattern: str, root: str, found: list[str]) -> None:
    table = collect(f"{tree}/{pattern}", CONFIG)
    assert paths(table) == found
    base = f"{tree}/{root}" if root else tree
    assert uris(table) == [f"{base}/{path}" for path in found]


def test_runs_inside_the_collection_are_left_out(tree: str) -> None:
    folder = Folder(tree)
    for name in ("my run/run.yaml", "my run/review/a.jpg", "my run.jpg"):
        folder.atomic_write(name, b"1")
    assert paths(collect(tree, CONFIG)) == sorted([*FOUND, "my run.jpg"])


def test_globs_with_odd_brackets(tmp_path: Path) -> None:
    for name in ("!a.png", "[a.png", "^a.png", "a.png"):
        (tmp_path / name).write_bytes(b"1")
    for pattern, found in (("[!]*", "!a.png"), ("[[]*", "[a.png"), ("[^]*", "^a.png")):
        assert paths(collect(f"{tmp_path}/{pattern}", CONFIG)) == [found]
    with pytest.raises(CollectionError, match="brackets that cannot be read"):
        collect(f"{tmp_path}/[z-a].png", CONFIG)


def test_one_file(tree: str) -> None:
    table = collect(f"{tree}/sub/c.webp", CONFIG)
    assert (paths(table), uris(table)) == (["c.webp"], [f"{tree}/sub/c.webp"])


def test_a_name_with_wildcards_that_exists_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1]?.png").write_bytes(b"1")
    (tmp_path / "a1x.png").write_bytes(b"1")
    assert paths(collect(str(tmp_path / "a[1]?.png"), CONFIG)) == ["a[1]?.png"]


@pytest.mark.parametrize("where", ["{}", "{}/", "{}/*", "{}/sub/*.jpg"])
def test_nothing_found_says_what_was_searched(tmp_path: Path, where: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/readme.md").write_text("x")
    with pytest.raises(CollectionError, match="no images under") as caught:
        collect(where.format(tmp_path), CONFIG)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "1 other files, for example" in message
    assert (".jpg" in message) == ("*.jpg" not in where)


def test_a_place_that_is_not_there(tmp_path: Path, s3_endpoint: str) -> None:
    for uri in (str(tmp_path / "typo"), "memory://typo", "s3://no-such-bucket/typo"):
        with pytest.raises(UserError, match=r"no images|check its spelling"):
            collect(uri, CONFIG)


def test_repeats_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text("x.jpg\ny.jpg\n./x.jpg\nx.jpg\n")
    with caplog.at_level(logging.WARNING):
        assert paths(collect(str(tmp_path / "a.txt"), CONFIG)) == ["x.jpg", "y.jpg"]
    assert "2 images are listed more than once" in caplog.text


def test_accents_written_in_two_ways(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    assert image_id(composed) == image_id(decomposed)
    for name in (composed, decomposed):
        (tmp_path / name).write_bytes(b"1")
    with pytest.raises(CollectionError, match="differ only in how accents are written"):
        collect(str(tmp_path), CONFIG)


ODD_NAMES = {
    b"caf%E9.png": "caf%E9.png",
    b"caf\xe9.png": "caf%25E9.png",  # the other name is taken
    b"100% d\xe9j\xe0/\xc3\xa9 1%.png": "100%25 d%E9j%E0/é 1%25.png",
    b"x.png": "x.png",
}


def write_odd_names(folder: Path) -> None:
    for name in ODD_NAMES:
        file = Path(os.fsdecode(bytes(folder) + b"/" + name))
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(name)


@pytest.mark.parametrize("folder", ["photos", os.fsdecode(b"b\xe9 #%/photos")])
def test_a_name_that_is_not_utf8_has_a_form_of_its_own_and_opens(
    tmp_path: Path, folder: str
) -> None:
    write_odd_names(tmp_path / folder)
    table = collect(str(tmp_path / folder), CONFIG)
    assert paths(table) == sorted(ODD_NAMES.values())
    found = dict(zip(paths(table), uris(table), strict=True))
    assert {read_image_file(found[path], ANYWHERE): path for path in found} == ODD_NAMES
    assert paths(collect(f"{tmp_path / folder}/caf?.png", CONFIG)) == ["caf%E9.png"]


def test_an_image_whose_name_is_not_utf8_can_be_given_and_listed(tmp_path: Path) -> None:
    write_odd_names(tmp_path)
    file = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    for given in (file, f"file+bytes://{tmp_path}/caf%E9.png"):
        table = collect(given, CONFIG)
        assert paths(table) == ["caf%E9.png"]
        assert uris(table) == [f"file+bytes://{tmp_path}/caf%E9.png"]
    listed = {"uri": f"file+bytes://{tmp_path}/caf%E9.png"}
    (tmp_path / "list.jsonl").write_text(json.dumps(listed))
    assert uris(collect(str(tmp_path / "list.jsonl"), CONFIG)) == [listed["uri"]]
    (tmp_path / "list.jsonl").write_text(json.dumps({"uri": "\ud800.png"}))
    with pytest.raises(CollectionError, match="no name has such characters"):
        collect(str(tmp_path / "list.jsonl"), CONFIG)


def test_a_password_is_refused() -> None:
    with pytest.raises(ConfigError, match="environment only"):
        collect("s3://me:secret@bucket/photos", CONFIG)


def test_many_images_in_order() -> None:
    names = [f"{index * 7919 % 70_001:06d}/x.jpg" for index in range(70_001)]
    folder = Folder("memory://many")
    folder.atomic_write("list.txt", "\n".join(names).encode())
    table = collect("memory://many/list.txt", CONFIG)
    assert paths(table) == sorted(names)
    assert table.column("path").num_chunks > 1


def test_a_split_file_picks_images_by_name(tree: str) -> None:
    names = "sub/ü\r\na\n\nsub/deep/d #1 100%\n"
    Folder(tree).atomic_write("splits/val.txt", names.encode())
    config = ImageConfig(only=f"{tree}/splits/val.txt", limit=2)
    assert paths(collect(tree, config)) == ["a.png", "sub/deep/d #1 100%.jpeg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\nb\nzebra\n", r"names 3 images, of which 1 are not there, .* 'zebra'.* such as 'a'"),
        (b"\n\n", "lists no names"),
        (b"\xff\xfe", "not UTF-8"),
        (None, "no such list of names"),
    ],
)
def test_wrong_split_files(tree: str, text: bytes | None, message: str) -> None:
    if text is not None:
        Folder(tree).atomic_write("splits/val.txt", text)
    with pytest.raises(CollectionError, match=message):
        collect(tree, ImageConfig(only=f"{tree}/splits/val.txt"))


def left_out(table: pa.Table) -> dict[str, int]:
    return {entry.what: entry.count for entry in left_out_of(table)}


def test_what_a_listing_leaves_out_is_counted(tree: str) -> None:
    assert left_out(collect(tree, CONFIG)) == {
        "hidden or in a run folder": 3,
        ".bak": 1,
        "without ending": 1,
    }
    everything = collect(tree, CONFIG.model_copy(update={"suffixes": ("*",)}))
    assert paths(everything) == sorted([*FOUND, "notes.txt.bak", "sub/README"])
    assert left_out(everything) == {"hidden or in a run folder": 3}


def test_names_with_as_many_endings_as_files_are_counted_together(tmp_path: Path) -> None:
    for name in ("a.png", "b.7z", *(f"scan.{number:04d}" for number in range(60)), "c.bak"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "d.bak").write_bytes(b"x")
    entries = left_out_of(collect(str(tmp_path), CONFIG))
    assert sum(entry.count for entry in entries) == 63
    assert len(entries) == 22
    assert (entries[0].what, entries[0].count) == (".bak", 2)
    assert (entries[-1].what, entries[-1].count) == ("with 41 other endings", 41)
    assert "1 .7z file (archives: unpack them)" in describe(entries)


def test_names_that_leave_their_folder_on_windows_are_left_out_and_counted(tmp_path: Path) -> None:
    for name in ("x.png", "..\\x.png", "a\\..\\..\\x.png", "\\x.png", "a\\b.png", "C:\\x.png"):
        (tmp_path / name).write_bytes(b"x")
    table = collect(str(tmp_path), CONFIG)
    assert paths(table) == ["a\\b.png", "x.png"]
    (windows,) = (entry for entry in left_out_of(table) if "Windows" in entry.what)
    assert windows.count == 3


def test_names_of_systems_and_own_globs_are_excluded(tree: str) -> None:
    folder = Folder(tree)
    for name in (
        "sub/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg",
        "__MACOSX/a.png",
        "Thumbs.db",
        "sub/deep/$Recycle.Bin/S-1-5-21/$R1A2B3C.jpg",
        "x@eaDir.png",
    ):
        folder.atomic_write(name, b"1")
    table = collect(tree, CONFIG)
    assert paths(table) == sorted([*FOUND, "x@eaDir.png"])
    assert left_out(table)["by image.exclude"] == 4
    config = CONFIG.model_copy(update={"exclude": ("sub/deep", "*.JPG")})
    assert paths(collect(f"{tree}/", config))[:2] == ["__MACOSX/a.png", "a.png"]
    assert not [path for path in paths(collect(tree, config)) if "deep" in path or "JPG" in path]


def test_common_endings_and_a_blank_at_the_end_are_taken(tmp_path: Path) -> None:
    names = [
        *["a.jfif", "b.JPE", "c.mpo", "d.jp2", "e.pgm", "f.tga", "g.dib", "h.apng"],
        "i.jpg ",
        "j.VDA",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    assert paths(collect(str(tmp_path), CONFIG)) == names


def test_links_to_nowhere_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "annex.png").symlink_to(".git/annex/objects/x.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    table = collect(str(tmp_path), CONFIG)
    assert paths(table) == ["a.png"]
    assert left_out(table) == {"dangling link": 2}
    assert "2 dangling links; for example annex.png" in describe(left_out_of(table))


def test_folder_that_may_not_be_read_is_counted_unless_it_is_the_root(tmp_path: Path) -> None:
    for folder in ("open", "closed"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(b"1")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    (tmp_path / "closed").chmod(0)
    is_root = os.geteuid() == 0
    if is_root:  # who may read everything
        os.seteuid(65534)
    try:
        table = collect(str(tmp_path), CONFIG)
        with pytest.raises(UserError, match="closed"):
            collect(str(tmp_path / "closed"), CONFIG)
    finally:
        if is_root:
            os.seteuid(0)
        (tmp_path / "closed").chmod(0o755)
    assert paths(table) == ["open/a.png"]
    assert left_out(table) == {"folder that may not be read": 1}


@pytest.mark.parametrize("name", ["set [2020]", "star*", "what?"])
def test_folder_whose_name_looks_like_a_glob_is_a_folder(tree: str, name: str) -> None:
    Folder(tree).atomic_write(f"{name}/x.png", b"x")
    table = collect(f"{tree}/{name}", CONFIG)
    assert paths(table) == ["x.png"]
    assert read_image_file(uris(table)[0], ANYWHERE) == b"x"


def test_keys_with_an_empty_part_have_paths_of_their_own(s3_folder: str) -> None:
    store = fsspec.filesystem("s3")
    for key in ("/lead.png", "day1/b.png", "day1//b.png"):
        store.pipe_file(f"{s3_folder}/{key}", key.encode())
    table = collect(s3_folder, CONFIG)
    assert paths(table) == ["%2Flead.png", "day1/%2Fb.png", "day1/b.png"]
    contents = [read_image_file(uri, ANYWHERE) for uri in uris(table)]
    assert contents == [b"/lead.png", b"day1//b.png", b"day1/b.png"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        *((name, "unpack it") for name in ("photos.7z", "photos.tar.gz", "a.PNG.gz", "l.csv.zst")),
        ("list.yaml", "expected .txt"),
    ],
)
def test_archives_and_other_lists_are_refused(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"1")
    with pytest.raises(CollectionError, match=advice):
        collect(str(tmp_path / name), CONFIG)


def test_names_in_another_unicode_form_or_with_backslashes_are_found(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "café.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / decomposed).write_bytes(b"x")
    (tmp_path / "list.txt").write_text("sub/café.png\n")
    [uri] = uris(collect(str(tmp_path / "list.txt"), CONFIG))
    assert read_image_file(uri, ANYWHERE) == b"x"
    assert read_image_file(f"{tmp_path}/sub\\café.png", ANYWHERE) == b"x"
    assert read_image_file((tmp_path / "sub" / decomposed).as_uri(), ANYWHERE) == b"x"


def test_a_folder_that_is_missing_or_empty_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(CollectionError, match="the folder is empty"):
        collect(str(tmp_path / "photos"), CONFIG)
    with pytest.raises(CollectionError, match="there is no such folder") as caught:
        collect(str(tmp_path / "foto" / "pets"), CONFIG)
    assert f"the nearest that exists is {tmp_path}" in str(caught.value)
