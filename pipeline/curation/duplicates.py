"""Near-duplicates of a run: groups of images that are the same picture.

Pairs whose vectors are close are found first (`neighbours.py`), then, unless it is told not to, the
pictures of those pairs are read and compared (`same_picture.py`): every image of such a pair once.
Two images are in one group if a chain of such pairs leads from one to the other.
"""

import logging
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.curation.images import AnnotatedImages
from pipeline.curation.neighbours import Pairs, pairs_above
from pipeline.curation.same_picture import SMALL_PX, are_same, correlation, small_picture
from pipeline.curation.with_vectors import images_with_vectors
from pipeline.run.images import RunImages
from pipeline.storage.waiting import StorageThreads
from schemas.base import Frozen, counted
from schemas.errors import ImageError

logger = logging.getLogger(__name__)

COMPARED_FROM = 0.9
"""Cosine from which pictures are compared. Of copies (JPEG of quality 30, 5 % cut off, mirrored,
half the size) of 640 drawn scenes and photographs 99.8 % were above it, with the embedded CLIP."""
ALONE_FROM = 0.97
"""Cosine from which two images are taken for one without a look at them: many crops and mirror
images are missed, and alike scenes are taken for one."""
_READERS = 16
_READ_PX = 2 * SMALL_PX


class DuplicateRules(Frozen):
    """What counts as a near-duplicate."""

    threshold: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Cosine of two vectors from which the pictures are compared, or, without pictures, from which
    the images are near-duplicates; null: 0.9, or 0.97 without pictures."""
    pictures: bool = True
    """Read the images of close pairs, and compare them."""

    @property
    def least(self) -> float:
        """The threshold that holds."""
        if self.threshold is not None:
            return self.threshold
        return COMPARED_FROM if self.pictures else ALONE_FROM


@dataclass(frozen=True)
class Duplicates:
    """The near-duplicates of a run's images.

    Attributes:
        groups: places of each group's images, the one to keep first: the largest in pixels, of
            equal ones the first in manifest order; then by falling size. Groups in the order of
            their first images.
        correlation: of each image, by place: the greatest with one of its group, see
            `same_picture.correlation`; NaN where none was computed.
        num_images: images that have a vector.
        num_without: images without one, which are in no group.
        num_close: pairs above the threshold.
        num_read: images that were read.
        num_unread: images that could not be; their pairs count from a cosine of `ALONE_FROM` on.
        num_cut: close pairs that were not looked at, of images with very many close ones.
    """

    groups: list[NDArray[np.int64]]
    correlation: NDArray[np.float32]
    num_images: int
    num_without: int = 0
    num_close: int = 0
    num_read: int = 0
    num_unread: int = 0
    num_cut: int = 0

    @property
    def num_copies(self) -> int:
        """Images that are near-duplicates of a kept one."""
        return sum(len(group) - 1 for group in self.groups)


def find_duplicates(images: AnnotatedImages, rules: DuplicateRules) -> Duplicates:
    """Return the near-duplicates among the annotated images of a run.

    Raises:
        UserError: no image has a vector.
    """
    embedded = images_with_vectors(images)
    pairs = pairs_above(embedded.vectors_ND, rules.least)
    first, second = embedded.places[pairs.first], embedded.places[pairs.second]
    close = Pairs(first, second, pairs.cosine)
    num_read = num_unread = 0
    correlation_N = np.full(len(images), np.nan, np.float32)
    if rules.pictures and len(pairs.cosine):
        involved = np.unique([first, second])
        small, is_read = _read_small(images, involved)
        num_unread = int((~is_read).sum())
        num_read = len(involved) - num_unread
        close, found = _confirmed(images, close, involved, small, is_read)
        for one in (close.first, close.second):
            np.fmax.at(correlation_N, one, found)
        if num_unread:
            logger.warning(
                "%s could not be read: near-duplicates of these are judged by their vectors alone "
                "(a cosine of %s)",
                counted(num_unread, "image"),
                ALONE_FROM,
            )
    if pairs.num_cut:
        logger.warning(
            "%s close pairs were not looked at: some images have very many that are close to them; "
            "a higher --threshold leaves fewer",
            f"{pairs.num_cut:,}",
        )
    return Duplicates(
        groups_of(close, images.size_px),
        correlation_N,
        len(embedded.places),
        num_without=embedded.num_without,
        num_close=len(pairs.cosine) + pairs.num_cut,
        num_read=num_read,
        num_unread=num_unread,
        num_cut=pairs.num_cut,
    )


def groups_of(pairs: Pairs, size_px: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Return the groups that pairs of near-duplicates connect, see `Duplicates.groups`.

    Args:
        pairs: of places.
        size_px: of every image.
    """
    shape = (len(size_px), len(size_px))
    edges = coo_array((np.ones(len(pairs.first), bool), (pairs.first, pairs.second)), shape)
    _, group_N = connected_components(edges, directed=False)
    members = np.unique([pairs.first, pairs.second]).astype(np.int64)
    order = members[np.lexsort((members, -size_px[members], group_N[members]))]
    starts = np.flatnonzero(np.diff(group_N[order], prepend=-1))
    return sorted(np.split(order, starts[1:]), key=lambda group: group.min()) if len(order) else []


def _read_small(
    images: AnnotatedImages, places: NDArray[np.integer]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return small pictures of images, and which of them could be read."""
    source = RunImages(images.run)
    small = np.zeros((len(places), SMALL_PX, SMALL_PX, 3), np.uint8)

    def read(number: int) -> bool:
        try:
            decoded = source.read_image(images.row(int(places[number])), _READ_PX)
        except ImageError:
            return False
        small[number] = small_picture(decoded.rgb)
        return True

    with StorageThreads(_READERS) as pool:
        return small, np.array(list(pool.map(read, range(len(places)))), bool)


def _confirmed(
    images: AnnotatedImages,
    pairs: Pairs,
    involved: NDArray[np.integer],
    small: NDArray[np.uint8],
    is_read: NDArray[np.bool_],
) -> tuple[Pairs, NDArray[np.float32]]:
    """Return the pairs that are the same picture, and their correlation; NaN: not both are read."""
    first, second = (np.searchsorted(involved, one) for one in (pairs.first, pairs.second))
    are_read = is_read[first] & is_read[second]
    is_same = pairs.cosine >= ALONE_FROM
    found = np.full(len(first), np.nan, np.float32)
    found[are_read] = correlation(small, first[are_read], second[are_read])
    ratio = images.ratio
    ratios = (ratio[one[are_read]] for one in (pairs.first, pairs.second))
    is_same[are_read] = are_same(found[are_read], *ratios)
    same = Pairs(pairs.first[is_same], pairs.second[is_same], pairs.cosine[is_same])
    return same, found[is_same]
