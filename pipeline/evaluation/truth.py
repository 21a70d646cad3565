"""True label maps: from COCO's `instances.json`, a folder of label images, or a public data set.

A true label map is int32 (H, W): 0 background, k the vocabulary's label k, -1 not counted.
"""

import hashlib
import io
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationError

from ovseg_core.images.decoding.decode import PILLOW_DAMAGE
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.label_map import paint_label_map
from pipeline.corrections.matching import count_px
from pipeline.corrections.names import LabelNames, match_names
from pipeline.corrections.statements import best_statement, statements_by_path
from pipeline.evaluation.protocol import first_folder_with, missing_files
from pipeline.importers import coco
from pipeline.importers.shared.notes import NoteKind, Notes
from pipeline.importers.shared.tool_file import ToolImage
from pipeline.run.file_names import shortened, without_suffix
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from schemas.base import Frozen, did_you_mean
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
from schemas.untrusted import MAX_PIXELS, printable
from schemas.vocabulary import is_background

IGNORE = -1
"""Value of pixels that are not counted; no vocabulary reaches it, however long."""
_IGNORED_8_BITS, _IGNORED_16_BITS = 255, 65535
"""The same in label images."""
_UNKNOWN = -2
"""In a table of pixel values: the protocol has no meaning for this one."""
_ONE_BYTE_MODES = ("L", "P")
"""Pillow's modes of one channel whose values, or palette indices, are bytes."""
_LABEL_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
_COCO_ENDINGS = (".json", ".json.gz", ".zip")
_CLASSES = "classes.json"
_NAMED = 8
"""Names of a list that an error gives."""

LabelMap = NDArray[np.int32]
Crowd = Literal["label", "ignore"]
"""COCO's crowd regions have their label (as in CLIP-DIY's own evaluation), or are not counted."""


TruthBackground = Literal["0", "255", "none"]
"""What the values of label images mean, see `FolderTruth`."""


class Truth(Protocol):
    """A source of true label maps.

    Attributes:
        num_images: images with a truth.
        unknown: categories of the truth that are not in the vocabulary; they are background.
        notes: what of the truth was left out or read in another way.
        values: in words, what pixel values were taken for; empty: there is nothing to choose.
    """

    num_images: int
    unknown: tuple[str, ...]
    notes: Notes
    values: str

    def label_map(self, path: str) -> LabelMap | None:
        """Return the map of the image with this path in its collection; None if it has none."""
        ...


class FileTruth(Truth, Protocol):
    """A truth out of a user's own file or folder, which may say nothing of some labels.

    Attributes:
        covered: the labels, counted from 1, that it has a name for: pixels of other labels are
            background in its maps.
        paths: of the images that have a truth.
    """

    covered: frozenset[int]
    paths: frozenset[str]

    def sha256(self) -> str:
        """Return a hash (hex) that changes with any label; label images are read for it."""
        ...


class Wanted(NamedTuple):
    """The run that a truth is for.

    Attributes:
        labels: of the vocabulary in order, without background.
        paths: of all images, also of those that failed.
        max_px: of the largest annotated image; larger truths are not read.
        renamed: labels of the run by the truth's names for them.
    """

    labels: Sequence[str]
    paths: Sequence[str]
    max_px: int = MAX_PIXELS
    renamed: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def of_run(cls, run: RunFolder, labels: Sequence[str] = ()) -> "Wanted":
        """Return what a run wants; its labels may have other names."""
        names = labels or run.info.job().vocabulary.names
        paths = run.manifest().column("path").to_pylist()
        return cls(names, paths, RunReader(run).largest_px())


def open_truth(
    uri: str, wanted: Wanted, crowd: Crowd = "label", background: TruthBackground | None = None
) -> FileTruth:
    """Open a `.json` file (or that packed) as COCO and anything else as a folder of label images.

    Args:
        uri: local path or fsspec URL.
        wanted: labels and images of the run.
        crowd: what COCO's crowd regions are.
        background: what label images mean; None: what their `classes.json` says, else `0`.

    Raises:
        UserError: nothing is there, it is not COCO, or no category is in the vocabulary.
    """
    if uris.without_query(uri).lower().endswith(_COCO_ENDINGS):
        return CocoTruth(_read_file(uri), wanted, crowd)
    return FolderTruth(uri, wanted, background)


