"""True label maps: from COCO's `instances.json`, a folder of label images, or a public data set.

A true label map is int32 (H, W): 0 background, k the vocabulary's label k, -1 not counted.
"""

import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ovseg_core.rle import coco_segmentation
from ovseg_core.rle.coco_segmentation import parse_id
from pipeline.evaluation.protocol import first_folder_with, missing_files
from pipeline.run.file_names import without_suffix
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

IGNORE = -1
"""Value of pixels that are not counted; no vocabulary reaches it, however long."""
_IGNORED_8_BITS, _IGNORED_16_BITS = 255, 65535
"""The same in label images."""
_UNKNOWN = -2
"""In a table of pixel values: the protocol has no meaning for this one."""
_ONE_BYTE_MODES = ("L", "P")
"""Pillow's modes of one channel whose values, or palette indices, are bytes."""
_NOT_COCO = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""Errors from reading a file that has COCO's names but not its structure."""

LabelMap = NDArray[np.int32]
Crowd = Literal["label", "ignore"]
"""COCO's crowd regions have their label (as in CLIP-DIY's own evaluation), or are not counted."""


class Truth(Protocol):
    """A source of true label maps.

    Attributes:
        num_images: images with a truth.
        unknown: categories of the truth that are not in the vocabulary; they are background.
    """

    num_images: int
    unknown: tuple[str, ...]

    def label_map(self, path: str) -> LabelMap | None:
        """Return the map of the image with this path in its collection; None if it has none."""
        ...


def open_truth(uri: str, names: Sequence[str], crowd: Crowd = "label") -> Truth:
    """Open a `.json` file as COCO and anything else as a folder of label images.

    Args:
        uri: local path or fsspec URL.
        names: the vocabulary's labels in order, without background.
        crowd: what COCO's crowd regions are.

    Raises:
        UserError: nothing is there, it is not COCO, or no category is in the vocabulary.
    """
    if uri.lower().endswith(".json"):
        return CocoTruth(_read_coco(uri), names, crowd)
    return FolderTruth(uri, len(names))


def open_protocol_truth(
    name: str, protocol: BenchmarkProtocol, candidates: tuple[TruthFiles, ...], data: str
) -> Truth:
    """Open the truth of a public data set: the first of the candidates that is there.

    Args:
        name: of the protocol, for messages.
        protocol: has the names of images and classes.
        candidates: the protocol's truth, or a recipe's.
        data: the data set's folder.

    Raises:
        UserError: none is there; the message says what was expected.
    """
    expected = []
    for files in candidates:
        if isinstance(files, TruthInstances):
            expected.append(files.instances)
            if Folder(data).exists(files.instances):
                return open_truth(uris.join(data.rstrip("/"), files.instances), protocol.classes)
            continue
        expected += [f"{folder}/*{files.ending}" for folder in files.folder]
        folder = first_folder_with(data, files.folder, files.ending)
        if folder:
            return ProtocolTruth(Folder(data).child(folder), files, protocol.images)
    raise missing_files(name, data, "truth", expected)


class CocoTruth:
    """Segments of a COCO file, painted in the file's order; where two overlap the first one wins.

    Args:
        dataset: the parsed file.
        names: the vocabulary's labels in order, without background.
        crowd: what crowd regions are.

    Raises:
        UserError: no category is in the vocabulary, or the file is not COCO.
    """

    def __init__(self, dataset: dict[str, Any], names: Sequence[str], crowd: Crowd) -> None:
        try:
            self._index(dataset, names, crowd)
        except _NOT_COCO as error:
            raise UserError(
                f"the truth is not a COCO file of images and segments: {error!r}"
            ) from error

    def _index(self, dataset: dict[str, Any], names: Sequence[str], crowd: Crowd) -> None:
        self._crowd = crowd
        number = {name.casefold(): index for index, name in enumerate(names, start=1)}
        categories = {parse_id(c["id"]): c["name"] for c in dataset["categories"]}
        self._label = {key: number.get(n.strip().casefold(), 0) for key, n in categories.items()}
        self.unknown = tuple(name for key, name in categories.items() if not self._label[key])
        if len(self.unknown) == len(categories):
            raise UserError(
                f"no category of the truth is a label of the run: the truth has "
                f"{', '.join(self.unknown[:8]) or 'none'}; the run has {', '.join(names[:8])}"
            )
        self._images = {image["file_name"]: image for image in dataset["images"]}
        self.num_images = len(self._images)
        base_names = Counter(PurePosixPath(name).name for name in self._images)
        self._by_base_name = {
            PurePosixPath(name).name: image
            for name, image in self._images.items()
            if base_names[PurePosixPath(name).name] == 1
        }
        self._segments: dict[str, list[dict[str, Any]]] = {}
        for segment in dataset["annotations"]:
            self._segments.setdefault(parse_id(segment["image_id"]), []).append(segment)
        known = {parse_id(image["id"]) for image in self._images.values() if "id" in image}
        if self._segments and known and known.isdisjoint(self._segments):
            raise UserError(
                "no segment of the truth belongs to one of its images, for example image_id "
                f"{next(iter(self._segments))}"
            )

    def label_map(self, path: str) -> LabelMap | None:
        """Paint one image, which is found by its path or else by an unambiguous base name."""
        image = self._images.get(path) or self._by_base_name.get(PurePosixPath(path).name)
        if image is None:
            return None
        try:
            return self._paint(image)
        except _NOT_COCO as error:
            raise UserError(f"the truth of {path} cannot be read: {error!r}") from error

    def _paint(self, image: dict[str, Any]) -> LabelMap:
        size_hw = coco_segmentation.parse_size_hw(image["height"], image["width"])
        painted = np.zeros(size_hw, np.int32)
        free = np.ones(size_hw, bool)
        for segment in self._segments.get(parse_id(image["id"]), ()):
            inside = coco_segmentation.decode_segmentation(segment["segmentation"], size_hw) & free
            ignored = segment.get("iscrowd") and self._crowd == "ignore"
            painted[inside] = IGNORE if ignored else self._label[parse_id(segment["category_id"])]
            free &= ~inside
        return painted


