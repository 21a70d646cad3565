"""Maps and masks of strangers: refused by their size, before memory is taken."""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovseg_core.images.array_files import MAX_PIXELS, open_png, read_npy, read_npz
from ovseg_core.images.batch import ImageBatch
from ovseg_core.objectness.external import ExternalMaps, Options
from ovseg_core.proposals.folder import MaskFiles
from schemas.errors import ErrorCode, ImageError


def npy(shape: Any, kind: Any = "<f4", data: bytes = b"") -> bytes:
    """An NPY file whose header says anything."""
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def npz(packing: int = zipfile.ZIP_DEFLATED, **arrays: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as file:
        for name, data in arrays.items():
            file.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    """A PNG whose header says any size."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(999))),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(data)) + kind + data
        chunks += struct.pack(">I", zlib.crc32(kind + data))
    return chunks


MASKS = npy((1, 2, 3), "|b1", bytes(6))
SCORES = npy((1,), "<f4", bytes(4))
HOSTILE = {
    "10^12 values": ("a.npy", npy((10**6, 10**6))),
    "10^10 values": ("a.npy", npy((10**5, 10**5))),
    "sizes that wrap around": ("a.npy", npy((2**62, 4))),
    "negative sizes": ("a.npy", npy((-4, -4), data=bytes(64))),
    "fewer bytes than values": ("a.npy", npy((4, 4), data=bytes(60))),
    "a pickle": ("a.npy", npy((2, 2), "|O", b"cos\nsystem\n(S'false'\ntR.")),
    "a pickle alone": ("a.npy", b"\x80\x02cos\nsystem\n(X\x05\x00\x00\x00falsetR."),
    "values of 2 GB": ("a.npy", npy((4, 4), "V2147483647")),
    "values of no bytes": ("a.npy", npy((10**9, 10**9), "V0")),
    "complex numbers": ("a.npy", npy((2, 2), "<c8", bytes(32))),
    "dates": ("a.npy", npy((2, 2), "<M8[s]", bytes(32))),
    "40 dimensions": ("a.npy", npy((1,) * 40, data=bytes(4))),
    "deep header": ("a.npy", npy("[" * 5000 + "]" * 5000)),
    "an archive as an array": ("a.npy", npz(masks=MASKS)),
    "10^12 mask pixels": ("a.npz", npz(masks=npy((10**4,) * 3, "|b1"), scores=SCORES)),
    "masks that are no arrays": ("a.npz", npz(masks=b"xx", scores=b"yy")),
    "masks of objects": ("a.npz", npz(masks=npy((1, 2, 2), "|O", b"N."), scores=SCORES)),
    "masks of texts": ("a.npz", npz(masks=npy((1, 2, 2), "<U4", bytes(64)), scores=SCORES)),
    "masks in another packing": ("a.npz", npz(zipfile.ZIP_LZMA, masks=MASKS, scores=SCORES)),
    "no masks": ("a.npz", npz(scores=SCORES)),
    "an array as an archive": ("a.npz", npy((4, 4), data=bytes(64))),
    "1.6 * 10^9 pixels": ("a.png", png(40_000, 40_000)),
    "1.2 * 10^8 pixels": ("a.png", png(11_000, 11_000)),
    "PostScript": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"),
    "cut off": ("a.png", png(30, 20)[:45]),
}  # fmt: skip


@pytest.mark.parametrize("wrong", HOSTILE)
def test_hostile_map_is_an_unreadable_file_of_one_image(wrong: str, tmp_path: Path) -> None:
    name, data = HOSTILE[wrong]
    (tmp_path / name).write_bytes(data)
    batch = ImageBatch((torch.zeros(3, 4, 6, dtype=torch.uint8),), ("a.jpg",))
    with pytest.raises(ImageError, match=r"unreadable objectness map .*/a") as caught:
        ExternalMaps(Options(folder=str(tmp_path)), torch.device("cpu")).maps(batch)
    assert caught.value.code is ErrorCode.UNDECODABLE
    if not name.endswith(".npy"):
        with pytest.raises(ImageError, match=r"unreadable region masks .*/a"):
            MaskFiles(str(tmp_path), torch.device("cpu")).proposals(batch)


def test_honest_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    values = np.random.default_rng(2).random((3, 5, 7))
    turned = np.asfortranarray(values[0])
    np.save(tmp_path / "a.npy", turned)
    np.savez_compressed(tmp_path / "b.npz", masks=values > 0.5, scores=values[:, 0, 0])
    assert np.array_equal(read_npy(tmp_path / "a.npy", MAX_PIXELS), turned)
    masks, scores = read_npz(tmp_path / "b.npz", ("masks", "scores"), MAX_PIXELS)
    assert np.array_equal(masks, values > 0.5)
    assert np.array_equal(scores, values[:, 0, 0])
    with pytest.raises(ValueError, match="at most 34 values"):
        read_npy(tmp_path / "a.npy", 34)
    (tmp_path / "c.png").write_bytes(png(30, 20))
    with open_png(tmp_path / "c.png") as image:
        assert image.size == (30, 20)
