"""True label maps to compare with: COCO's `instances.json`, or a folder of label images.

A truth map is int32 (H, W): 0 background, k the vocabulary's label k, -1 not counted.
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
from ovseg_core.rle.coco_segmentation import id_of
from pipeline.evaluation.metrics import IGNORE as IGNORED_GREY
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from schemas.errors import UserError
from schemas.redact import redact

IGNORE = -1
"""Value of pixels that are not counted; outside any vocabulary, however long."""

_IGNORED_WIDE = 65535
"""The same in label images of 16 bits."""

_NO_COCO = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading raises where a file has COCO's names but not its form."""

LabelMap = NDArray[np.int32]
Crowd = Literal["label", "ignore"]


class Truth(Protocol):
    """Where true label maps come from."""

    num_images: int
    unknown: tuple[str, ...]
    """Categories that are not in the vocabulary; they count as background."""

    def label_map(self, path: str) -> LabelMap | None:
        """Return the map of the image at `path` of its collection; None where there is none."""
        ...


def open_truth(uri: str, names: Sequence[str], crowd: Crowd = "label") -> Truth:
    """Open a `.json` file as COCO and anything else as a folder of label images.

    Args:
        uri: local path or fsspec URL.
        names: the vocabulary's labels in order, without background.
        crowd: what COCO's crowd regions are: their label (as in CLIP-DIY's own evaluation), or
            pixels that are not counted.

    Raises:
        UserError: nothing there, no COCO, or no category in common with the vocabulary.
    """
    if uri.lower().endswith(".json"):
        return CocoTruth(_read_json(uri), names, crowd)
    return FolderTruth(uri, len(names))


class CocoTruth:
    """Segments of a COCO file, painted in the file's order; where two overlap the first stays."""

    def __init__(self, dataset: dict[str, Any], names: Sequence[str], crowd: Crowd) -> None:
        """Index a parsed file.

        Raises:
            UserError: no category in common with the vocabulary, or no COCO.
        """
        try:
            self._index(dataset, names, crowd)
        except _NO_COCO as error:
            raise UserError(
                f"the truth is no COCO file of images and segments: {error!r}"
            ) from error

    def _index(self, dataset: dict[str, Any], names: Sequence[str], crowd: Crowd) -> None:
        self._crowd = crowd
        number = {name.casefold(): index for index, name in enumerate(names, start=1)}
        categories = {id_of(c["id"]): c["name"] for c in dataset["categories"]}
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
            self._segments.setdefault(id_of(segment["image_id"]), []).append(segment)
        known = {id_of(image["id"]) for image in self._images.values() if "id" in image}
        if self._segments and known and known.isdisjoint(self._segments):
            raise UserError(
                "no segment of the truth is of one of its images, for example image_id "
                f"{next(iter(self._segments))}"
            )

    def label_map(self, path: str) -> LabelMap | None:
        """Paint one image, found by its path or else by an unambiguous base name."""
        image = self._images.get(path) or self._by_base_name.get(PurePosixPath(path).name)
        if image is None:
            return None
        try:
            return self._paint(image)
        except _NO_COCO as error:
            raise UserError(f"the truth of {path} cannot be read: {error!r}") from error

    def _paint(self, image: dict[str, Any]) -> LabelMap:
        size_hw = coco_segmentation.size_hw(image["height"], image["width"])
        painted = np.zeros(size_hw, np.int32)
        free = np.ones(size_hw, bool)
        for segment in self._segments.get(id_of(image["id"]), ()):
            inside = coco_segmentation.pixels(segment["segmentation"], size_hw) & free
            ignored = segment.get("iscrowd") and self._crowd == "ignore"
            painted[inside] = IGNORE if ignored else self._label[id_of(segment["category_id"])]
            free &= ~inside
        return painted


class FolderTruth:
    """Grey images: 0 background, k the vocabulary's label k, 255 not counted.

    With 16 bits it is 65535 that is not counted, and 255 only if there is no such label.

    The map of `a/b.jpg` is `a/b.png`, or `a/b.jpg.png`.
    """

    def __init__(self, uri: str, num_labels: int) -> None:
        """List the folder."""
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
        """Read one map."""
        candidates = (str(PurePosixPath(path).with_suffix(".png")), f"{path}.png")
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
            painted[painted == _IGNORED_WIDE] = IGNORE
        if not has_16_bits or self._num_labels < IGNORED_GREY:
            painted[painted == IGNORED_GREY] = IGNORE
        if painted.ndim != 2 or painted.max() > self._num_labels:
            raise UserError(
                f"the truth {name} is no label image: expected one channel of values 0 to "
                f"{self._num_labels} and 255, got shape {values.shape}, values up to {values.max()}"
            )
        return painted


def _read_json(uri: str) -> dict[str, Any]:
    folder, _, name = uris.normalise(uri).rpartition("/")
    try:
        dataset = json.loads(Folder(folder or "/").read_bytes(name))
    except FileNotFoundError as error:
        raise UserError(f"no truth at {redact(uri)}: there is no such file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{redact(uri)} is no COCO file: {error}") from error
    parts = {"images", "annotations", "categories"}
    missing = parts - set(dataset) if isinstance(dataset, dict) else parts
    if missing:
        raise UserError(
            f"{redact(uri)} is no COCO file of images and segments: it has no "
            f"{', '.join(sorted(missing))} (results files are lists of guesses, not truth)"
        )
    return dataset