def _read_coco(uri: str) -> dict[str, Any]:
    folder, _, name = uris.normalise(uri).rpartition("/")
    try:
        dataset = json.loads(Folder(folder or "/").read_bytes(name))
    except FileNotFoundError as error:
        raise UserError(f"no truth at {redact(uri)}: there is no such file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{redact(uri)} is not a COCO file: {error}") from error
    keys = {"images", "annotations", "categories"}
    missing = keys - set(dataset) if isinstance(dataset, dict) else keys
    if missing:
        raise UserError(
            f"{redact(uri)} is not a COCO file of images and segments: "
            f"{', '.join(sorted(missing))} missing (a results file is a list of predictions, not "
            "a truth)"
        )
    return dataset


class FolderTruth:
    """Grey images: 0 background, k the vocabulary's label k, 255 not counted.

    With 16 bits 65535 is not counted, and neither is 255 if there is no such label. The map of
    `a/b.jpg` is `a/b.png`, or `a/b.jpg.png`.

    Args:
        uri: of the folder.
        num_labels: of the vocabulary.

    Raises:
        UserError: the folder has no label images.
    """

    def __init__(self, uri: str, num_labels: int) -> None:
        self._folder = Folder(uri)
        self._names = {name for name in self._folder.list() if name.lower().endswith(".png")}
        self._num_labels = num_labels
        self.num_images = len(self._names)
        self.unknown: tuple[str, ...] = ()
        if not self._names:
            raise UserError(
                f"no truth at {uri}: expected a COCO .json file or a folder of .png label images"
            )

    def label_map(self, path: str) -> LabelMap | None:
        """Read the label image of one image."""
        candidates = (f"{without_suffix(path)}.png", f"{path}.png")
        name = next((name for name in candidates if name in self._names), None)
        if name is None:
            return None
        try:
            with Image.open(io.BytesIO(self._folder.read_bytes(name))) as image:
                values = np.array(image)
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"the truth {name} cannot be read: {error}") from error
        painted = values.astype(np.int32)
        has_16_bits = values.dtype != np.uint8
        if has_16_bits:
            painted[painted == _IGNORED_16_BITS] = IGNORE
        if not has_16_bits or self._num_labels < _IGNORED_8_BITS:
            painted[painted == _IGNORED_8_BITS] = IGNORE
        if painted.ndim != 2 or painted.max() > self._num_labels:
            raise UserError(
                f"the truth {name} is not a label image: expected one channel of values 0 to "
                f"{self._num_labels} and 255, got shape {values.shape}, values up to {values.max()}"
            )
        return painted


class ProtocolTruth:
    """Label images of a public data set, whose pixel values mean what a protocol says.

    The map of an image has its name with another ending; if the folders differ, a file name that
    is unambiguous is enough.

    Args:
        folder: of the maps.
        maps: how they are named and what their pixels mean.
        images: how the images may be named.
    """

    def __init__(self, folder: Folder, maps: TruthMaps, images: Sequence[ImageFiles]) -> None:
        self._folder = folder
        self._image_endings = tuple(files.ending for files in images)
        self._labels_of_values = _labels_of_values(maps.values)
        names = [name for name in folder.list() if name.endswith(maps.ending)]
        self._by_stem = {name.removesuffix(maps.ending): name for name in names}
        base_names = Counter(PurePosixPath(stem).name for stem in self._by_stem)
        self._by_base_name = {
            PurePosixPath(stem).name: name
            for stem, name in self._by_stem.items()
            if base_names[PurePosixPath(stem).name] == 1
        }
        self.num_images = len(names)
        self.unknown: tuple[str, ...] = ()

    def label_map(self, path: str) -> LabelMap | None:
        """Read the label image of one image."""
        endings = [ending for ending in self._image_endings if path.endswith(ending)]
        stem = path.removesuffix(endings[0]) if endings else without_suffix(path)
        name = self._by_stem.get(stem) or self._by_base_name.get(PurePosixPath(stem).name)
        if name is None:
            return None
        place = f"{redact(self._folder.uri)}/{name}"
        try:
            with Image.open(io.BytesIO(self._folder.read_bytes(name))) as image:
                if image.mode not in _ONE_BYTE_MODES:
                    raise UserError(
                        f"{place} is not a label image: expected one channel of bytes, or a "
                        f"palette, got {image.mode}; colours as such are not read"
                    )
                values = np.array(image, np.uint8)
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"{place} cannot be read: {error}") from error
        painted = self._labels_of_values[values]
        if (painted == _UNKNOWN).any():
            unknown = np.unique(values[painted == _UNKNOWN]).tolist()
            raise UserError(
                f"{place}: pixel values that this protocol does not know: "
                f"{', '.join(map(str, unknown[:8]))}; is it the data set's own label image?"
            )
        return painted


def _labels_of_values(values: PixelValues) -> NDArray[np.int32]:
    """Return (256,) the label of every pixel value: 0 background, k class k, -1 not counted."""
    table = np.full(256, _UNKNOWN, np.int32)
    table[list(values.labels)] = np.arange(1, len(values.labels) + 1)
    table[list(values.background)] = 0
    table[list(values.ignored)] = IGNORE
    return table
