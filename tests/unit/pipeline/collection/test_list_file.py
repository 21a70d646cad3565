"""List files: what they may hold, and what is said of wrong ones."""

import gzip
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.collection.collect import collect
from pipeline.collection.list_file import is_list
from pipeline.collection.manifest import coco_ids_of, read_manifest, write_manifest
from pipeline.storage import parquet
from pipeline.storage.folder import Folder
from schemas.config import ImageConfig
from schemas.errors import CollectionError
from tests.helpers.image_files import write_image_files

CONFIG = ImageConfig()
LISTS = {
    "list.txt": "b.JPG\r\n\n#1.jpg\nsub/ü x.png\n s.jpg\n",
    "list.csv": 'id,uri\n1,b.JPG\n2,#1.jpg\n3,"sub/ü x.png"\n4, s.jpg\n',
    "LIST.JSONL": "\n\n".join(
        json.dumps({"uri": path}) for path in ("b.JPG", "#1.jpg", "sub/ü x.png", " s.jpg")
    ),
}


@pytest.mark.parametrize("name", [*LISTS, "list.parquet"])
@pytest.mark.parametrize("place", ["local", "memory", "s3"])
def test_every_kind_of_list_is_read(
    name: str, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    places = {"local": str(tmp_path / "x"), "memory": f"memory://{tmp_path.name}"}
    folder = Folder(places.get(place) or request.getfixturevalue("s3_folder"))
    expected = [" s.jpg", "#1.jpg", "b.JPG", "sub/ü x.png"]
    data = LISTS.get(name, "").encode() or parquet.write_table(pa.table({"uri": expected}), 2)
    folder.atomic_write(name, data)
    table = collect(f"{folder.uri}/{name}", CONFIG)
    assert table.column("path").to_pylist() == expected
    assert table.column("uri").to_pylist() == [f"{folder.uri}/{path}" for path in expected]
    assert table.column("size_bytes").null_count == 4


def test_absolute_uris_and_given_paths(tmp_path: Path) -> None:
    lines = [
        "uri,path",
        f"{tmp_path}/photos/in.jpg,",
        "/elsewhere/out.jpg,",
        "photos/../../up.jpg,",
        "s3://bucket/k/a.jpg,",
        "https://host/p/b.jpg?size=1/2,",
        "s3://bucket/k/c.jpg,named/c.jpg",
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    table = collect(str(tmp_path / "list.csv"), CONFIG)
    up = str(tmp_path.parent / "up.jpg")
    assert dict(
        zip(table.column("path").to_pylist(), table.column("uri").to_pylist(), strict=True)
    ) == {
        "photos/in.jpg": f"{tmp_path}/photos/in.jpg",
        "elsewhere/out.jpg": "/elsewhere/out.jpg",
        up.lstrip("/"): up,
        "bucket/k/a.jpg": "s3://bucket/k/a.jpg",
        "host/p/b.jpg": "https://host/p/b.jpg?size=1/2",
        "named/c.jpg": "s3://bucket/k/c.jpg",
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n\n", "lists no images"),
        ("a.txt", "s3://me:secret@b/x.jpg", r"row 1: .* holds a password"),
        ("a.txt", b"\xff\xfe", "is not UTF-8"),
        ("a.csv", "file\nx.jpg\n", r"expected a column `uri`, got \['file'\]"),
        ("a.csv", "uri,path\nx.jpg,../y.jpg\n", r"row 2: expected a relative path"),
        ("a.csv", "uri,path\nx.jpg,/y.jpg\n", r"row 2: expected a relative path"),
        ("a.csv", "", "expected a column `uri`"),
        ("a.jsonl", '{"uri": 1}', "row 1: expected a text in `uri`, got 1"),
        ("a.jsonl", '{"url": "x"}', 'line 1: expected an object with "uri"'),
        ("a.jsonl", '["x"]', 'expected an object with "uri"'),
        ("a.jsonl", '{"uri": ', "cannot be read as a list"),
        ("a.jsonl", '{"uri": "x", "path": 3}', "expected a text in `path`, got 3"),
        ("a.jsonl", '{"uri": ' + "[" * 100_000, "cannot be read as a list"),
        ("a.jsonl", '{"uri": ' + "9" * 10_000 + "}", "cannot be read as a list"),
        ("a.parquet", "no parquet", "cannot be read as a Parquet file"),
        ("a.csv", "uri,path\na.jpg,x\nb.jpg,x\n", "gives the path 'x' to two files"),
    ],
)
def test_wrong_lists_name_the_row(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CollectionError, match=message) as caught:
        collect(str(tmp_path / name), CONFIG)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"), [("a.txt", True), ("A.CSV", True), ("a.jpg", False), ("txt", False)]
)
def test_is_list(name: str, expected: bool) -> None:
    assert is_list(name) is expected


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl"])
def test_packed_lists(tmp_path, kind):
    texts = {
        "txt": "a,b.png\nc.png\n",
        "csv": 'uri,path\n"a,b.png",x.png\nc.png,y.png\n',
        "tsv": "uri\tpath\na,b.png\tx.png\nc.png\ty.png\n",
        "jsonl": '{"uri": "a,b.png"}\n{"uri": "c.png"}\n',
    }
    (tmp_path / f"list.{kind}").write_text(texts[kind])
    (tmp_path / f"list.{kind.upper()}.gz").write_bytes(gzip.compress(texts[kind].encode()))
    plain = collect(str(tmp_path / f"list.{kind}"), CONFIG)
    assert plain.num_rows == 2
    assert collect(str(tmp_path / f"list.{kind.upper()}.gz"), CONFIG).equals(plain)


