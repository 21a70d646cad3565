"""Training data of a student from a public data set: its images and its own label images.

A protocol says which folders a student learns from, see `schemas/protocol.py`. An image's path has
the name of its split in front (`training/0001.png`): both splits may have a file of one name.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ovseg_core.training.students import IGNORED, Labels
from pipeline.collection.collect import collect
from pipeline.collection.rows import image_id
from pipeline.evaluation.protocol import find_images, load_protocol, protocol_names
from pipeline.evaluation.truth import (
    IGNORE,
    FileTruth,
    ProtocolTruth,
    Wanted,
    open_protocol_truth,
)
from pipeline.storage import uris
from schemas.config import ImageConfig
from schemas.errors import UserError
from schemas.protocol import BenchmarkProtocol
from schemas.redact import redact
from schemas.vocabulary import Vocabulary

TRAINING, VALIDATION = "training", "validation"


class ProtocolData:
    """What a student learns from a public data set, and what it is validated with.

    Args:
        name: of the protocol, see `load_protocol`.
        data: the data set's folder.
        image: which files are taken.

    Attributes:
        vocabulary: the protocol's classes; background phrases only where background is a class.
        images: rows of the manifest's schema that have a label image: those to be learned, sorted
            by path, then those of the split for validation.
        num_training: the first so many rows are to be learned; all of them where the data set has
            no split for validation.
        without_truth: paths of the images that are left out, as they have no label image.

    Raises:
        UserError: no such protocol, one without a split for training, or no images or truth.
    """

    def __init__(self, name: str, data: str, image: ImageConfig) -> None:
        protocol = _trainable(name)
        self.vocabulary = Vocabulary(
            labels=protocol.labels(protocol.recipe("student")), background=protocol.background
        )
        splits = {TRAINING: protocol.training, VALIDATION: protocol.validation}
        self._parts = {
            part: _open(name, protocol.with_files_of(split), data, image)
            for part, split in splits.items()
            if split
        }
        listed = pa.concat_tables(
            _with_prefix(part, one.images) for part, one in self._parts.items()
        )
        paths = listed.column("path").to_pylist()
        has_truth = [self._parts[_split(path)[0]].has_truth(_split(path)[1]) for path in paths]
        self.without_truth = tuple(
            path for path, has in zip(paths, has_truth, strict=True) if not has
        )
        self.images = listed.filter(pa.array(has_truth))
        num_all = self._parts[TRAINING].images.num_rows
        self.num_training = sum(has_truth[:num_all])
        if not self.num_training:
            raise UserError(
                f"{name}: none of the {num_all} training images in {redact(data)} has a label "
                "image of its name"
            )

    def label_map(self, path: str) -> Labels:
        """Read what is to be learned of an image of `images`.

        Returns:
            (H, W), the size of the label image; void is IGNORED, nothing is UNLABELLED.

        Raises:
            UserError: the label image is damaged, or holds values that the protocol does not know.
        """
        part, name = _split(path)
        painted = self._parts[part].truth.label_map(name)
        if painted is None:
            raise UserError(f"{path}: expected an image that has a label image")
        return np.where(painted == IGNORE, IGNORED, painted).astype(np.int16)

    def truth_sha256(self) -> str:
        """Return a hash (hex) that changes with any label; the label images are read for it."""
        parts = (f"{part} {one.truth.sha256()}\n" for part, one in self._parts.items())
        return hashlib.sha256("".join(parts).encode()).hexdigest()


class _Part(NamedTuple):
    """One split: its images, by their own paths, and its truth."""

    images: pa.Table
    truth: ProtocolTruth | FileTruth

    def has_truth(self, path: str) -> bool:
        return not isinstance(self.truth, ProtocolTruth) or self.truth.file_of(path) is not None


def _trainable(name: str) -> BenchmarkProtocol:
    protocol = load_protocol(name)
    if protocol.training is None:
        able = [one for one in protocol_names() if load_protocol(one).training]
        raise UserError(
            f"{name} has no split for training: expected {' or '.join(able)}, or a .yaml file of "
            "your own with `training`"
        )
    return protocol


def _open(name: str, protocol: BenchmarkProtocol, data: str, image: ImageConfig) -> _Part:
    files, folder = find_images(name, protocol, data)
    only = uris.join(data.rstrip("/"), files.split) if files.split else image.only
    place = uris.join(data.rstrip("/"), folder)
    images = collect(place, image.model_copy(update={"only": only}))
    paths = images.column("path").to_pylist()
    wanted = Wanted(protocol.classes, paths, image.max_pixels)
    return _Part(images, open_protocol_truth(name, protocol, protocol.truth, data, wanted))


def _with_prefix(part: str, images: pa.Table) -> pa.Table:
    """Return the rows under paths that begin with the name of their split."""
    paths = [f"{part}/{path}" for path in images.column("path").to_pylist()]
    ids = [image_id(path) for path in paths]
    for name, values in (("path", paths), ("image_id", ids)):
        index = images.schema.get_field_index(name)
        images = images.set_column(index, images.schema.field(index), pa.array(values))
    return images.replace_schema_metadata(None)


def _split(path: str) -> tuple[str, str]:
    part, _, name = path.partition("/")
    return part, name
