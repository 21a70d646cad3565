"""Where a student's images and labels come from, whatever it is: a run, or a public data set."""

from typing import Any, NamedTuple, Protocol

from ovseg_core.images.decoding.decode import DecodedImage
from ovseg_core.training.students import Labels
from schemas.vocabulary import Vocabulary


class ImageLabels(NamedTuple):
    """The labels of one image, (H, W) each."""

    labels: Labels
    """What people said; else UNLABELLED, or IGNORED."""
    teacher: Labels
    """The teacher's labels, cleaned; never UNLABELLED."""
    reference: Labels
    """What a validation compares with: people's labels, else the teacher's before cleaning."""
    predicted: Labels | None = None
    """The teacher's labels before cleaning, for pictures; None: there is no teacher."""


class Source(Protocol):
    """Images with labels, numbered from 0.

    Attributes:
        vocabulary: the labels.
        num_images: that can be used.
        num_training: the first so many may be learned, the others only validate; None: all may.
        left_out: images that cannot be used, by the reason.
        known: labels, counted from 1, that people have labelled wherever they are in the images
            that are learned; empty: none.
        is_labelled: people have labelled some of their pixels.
        identity: all that can change a label, by dotted name.
        facts: what the model card says of it.
    """

    vocabulary: Vocabulary
    num_images: int
    num_training: int | None
    left_out: dict[str, int]
    known: frozenset[int]
    is_labelled: bool
    identity: dict[str, Any]
    facts: dict[str, Any]

    def path(self, number: int) -> str:
        """Return the path of an image in its collection."""
        ...

    def image(self, number: int) -> DecodedImage:
        """Read an image.

        Raises:
            ImageError: it cannot be read, or is another one than the labels are of.
        """
        ...

    def labels(self, number: int, image: DecodedImage) -> ImageLabels:
        """Return the labels of an image, (H, W) of its full size.

        Raises:
            ImageError: they are of another size.
            UserError: a truth that is damaged.
        """
        ...
