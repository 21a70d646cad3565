"""Tables with the bytes of images: which column, which names, what of them cannot be read."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.collection.changes import changes
from pipeline.collection.collect import collect
from pipeline.collection.image_source import read_bytes
from pipeline.collection.left_out import describe, left_out_of
from pipeline.collection.list_file import ListedImage
from pipeline.collection.packed import is_list_of_uris
from pipeline.storage.folder import Folder
from pipeline.storage.places import ImagePlaces
from schemas.config import ImageConfig
from schemas.errors import CollectionError, ErrorCode, ImageError
from schemas.records import ImageRef
from schemas.tables import to_records
from tests.helpers.packed_images import drawn, hugging_face_table, parquet_bytes, serving_files
from tests.helpers.places import ANYWHERE

CONFIG = ImageConfig()
NUM_ROWS = 60
IMAGES = [drawn(number) for number in range(NUM_ROWS)]
PATHS = [f"{number:03}.png" for number in range(NUM_ROWS)]


def refs_of(images: str | Path, **config: Any) -> list[ImageRef]:
    return list(to_records("manifest", collect(str(images), ImageConfig(**config))))


def contents(refs: list[ImageRef]) -> list[bytes]:
    return [read_bytes(ref, 10**7, ANYWHERE) for ref in refs]


def file_of(folder: Path, table: pa.Table, **options: Any) -> Path:
    file = folder / "train.parquet"
    file.write_bytes(parquet_bytes(table, **options))
    return file


def code_of(ref: ImageRef, max_bytes: int = 10**7) -> tuple[ErrorCode, str]:
    with pytest.raises(ImageError) as caught:
        read_bytes(ref, max_bytes, ANYWHERE)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 7},
        {"compression": "zstd", "data_page_version": "2.0", "row_group_size": 20},
        {"compression": "gzip"},
        {"compression": "brotli"},
        {"compression": "lz4"},
        {"compression": "none", "use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"data_page_size": 500, "write_batch_size": 3, "use_dictionary": False},
        {"data_page_size": 500, "write_batch_size": 3, "write_page_index": True},
        {"use_content_defined_chunking": True, "compression": "snappy"},
    ],
    ids=lambda options: "-".join(map(str, options)) or "usual",
)
def test_a_table_is_read_whatever_wrote_it(tmp_path: Path, options: dict[str, Any]) -> None:
    refs = refs_of(file_of(tmp_path, hugging_face_table(IMAGES, PATHS), **options))
    assert [ref.path for ref in refs] == PATHS
    assert contents(refs) == IMAGES
    assert contents(refs[::-7]) == IMAGES[::-7]


@pytest.mark.parametrize("place", ["local", "memory", "s3"])
def test_a_folder_of_tables_is_read_in_place(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    places = {"local": str(tmp_path / "my tables"), "memory": f"memory://{tmp_path.name}/tables"}
    uri = places.get(place) or request.getfixturevalue("s3_folder")
    for part in range(3):
        rows = slice(part * 20, part * 20 + 20)
        data = parquet_bytes(hugging_face_table(IMAGES[rows], PATHS[rows]), row_group_size=8)
        Folder(uri).atomic_write(f"data/train-{part:05}-of-00003.parquet", data)
    refs = refs_of(uri)
    assert refs[20].path == "data/train-00001-of-00003.parquet/020.png"
    assert contents(refs) == IMAGES
    assert contents(refs_of(f"{uri}/data/*-00002-*.parquet")) == IMAGES[40:]


def test_names_that_do_not_ascend_have_their_row_in_front(tmp_path: Path) -> None:
    """A shard of the sorted run then is a few row groups, not some rows of all of them."""
    given = ["z/b.png", "a.jpg", "a.jpg", None, "https://host/x/c.png?token=secret", "/data/d.png"]
    file = file_of(tmp_path, hugging_face_table(IMAGES[:6], given))
    refs = refs_of(file)
    assert [ref.path for ref in refs] == [
        "0000000-b.png", "0000001-a.jpg", "0000002-a.jpg", "0000003", "0000004-c.png",
        "0000005-d.png",
    ]  # fmt: skip
    assert contents(refs) == IMAGES[:6]


def test_names_lead_nowhere(tmp_path: Path) -> None:
    given = ["../../etc/passwd", "a/../../b.png", "C:\\windows\\c.png", "\0", "x" * 5000, "é.png"]
    refs = refs_of(file_of(tmp_path, hugging_face_table(IMAGES[:6], given)))
    assert [ref.path for ref in refs] == [
        "0000000-passwd", "0000001-b.png", "0000002-c.png", "0000003", "0000004", "0000005-é.png",
    ]  # fmt: skip


def test_a_plain_column_of_bytes_gives_its_ending(tmp_path: Path) -> None:
    keys = [f"{number:03}" for number in range(NUM_ROWS)]
    refs = refs_of(file_of(tmp_path, pa.table({"__key__": keys, "jpg": IMAGES, "cls": keys})))
    assert [ref.path for ref in refs] == [f"{key}.jpg" for key in keys]
    assert contents(refs) == IMAGES


def test_null_and_empty_bytes_are_errors_of_their_images(tmp_path: Path) -> None:
    some = [IMAGES[0], None, b"", IMAGES[3]]
    refs = refs_of(file_of(tmp_path, hugging_face_table(some, PATHS[:4])))
    assert [ref.path for ref in refs] == PATHS[:4]
    assert contents([refs[0], refs[3]]) == [IMAGES[0], IMAGES[3]]
    code, message = code_of(refs[1])
    assert code is ErrorCode.EMPTY_FILE
    assert "the bytes of row 1 are null; a path or an address" in message
    assert code_of(refs[2])[0] is ErrorCode.EMPTY_FILE
    nothing = refs_of(file_of(tmp_path, hugging_face_table([None] * 2, PATHS[:2])))
    assert [code_of(ref)[0] for ref in nothing] == [ErrorCode.EMPTY_FILE] * 2


def test_the_column_called_image_is_taken_of_several(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    masks = pa.array([{"bytes": b"mask", "path": None}] * NUM_ROWS, kind)
    table = hugging_face_table(IMAGES, PATHS).append_column("annotation", masks)
    file = file_of(tmp_path, table.replace_schema_metadata(None))
    assert contents(refs_of(file)) == IMAGES
    assert contents(refs_of(file, column="annotation")) == [b"mask"] * NUM_ROWS
    two = file_of(tmp_path, table.rename_columns(["label", "left", "right"]))
    with pytest.raises(CollectionError, match=r"left, right .*--set image.column=left"):
        collect(str(two), CONFIG)
    assert contents(refs_of(two, column="left")) == IMAGES


def test_a_table_without_images_names_its_columns(tmp_path: Path) -> None:
    file = file_of(tmp_path, pa.table({"text": ["a"], "photo": [b"x"], "many": [[b"y"]]}))
    with pytest.raises(CollectionError, match="no column of images; its columns are text, photo"):
        collect(str(file), CONFIG)
    with pytest.raises(CollectionError, match="no column 'many' of bytes"):
        collect(str(file), CONFIG.model_copy(update={"column": "many"}))
    assert contents(refs_of(file, column="photo")) == [b"x"]


def test_a_list_is_a_list_and_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(IMAGES[0])
    (tmp_path / "lists").mkdir()
    file = file_of(tmp_path / "lists", pa.table({"uri": [str(tmp_path / "a.png")]}))
    assert contents(refs_of(file)) == IMAGES[:1]
    with pytest.raises(CollectionError, match="it is a list of images; give it alone"):
        collect(str(tmp_path / "lists"), CONFIG)


def test_names_pack_so_well_that_a_list_has_more_rows_than_bytes(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    many = pa.repeat("a.png", 1 << 21)
    file = file_of(tmp_path, pa.table({"uri": many}))
    assert file.stat().st_size < 1 << 20
    assert is_list_of_uris(ListedImage("", str(file), file.stat().st_size, ""), ANYWHERE)
    with pytest.raises(CollectionError, match="that says it has 2,097,152 rows"):
        refs_of(file_of(tmp_path / "tables", pa.table({"image": many.cast(pa.binary())})))


def test_tables_beside_images_are_left_out_and_said(tmp_path: Path) -> None:
    file_of(tmp_path, hugging_face_table(IMAGES, PATHS))
    (tmp_path / "a.png").write_bytes(IMAGES[0])
    table = collect(str(tmp_path), CONFIG)
    assert table["path"].to_pylist() == ["a.png"]
    assert "1 .parquet file (archives are read where no" in describe(left_out_of(table))


def test_a_table_that_is_replaced_is_not_read_as_the_one_before(tmp_path: Path) -> None:
    """Also where both are equally long, as tables of uncompressed images often are."""
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    file = file_of(tmp_path, hugging_face_table([b"aaaa", b"bbbb"], PATHS[:2]), **plain)
    before = collect(str(file), CONFIG)
    size = file.stat().st_size
    file_of(tmp_path, hugging_face_table([b"cccc", b"dddd"], PATHS[:2]), **plain)
    assert file.stat().st_size == size
    refs = list(to_records("manifest", before))
    code, message = code_of(refs[0])
    assert code is ErrorCode.NOT_FOUND
    assert "--update lists it again" in message
    assert changes(before, collect(str(file), CONFIG)).changed.num_rows == 2


@pytest.mark.parametrize("place", ["local", "memory", "s3", "web"])
def test_a_shorter_table_in_its_place_is_said(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with serving_files(tmp_path) as served:
        places = {"local": str(tmp_path), "memory": f"memory://{tmp_path.name}", "web": served.url}
        uri = places.get(place) or request.getfixturevalue("s3_folder")
        written = Folder(str(tmp_path) if place == "web" else uri)
        written.atomic_write("x.parquet", parquet_bytes(hugging_face_table(IMAGES, PATHS)))
        refs = refs_of(f"{uri}/x.parquet")
        written.atomic_write("x.parquet", parquet_bytes(hugging_face_table(IMAGES[:1], ["a"])))
        code, message = code_of(refs[7])
    assert code is ErrorCode.NOT_FOUND
    assert "--update lists it again" in message


def test_a_table_that_is_cut_off_is_said(tmp_path: Path) -> None:
    file = file_of(tmp_path, hugging_face_table(IMAGES, PATHS), row_group_size=20)
    refs, whole = refs_of(file), file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert {code_of(ref)[0] for ref in refs} == {ErrorCode.NOT_FOUND}
    with pytest.raises(CollectionError, match="does not end as one; it is cut off"):
        collect(str(file), CONFIG)
    other = tmp_path / "more.parquet"
    other.write_bytes(whole)
    table = collect(str(tmp_path), CONFIG)
    assert table.num_rows == NUM_ROWS
    assert "1 archive that cannot be read" in describe(left_out_of(table))


def test_neighbours_are_fetched_once_and_only_for_whom_they_are_meant(tmp_path: Path) -> None:
    file_of(tmp_path, hugging_face_table(IMAGES, PATHS), row_group_size=20)
    with serving_files(tmp_path) as served:
        refs = refs_of(f"{served.url}/train.parquet")
        served.ranges.clear()
        assert contents(refs) == IMAGES
        assert len(served.ranges) == 4  # the footer, and three row groups
        with pytest.raises(ImageError) as caught:
            read_bytes(refs[0], 10**7, ImagePlaces(roots=("s3://other",)))
        assert caught.value.code is ErrorCode.PERMISSION_DENIED
        with pytest.raises(ImageError, match="private address"):
            read_bytes(refs[0], 10**7, ImagePlaces(roots=None))


def test_limits_are_those_of_a_page_and_an_image(tmp_path: Path) -> None:
    file = file_of(tmp_path, hugging_face_table(IMAGES, PATHS))
    assert code_of(refs_of(file)[0], max_bytes=50)[0] is ErrorCode.TOO_LARGE
    large = hugging_face_table([bytes(1 << 20)] * 300, [f"{row:03}" for row in range(300)])
    options: dict[str, Any] = {"use_dictionary": False, "write_batch_size": 300}
    refs = refs_of(file_of(tmp_path, large, data_page_size=1 << 30, **options))
    code, message = code_of(refs[200])
    assert code is ErrorCode.TOO_LARGE
    assert "write the table again with smaller row groups" in message


FUZZ = """
import random, resource, sys
from pathlib import Path
from pipeline.collection.collect import collect
from pipeline.collection.image_source import read_bytes
from schemas.config import ImageConfig
from schemas.errors import CollectionError, ImageError
from schemas.tables import to_records
from tests.helpers.places import ANYWHERE
folder, rng = Path(sys.argv[1]), random.Random(7)
status = Path("/proc/self/status").read_text()
now = int(status.partition("VmSize:")[2].split()[0]) << 10
resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), now + (1 << 30)))
whole = [file.read_bytes() for file in sorted(folder.iterdir())]
file, seen = folder / "x.parquet", {"read": 0, "damaged": 0, "refused": 0}
for turn in range(400):
    data = bytearray(rng.choice(whole))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    begin, end = ((footer, len(data)), (4, 60), (4, len(data)))[turn % 3]
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(begin, end)
        data[place] = rng.choice([0, 127, 128, 255, data[place] ^ 1 << rng.randrange(8)])
    file.write_bytes(data if turn % 20 else data[: rng.randrange(len(data))])
    try:
        refs = list(to_records("manifest", collect(str(file), ImageConfig())))
    except CollectionError:
        seen["refused"] += 1
        continue
    for ref in refs:
        try:
            seen["read"] += bool(read_bytes(ref, 10**7, ANYWHERE))
        except ImageError:
            seen["damaged"] += 1
print(seen)
assert min(seen.values()) > 20, seen
"""


def test_no_byte_of_a_table_ends_the_process_or_takes_its_memory(tmp_path: Path) -> None:
    table = hugging_face_table(IMAGES[:6], PATHS[:6])
    writers: list[dict[str, Any]] = [
        {},
        {"row_group_size": 2},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"compression": "gzip"},
        {"compression": "lz4"},
        {"compression": "none"},
        {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
    ]
    for number, options in enumerate(writers):
        (tmp_path / f"{number}.parquet").write_bytes(parquet_bytes(table, **options))
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