def open_protocol_truth(
    name: str,
    protocol: BenchmarkProtocol,
    candidates: tuple[TruthFiles, ...],
    data: str,
    wanted: Wanted,
) -> "ProtocolTruth | FileTruth":
    """Open the truth of a public data set: the first of the candidates that is there.

    Args:
        name: of the protocol, for messages.
        protocol: has the names of images and classes.
        candidates: the protocol's truth, or a recipe's.
        data: the data set's folder.
        wanted: images of the run; the labels are the protocol's.

    Raises:
        UserError: none is there; the message says what was expected.
    """
    expected = []
    for files in candidates:
        if isinstance(files, TruthInstances):
            expected.append(files.instances)
            if Folder(data).exists(files.instances):
                uri = uris.join(data.rstrip("/"), files.instances)
                return open_truth(uri, wanted._replace(labels=protocol.classes))
            continue
        expected += [f"{folder}/*{files.ending}" for folder in files.folder]
        folder = first_folder_with(data, files.folder, files.ending)
        if folder:
            return ProtocolTruth(Folder(data).child(folder), files, protocol.images, wanted)
    raise missing_files(name, data, "truth", expected)


class CocoTruth:
    """Segments of a COCO file, painted in the file's order; where two overlap the first one wins.

    The file is read, and its images are found in the run, as by `ovseg import-review`. An image
    without annotations is all background; one with boxes only has no truth.

    Args:
        data: the file.
        wanted: labels and images of the run.
        crowd: what crowd regions are.

    Raises:
        UserError: no category is in the vocabulary, or the file is not COCO.
    """

    values = ""

    def __init__(self, data: bytes, wanted: Wanted, crowd: Crowd) -> None:
        self.notes = Notes()
        self._sha256 = hashlib.sha256(data).hexdigest()
        self._crowd = crowd
        self._max_px = wanted.max_px
        try:
            images = list(coco.read(data, self.notes, wanted.max_px))
        except UserError as error:
            raise UserError(f"the truth cannot be used: {error}") from error
        self._label, self.unknown = _label_numbers(self.notes.listed_labels, wanted)
        self.covered = frozenset(self._label.values()) - {0}
        self.num_images = len(images)
        self._images: dict[str, ToolImage] = {}
        for path, statements in statements_by_path(wanted.paths, images, self.notes).items():
            image = self._choose(statements)
            if image is not None:
                self._images[path] = image
        self.paths = frozenset(self._images)

    def _choose(self, images: Sequence[ToolImage]) -> ToolImage | None:
        """Return the statement on an image that counts, and note what is left out."""
        with_masks = [image for image in images if image.masks or not image.num_left_out]
        best = best_statement(with_masks) if with_masks else None
        for image in images:
            if image is best:
                continue
            if best is None:
                self.notes.add(NoteKind.BOX_ONLY, image.name)
            else:
                self.notes.add(NoteKind.REPEATED, f"{image.name}: with {len(image.masks)} masks")
        if best is None:
            return None
        if best.num_left_out:
            self.notes.add(NoteKind.OTHER_SHAPES, best.name, best.num_left_out)
        if best.frame_note:
            self.notes.add(NoteKind.FRAMES, f"{best.name}: {best.frame_note}")
        for mask in best.masks:
            if not count_px(mask.rle_counts, mask.size_hw):
                self.notes.add(NoteKind.DROPPED_MASKS, f"{best.name}: {mask.label}, empty")
        return best

    def statement(self, path: str) -> ToolImage | None:
        """Return what the file says of an image, in its own frame; None: it has no truth."""
        return self._images.get(path)

    def label_number(self, name: str) -> int:
        """Return the label k of a category; 0: it is none of the run's labels."""
        return self._label.get(name, 0)

    def label_map(self, path: str) -> LabelMap | None:
        """Paint one image."""
        image = self._images.get(path)
        if image is None or image.size_hw is None:
            return None
        if image.size_hw[0] * image.size_hw[1] > self._max_px:
            return _unread(image.size_hw)
        not_counted = 1 + max(self._label.values())
        values = [
            not_counted
            if mask.is_crowd and self._crowd == "ignore"
            else self.label_number(mask.label)
            for mask in image.masks
        ]
        counts = [mask.rle_counts for mask in image.masks]
        painted = paint_label_map(counts[::-1], values[::-1], image.size_hw).astype(np.int32)
        painted[painted == not_counted] = IGNORE
        return painted

    def sha256(self) -> str:
        """Return the hash of the file, see `FileTruth`."""
        return self._sha256