@pytest.mark.parametrize(
    "data", [b"no gzip", gzip.compress(b"a.png\n" * 99)[:-9]], ids=["no gzip", "cut off"]
)
def test_damaged_packed_list_is_refused(tmp_path, data):
    (tmp_path / "list.txt.gz").write_bytes(data)
    with pytest.raises(CollectionError, match="cannot be read as a list of images"):
        collect(str(tmp_path / "list.txt.gz"), CONFIG)


def test_urls_that_differ_in_their_query_have_paths_of_their_own(tmp_path):
    urls = [f"http://127.0.0.1:9/img.php?id={number}" for number in (1, 2)]
    signed = [f"https://h.test/a.png?X-Amz-Signature=secret{number}" for number in (1, 2)]
    (tmp_path / "list.txt").write_text("\n".join([*urls, *signed, "http://h.test/b.png?v=1"]))
    paths = collect(str(tmp_path / "list.txt"), CONFIG).column("path").to_pylist()
    assert len(set(paths)) == 5
    assert sum(path.startswith("127.0.0.1:9/img.php?") for path in paths) == 2
    assert "h.test/b.png" in paths
    assert not [path for path in paths if "secret" in path]


def test_a_list_at_a_url_names_no_files_of_this_machine(s3_folder, tmp_path):
    rows = ["near.png", "s3://other/a.png", "https://h.test/a.png", f"{tmp_path}/a.png"]
    Folder(s3_folder).atomic_write("list.txt", "\n".join(rows).encode())
    with pytest.raises(CollectionError, match=r"files of this machine \(1 entries.*--images-root"):
        collect(f"{s3_folder}/list.txt", CONFIG)
    assert collect(f"{s3_folder}/list.txt", CONFIG, [str(tmp_path)]).num_rows == 4
    (tmp_path / "list.txt").write_text("\n".join(rows))
    assert collect(f"{tmp_path}/list.txt", CONFIG).num_rows == 4


@pytest.mark.parametrize(
    "store", ["sftp://h.test", "zip://x", "memory://x", "ftp://h.test", "trap:///x"]
)
def test_a_list_names_no_unusual_stores(tmp_path, store):
    (tmp_path / "list.txt").write_text(f"a.png\n{store}/b.png\n")
    with pytest.raises(CollectionError, match="an unusual kind of store") as caught:
        collect(f"{tmp_path}/list.txt", CONFIG)
    assert f"{store}/b.png" in str(caught.value)
    assert collect(f"{tmp_path}/list.txt", CONFIG, [store]).num_rows == 2


