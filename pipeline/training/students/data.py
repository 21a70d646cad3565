"""What a student learns and is validated with, drawn from its source.

Shapes: H W pixels of an image.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovseg_core.images.batch import Image, to_tensor
from ovseg_core.images.decoding.decode import DecodedImage
from ovseg_core.training.students import IGNORED, check_student
from pipeline.annotate.image_errors import value_or_error
from pipeline.collection.image_source import read_image
from pipeline.storage.places import ImagePlaces
from pipeline.training.store import images_sha256
from pipeline.training.students.sources.protocol_data import ProtocolData
from pipeline.training.students.sources.run_source import RunSource
from pipeline.training.students.sources.source import ImageLabels, Source
from schemas.config import ImageConfig, StudentConfig
from schemas.errors import CollectionError, ConfigError, ErrorCode, ImageError, UserError
from schemas.records import ImageRef
from schemas.redact import redact
from schemas.tables import to_records

MAX_VALIDATION = 1000
"""Greatest number of images that a share of the collection keeps for validation."""


class Example(NamedTuple):
    """One image in memory."""

    path: str
    image: Image
    labels: ImageLabels


class StudentData:
    """The images that are learned and those that validate.

    Args:
        config: of the training.

    Attributes:
        source: of images and labels.
        training: numbers of the images that are learned, ascending.
        validation: numbers of those that validate.

    Raises:
        ConfigError: self-training, where nobody has labelled anything.
        UserError: nothing to learn from, see the sources.
    """

    def __init__(self, config: StudentConfig) -> None:
        self.source: Source
        if config.protocol:
            self.source = ProtocolSource(config)
        else:
            self.source = RunSource(config)
        source = self.source
        if check_student(config.student).trains_itself and not source.is_labelled:
            raise ConfigError(
                "student.options.self_training_from: nobody has labelled anything in what is "
                "learned, so that the student would learn nothing but its own predictions, and end "
                "with background everywhere (docs/students.md): review some images, give --truth, "
                "or leave it at 1"
            )
        # The order is a function of the seed; so a limit takes others with another seed.
        rng = np.random.default_rng([config.seed, 3])
        own_split = source.num_training is not None
        order = rng.permutation(source.num_training or source.num_images)
        chosen = order[: config.limit or None].tolist()
        if own_split:
            held = []
            self.validation = list(range(source.num_training or 0, source.num_images))
        else:
            share = round(config.validation_share * len(chosen))
            least = 1 if config.validation_share and len(chosen) > 1 else 0
            held = chosen[: min(max(share, least), MAX_VALIDATION, len(chosen) - 1)]
            self.validation = sorted(held)
        self.training = sorted(chosen[len(held) :])

    @property
    def counts(self) -> dict[str, int]:
        """How many images are learned, validate and are left out, in words."""
        not_drawn = self.source.num_images - len(self.training) - len(self.validation)
        return {
            "learned": len(self.training),
            "kept for validation": len(self.validation),
            **({"not drawn (limit)": not_drawn} if not_drawn else {}),
            **self.source.left_out,
        }

    @property
    def known(self) -> Tensor | None:
        """Bool by class: those that people have labelled everywhere, see `StudentTask.loss`."""
        if not self.source.known:
            return None
        classes = range(1 + len(self.source.vocabulary.labels))
        return torch.tensor([number in self.source.known for number in classes])

    def example(self, number: int) -> Example | ImageError:
        """Read an image with its labels; one that cannot be read is returned as its error.

        Raises:
            UserError: a truth that is damaged.
        """
        found = value_or_error(self._example_or_user_error, number)
        if isinstance(found, UserError):
            raise found
        return found

    def _example_or_user_error(self, number: int) -> Example | UserError:
        try:
            image = self.source.image(number)
            labels = self.source.labels(number, image)
        except UserError as error:  # not of this image alone
            return error
        return Example(self.source.path(number), to_tensor(image.rgb), labels)


class ProtocolSource:
    """A public data set as a source: every pixel is labelled or ignored; see `Source`.

    Args:
        config: of the training; names the protocol and its data.

    Raises:
        UserError: see `ProtocolData`.
    """

    known: frozenset[int] = frozenset()
    is_labelled = True

    def __init__(self, config: StudentConfig) -> None:
        self._config = ImageConfig()
        self._data = ProtocolData(config.protocol, config.data, self._config)
        allow = config.run.allow_private_addresses
        self._places = ImagePlaces.of_own(config.data, allow_private=allow)
        data = self._data
        self.vocabulary = data.vocabulary
        self.num_images = data.images.num_rows
        has_split = data.num_training < self.num_images
        self.num_training = data.num_training if has_split else None
        without = len(data.without_truth)
        self.left_out = {"without a label image": without} if without else {}
        if not self.num_images:
            raise CollectionError(f"{redact(config.data)}: no images to learn from")
        self.identity: dict[str, Any] = {
            "protocol": config.protocol,
            "vocabulary": data.vocabulary.model_dump(mode="json", exclude_defaults=True),
            "images": images_sha256(data.images),
            "truth": data.truth_sha256(),
        }
        self.facts: dict[str, Any] = {"truth": config.protocol, "masks": "truth"}

    def path(self, number: int) -> str:
        """Return the path of an image, with its split in front."""
        return self._ref(number).path

    def image(self, number: int) -> DecodedImage:
        """Read an image, see `Source`."""
        return read_image(self._ref(number), self._config, self._places)

    def labels(self, number: int, image: DecodedImage) -> ImageLabels:
        """Return the labels of an image, see `Source`."""
        labels = self._data.label_map(self._ref(number).path)
        if labels.shape != (image.height, image.width):
            raise ImageError(
                ErrorCode.NOT_FOUND,
                f"its label image has {labels.shape[1]} x {labels.shape[0]} pixels, it has "
                f"{image.width} x {image.height}",
            )
        return ImageLabels(labels, np.full_like(labels, IGNORED), labels)

    def _ref(self, number: int) -> ImageRef:
        return next(iter(to_records("manifest", self._data.images.slice(number, 1))))