def _label_numbers(theirs: Iterable[str], wanted: Wanted) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the number of each name that is a label, 0 for background, and the other names.

    Raises:
        UserError: no name is a label; a renamed label is none of the run, or is not in the truth.
    """
    labels = wanted.labels
    found = LabelNames(labels, wanted.renamed)
    numbers = {name: found.find(name) or 0 for name in theirs}
    unknown = sorted(name for name, k in numbers.items() if not k and not is_background(name))
    if not any(numbers.values()):
        pair = next(
            (f"{name}={label}" for name in unknown for label in labels if label in name.split()),
            "couch=sofa",
        )
        raise UserError(
            f"no category of the truth is a label of the run: the truth has "
            f"{_first(unknown) or 'none'}; the run has {_first(labels)}; give a truth with the "
            "run's labels, or say with --label THEIRS=OURS, once for each name, which are the "
            f"same, such as --label {shlex.quote(pair)}"
        )
    if unused := sorted(wanted.renamed.keys() - found.used):
        raise UserError(
            f"--label: the truth has no {unused[0]!r}: {did_you_mean(unused[0], list(numbers))}"
        )
    return numbers, tuple(unknown)


def _first(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many follow."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _read_file(uri: str) -> bytes:
    folder, name = uris.parent_and_name(uris.normalise(uri))
    try:
        return Folder(folder or "/").read_bytes(name)
    except FileNotFoundError as error:
        raise UserError(f"no truth at {redact(uri)}: there is no such file") from error


class FolderTruth:
    """Grey label images, 8 or 16 bits; the map of `a/b.jpg` is `a/b.png` or `a/b.jpg.png`.

    A `classes.json` in the folder or the one above (`ovseg export --to semantic_png` writes one)
    says what the values mean: `classes` are the names of the values from 0, `ignore` the value that
    is not counted. `background` says it instead, or `0` where there is neither:

    - `0`: 0 is background, k the vocabulary's label k, 255 is not counted;
    - `255`: 255 is background, k the label k + 1;
    - `none`: 255 is not counted, k the label k + 1.

    With 16 bits 65535 stands for 255, and so does 255 if there are fewer labels.

    Args:
        uri: of the folder.
        wanted: labels and images of the run.
        background: what values mean; None: see above.

    Raises:
        UserError: the folder has no label images, or no label of the run; or labels have other
            names, and nothing names the values.
    """

    def __init__(self, uri: str, wanted: Wanted, background: TruthBackground | None = None) -> None:
        self.notes = Notes()
        self.unknown: tuple[str, ...] = ()
        self._folder = Folder(uri)
        classes = None if background else _read_classes(uri)
        names = self._pngs()
        if names and all(name.startswith("labels/") for name in names):  # our own export's folder
            self._folder = self._folder.child("labels")
            names = self._pngs()
        if not names:
            raise UserError(
                f"no truth at {uri}: expected a COCO .json file or a folder of .png label images"
            )
        self.num_images = len(names)
        self._name_of_path = _find_label_images(names, wanted.paths, self.notes)
        self.paths = frozenset(self._name_of_path)
        self._max_px = wanted.max_px
        num_labels = len(wanted.labels)
        if classes is None and wanted.renamed:
            why = "--truth-background takes its place" if background else "there is none"
            raise UserError(
                f"--label {'='.join(next(iter(wanted.renamed.items())))}: expected a truth with "
                f"names of its own; the label images in {redact(uri)} hold numbers, which only a "
                f"{_CLASSES} names ({why}): leave --label out, or write a {_CLASSES}"
            )
        self.covered = frozenset(range(1, num_labels + 1))
        if classes is None:
            meaning: TruthBackground = background or "0"
            self.values = _VALUES[meaning]
            self._tables = [_table(num_labels, meaning, bits) for bits in (8, 16)]
        else:
            self.values = "as classes.json says"
            numbers, self.unknown = _label_numbers(classes.classes, wanted)
            self.covered = frozenset(numbers.values()) - {0}
            table = np.full(1 << 16, _UNKNOWN, np.int32)
            table[: len(classes.classes)] = [numbers[name] for name in classes.classes]
            if classes.ignore is not None:
                table[classes.ignore] = IGNORE
            self._tables = [table, table]

    def _pngs(self) -> list[str]:
        return [name for name in self._folder.list() if name.lower().endswith(".png")]

    def label_map(self, path: str) -> LabelMap | None:
        """Read the label image of one image."""
        name = self._name_of_path.get(path)
        if name is None:
            return None
        with _label_image(self._folder, name) as image:
            if image.width * image.height > self._max_px:
                return _unread((image.height, image.width))
            values = np.array(image)
        table = self._tables[values.dtype != np.uint8]
        whole = values.astype(np.int64)
        is_grey = whole.ndim == 2 and whole.min() >= 0 and whole.max() < len(table)
        painted = table[whole] if is_grey else None
        if painted is None or (painted == _UNKNOWN).any():
            known = np.flatnonzero(table != _UNKNOWN)
            highest = int(known[table[known] != IGNORE].max())
            raise UserError(
                f"the truth {name} is not a label image: expected one channel of values 0 to "
                f"{highest} and 255 ({self.values}), got shape {values.shape}, values up to "
                f"{values.max()}"
            )
        return painted

    def sha256(self) -> str:
        """Return the hash of the label images of the run and of their meaning."""
        digest = hashlib.sha256(self._folder.sha256(self._name_of_path.values()).encode())
        for table in self._tables:
            digest.update(table.tobytes())
        return digest.hexdigest()


@contextmanager
def _label_image(folder: Folder, name: str) -> Iterator[Image.Image]:
    """Open a label image, whose pixels are read in the block.

    Raises:
        UserError: it has too many pixels, is of another format, or is damaged.
    """
    place = printable(f"{redact(folder.uri)}/{name}")
    try:
        data = folder.read_bytes(name)
        # Of other formats some would start a program on the file.
        with Image.open(io.BytesIO(data), formats=_LABEL_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(
                    f"the truth {place} has {width} x {height} pixels: expected at most "
                    f"{MAX_PIXELS:,}"
                )
            yield image
    except (*PILLOW_DAMAGE, MemoryError) as error:
        raise UserError(
            f"the truth {place} cannot be read: expected {', '.join(_LABEL_FORMATS)}: {error}"
        ) from error


def _unread(size_hw: SizeHW) -> LabelMap:
    """Return a map of the size of a truth that is larger than every image of the run.

    It takes no memory; nothing is compared with it.
    """
    return np.broadcast_to(np.int32(IGNORE), size_hw)


_VALUES: dict[TruthBackground, str] = {
    "0": "0 is background, labels count from 1, 255 is not counted",
    "255": "labels count from 0, 255 is background",
    "none": "labels count from 0, 255 is not counted",
}


def _table(num_labels: int, background: TruthBackground, bits: int) -> NDArray[np.int32]:
    """Return (65536,) the label of every pixel value without `classes.json`, see `FolderTruth`."""
    table = np.full(1 << 16, _UNKNOWN, np.int32)
    first = 0 if background == "0" else 1
    table[: num_labels + 1 - first] = np.arange(first, num_labels + 1)
    other = 0 if background == "255" else IGNORE
    if bits == 8 or num_labels < _IGNORED_8_BITS:
        table[_IGNORED_8_BITS] = other
    if bits == 16:
        table[_IGNORED_16_BITS] = other
    return table


class _Classes(Frozen):
    """The content of a `classes.json`."""

    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=1 << 16)]
    ignore: Annotated[int, Field(ge=0, lt=1 << 16)] | None = None
    bits: int = 8


def _read_classes(uri: str) -> _Classes | None:
    """Return the `classes.json` of a folder of label images, or of the folder above."""
    above = uri.rstrip("/").rpartition("/")[0] or "."
    for folder in (uri, above):
        try:
            return _Classes.model_validate_json(Folder(folder).read_bytes(_CLASSES))
        except FileNotFoundError:
            continue
        except ValidationError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(
                f"{redact(folder)}/{_CLASSES} does not say what the label images mean: expected "
                f'{{"classes": [NAMES], "ignore": 255}}: {reason}; or say it by --truth-background'
            ) from error
    return None


def _find_label_images(names: Sequence[str], paths: Sequence[str], notes: Notes) -> dict[str, str]:
    """Return the label image of each image that has one, and note the others.

    A label image with the image's whole name counts first, or with the one that exports give to an
    image of a very long name, then one of the same stem if no other image could be meant, then what
    the importers' matching of names finds.
    """
    by_lower = {name[:-4] + ".png": name for name in names}
    found = {
        path: by_lower[f"{name}.png"]
        for path in paths
        for name in _own_names(path)
        if f"{name}.png" in by_lower
    }
    stems = Counter(without_suffix(path) for path in paths if path not in found)
    taken, ambiguous = set(found.values()), set()
    for path in paths:
        stem = without_suffix(path)
        name = by_lower.get(f"{stem}.png")
        if path in found or name is None:
            continue
        if stems[stem] > 1 or name in taken:
            ambiguous.add(name)
        else:
            found[path] = name
    used = {*found.values(), *ambiguous}
    rest = [name for name in names if name not in used]
    matches = match_names(paths, [(name,) for name in rest]) if rest else None
    unclear = set(matches.ambiguous) if matches else set[int]()
    for place, name in enumerate(rest):
        match = matches.found[place] if matches else None
        if match is not None and match.path not in found:
            found[match.path] = name
            notes.add(NoteKind.LOOSE_NAMES, f"{name}: {match.path} ({match.how})")
        elif place in unclear:
            ambiguous.add(name)
        else:
            notes.add(NoteKind.UNKNOWN_IMAGES, name)
    for name in sorted(ambiguous):
        notes.add(NoteKind.AMBIGUOUS_NAMES, name)
    return found


def _own_names(path: str) -> Iterator[str]:
    """Yield what names a label image of no other image, the best last."""
    for name in (without_suffix(path), path):
        short = shortened(name, path)
        if short != name:
            yield short
    yield path


class ProtocolTruth:
    """Label images of a public data set, whose pixel values mean what a protocol says.

    The map of an image has its name with another ending; if the folders differ, a file name is
    enough that is unambiguous among the maps and among the images.

    Args:
        folder: of the maps.
        maps: how they are named and what their pixels mean.
        images: how the images may be named.
        wanted: images of the run; its labels are not asked.
    """

    values = ""

    def __init__(
        self,
        folder: Folder,
        maps: TruthMaps,
        images: Sequence[ImageFiles],
        wanted: Wanted,
    ) -> None:
        self._folder = folder
        self._paths = wanted.paths
        self.notes = Notes()
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
        stems = [self._stem(path) for path in wanted.paths]
        self._max_px = wanted.max_px
        self._images = Counter(PurePosixPath(s).name for s in stems if s not in self._by_stem)
        self.num_images = len(names)
        self.unknown: tuple[str, ...] = ()

    def _stem(self, path: str) -> str:
        endings = [ending for ending in self._image_endings if path.endswith(ending)]
        return path.removesuffix(endings[0]) if endings else without_suffix(path)

    def file_of(self, path: str) -> str | None:
        """Return the name of an image's label image; None if it has none."""
        stem = self._stem(path)
        base = PurePosixPath(stem).name
        name = self._by_stem.get(stem)
        if name is None and self._images[base] < 2:
            name = self._by_base_name.get(base)
        return name

    def label_map(self, path: str) -> LabelMap | None:
        """Read the label image of one image."""
        name = self.file_of(path)
        if name is None:
            return None
        place = f"{redact(self._folder.uri)}/{name}"
        with _label_image(self._folder, name) as image:
            if image.width * image.height > self._max_px:
                return _unread((image.height, image.width))
            if image.mode not in _ONE_BYTE_MODES:
                raise UserError(
                    f"{place} is not a label image: expected one channel of bytes, or a "
                    f"palette, got {image.mode}; colours as such are not read"
                )
            values = np.array(image, np.uint8)
        painted = self._labels_of_values[values]
        if (painted == _UNKNOWN).any():
            unknown = np.unique(values[painted == _UNKNOWN]).tolist()
            raise UserError(
                f"{place}: pixel values that this protocol does not know: "
                f"{', '.join(map(str, unknown[:8]))}; is it the data set's own label image?"
            )
        return painted

    def sha256(self) -> str:
        """Return the hash of the images' label images and of their meaning; they are read."""
        digest = hashlib.sha256(self._labels_of_values.tobytes())
        names = {name for path in self._paths if (name := self.file_of(path)) is not None}
        digest.update(self._folder.sha256(names).encode())
        return digest.hexdigest()


def _labels_of_values(values: PixelValues) -> NDArray[np.int32]:
    """Return (256,) the label of every pixel value: 0 background, k class k, -1 not counted."""
    table = np.full(256, _UNKNOWN, np.int32)
    table[list(values.labels)] = np.arange(1, len(values.labels) + 1)
    table[list(values.background)] = 0
    table[list(values.ignored)] = IGNORE
    return table