class _Signed(SimpleHTTPRequestHandler):
    """Serves its folder to requests with a signature; a file's name has no query."""

    def send_head(self):
        self.path, _, query = self.path.partition("?")
        return super().send_head() if "sig=secret" in query else self.send_error(403)

    def log_message(self, format, *args):
        pass


def test_a_signed_list_is_a_list_and_its_signatures_are_in_no_path(tmp_path):
    serve = partial(_Signed, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "list.txt").write_text(
            f"{root}/a.png?sig=secret/1\n{root}/sub/b.png?sig=secret2"
        )
        (tmp_path / "a.png").write_bytes(b"x")
        listed = collect(f"{root}/list.txt?sig=secret/2", CONFIG)
        alone = collect(f"{root}/a.png?sig=secret/2", CONFIG)
        server.shutdown()
    assert listed.column("path").to_pylist() == ["a.png", "sub/b.png"]
    assert alone.column("path").to_pylist() == ["a.png"]
    assert alone.column("uri").to_pylist() == [f"{root}/a.png?sig=secret/2"]


def coco_file(folder: Path, names: list[str], ids: list[object]) -> Path:
    images = [
        {"id": number, "file_name": name, "width": 40, "height": 24}
        for number, name in zip(ids, names, strict=True)
    ]
    file = folder / "annotations/instances.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    return file


def test_a_coco_file_is_a_list_whose_ids_are_kept(tmp_path: Path) -> None:
    write_image_files(tmp_path / "val")
    file = coco_file(tmp_path, ["plain.png", "gone.png", "plain.jpg"], [7, 139, 0])
    table = collect(str(file), ImageConfig(), [str(tmp_path / "val")])
    assert table["path"].to_pylist() == ["gone.png", "plain.jpg", "plain.png"]
    assert table["uri"].to_pylist()[1] == str(tmp_path / "val/plain.jpg")
    kept = coco_ids_of(read_manifest(write_manifest(table, "source")))
    assert [kept[image_id] for image_id in table["image_id"].to_pylist()] == [139, 0, 7]
    file.with_suffix(".json.gz").write_bytes(gzip.compress(file.read_bytes()))
    packed = collect(f"{file}.gz", ImageConfig(), [str(tmp_path / "val")])
    assert coco_ids_of(packed) == kept


@pytest.mark.parametrize("ids", [[1, 1], ["a", "b"], [1, None], [1, True]])
def test_ids_that_are_no_numbers_or_not_unique_are_not_kept(
    tmp_path: Path, ids: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    write_image_files(tmp_path / "annotations")
    table = collect(str(coco_file(tmp_path, ["plain.png", "plain.jpg"], ids)), ImageConfig())
    assert table.num_rows == 2
    assert coco_ids_of(table) == {}
    assert "exports count the images themselves" in caplog.text


@pytest.mark.parametrize("name", ["../plain.png", "/etc/passwd", "a/../../b.png", "", None, "C:/a"])
def test_a_coco_file_names_no_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    write_image_files(tmp_path / "annotations")
    with pytest.raises(CollectionError, match=r"images\[1\]: expected a \"file_name\""):
        collect(str(coco_file(tmp_path, ["plain.png", name], [1, 2])), ImageConfig())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", 'expected a COCO file, an object with a list "images"'),
        ("[1]", 'expected a COCO file, an object with a list "images"'),
        ('{"images": []}', "lists no images"),
        ('{"images": [', "cannot be read as a list of images"),
        ('{"images": [{"id": 1, "file_name": "a.png"}]}', "none is there.*--images-root"),
    ],
)
def test_a_json_file_that_lists_no_images_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(CollectionError, match=message):
        collect(str(tmp_path / "x.json"), ImageConfig())
