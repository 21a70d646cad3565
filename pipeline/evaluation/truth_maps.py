"""The truth of public data sets: label images whose values mean what a protocol says."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.evaluation.protocol import first_with, missing
from pipeline.evaluation.truth import IGNORE, LabelMap, Truth, open_truth
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from schemas.errors import UserError
from schemas.protocol import (
    BenchmarkProtocol,
    ImageFiles,
    PixelValues,
    TruthFiles,
    TruthInstances,
    TruthMaps,
)
from schemas.redact import redact

_UNKNOWN = -2
"""In a table of values: the protocol has no meaning for it."""
_ONE_BYTE = ("L", "P")
"""Pillow's modes of one channel whose values, or places in a palette, are bytes."""


def open_layout(
    name: str, protocol: BenchmarkProtocol, candidates: tuple[TruthFiles, ...], data: str
) -> Truth:
    """Open the first truth that is there.

    Args:
        name: of the protocol, for messages.
        protocol: says how images and classes are called.
        candidates: the protocol's truth, or a recipe's.
        data: the data set's folder.

    Raises:
        UserError: none is there; names what was expected.
    """
    expected = []
    for files in candidates:
        if isinstance(files, TruthInstances):
            expected.append(files.instances)
            if Folder(data).exists(files.instances):
                return open_truth(uris.join(data.rstrip("/"), files.instances), protocol.classes)
            continue
        expected += [f"{folder}/*{files.ending}" for folder in files.folder]
        folder = first_with(data, files.folder, files.ending)
        if folder:
            return MapsTruth(Folder(data).child(folder), files, protocol.images)
    raise missing(name, data, "truth", expected)


class MapsTruth:
    """Label images beside the images of a data set.

    The map of an image has its name, the one ending in place of the other; where folders differ,
    an unambiguous file name is enough.
    """

    def __init__(self, folder: Folder, maps: TruthMaps, images: Sequence[ImageFiles]) -> None:
        """List the folder.

        Args:
            folder: of the maps.
            maps: how they are called and what their pixels mean.
            images: how the images may be called.
        """
        self._folder = folder
        self._image_endings = tuple(files.ending for files in images)
        self._table = _table(maps.values)
        ending = maps.ending
        files = [name for name in folder.list() if name.endswith(ending)]
        self._by_stem = {name.removesuffix(ending): name for name in files}
        last_parts = Counter(PurePosixPath(stem).name for stem in self._by_stem)
        self._by_last_part = {
            PurePosixPath(stem).name: name
            for stem, name in self._by_stem.items()
            if last_parts[PurePosixPath(stem).name] == 1
        }
        self.num_images = len(files)
        self.unknown: tuple[str, ...] = ()

    def label_map(self, path: str) -> LabelMap | None:
        """Read one map."""
        stem = self._stem(path)
        name = self._by_stem.get(stem) or self._by_last_part.get(PurePosixPath(stem).name)
        if name is None:
            return None
        values = self._pixels(name)
        painted = self._table[values]
        if (painted == _UNKNOWN).any():
            strange = np.unique(values[painted == _UNKNOWN]).tolist()
            raise UserError(
                f"{redact(self._folder.uri)}/{name}: pixel values that this protocol does not "
                f"know: {', '.join(map(str, strange[:8]))}; is it the data set's own label image?"
            )
        return painted

    def _stem(self, path: str) -> str:
        for ending in self._image_endings:
            if path.endswith(ending):
                return path.removesuffix(ending)
        return str(PurePosixPath(path).with_suffix(""))

    def _pixels(self, name: str) -> NDArray[np.uint8]:
        place = f"{redact(self._folder.uri)}/{name}"
        try:
            with Image.open(io.BytesIO(self._folder.read_bytes(name))) as image:
                if image.mode not in _ONE_BYTE:
                    raise UserError(
                        f"{place} is no label image: expected one channel of bytes, or a palette, "
                        f"got {image.mode}; colours as such are not read"
                    )
                return np.array(image, np.uint8)
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"{place} cannot be read: {error}") from error


def _table(values: PixelValues) -> NDArray[np.int32]:
    """Return the label (0 background, k class k, -1 not counted) of every pixel value."""
    table = np.full(256, _UNKNOWN, np.int32)
    table[list(values.labels)] = np.arange(1, len(values.labels) + 1)
    table[list(values.background)] = 0
    table[list(values.ignored)] = IGNORE
    return table
