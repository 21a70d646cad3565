"""The annotated images of a run that have a CLIP vector, with their vectors."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.curation.images import AnnotatedImages
from pipeline.run.folder import RunFolder
from pipeline.run.vectors import VectorBatch, image_vectors, vector_clip
from schemas.base import counted
from schemas.errors import UserError

logger = logging.getLogger(__name__)


class ImagesWithVectors(NamedTuple):
    """The images that have a vector.

    Attributes:
        places: (N,) of `AnnotatedImages`, rising.
        vectors_ND: unit vectors of CLIP's joint space, float16.
        num_without: images without one.
    """

    places: NDArray[np.int64]
    vectors_ND: NDArray[np.float16]
    num_without: int


def images_with_vectors(images: AnnotatedImages) -> ImagesWithVectors:
    """Read the vectors of all images: 1 kB each for a joint space of 512.

    Raises:
        UserError: no image has one.
    """
    places, vectors_ND = of_vectors(images, lambda some_ND: some_ND)
    num_without = len(images) - len(places)
    if num_without:
        logger.warning(
            "%s of %s: no CLIP vector, so left out (annotated before vectors were kept)",
            counted(num_without, "image"),
            f"{len(images):,}",
        )
    order = np.argsort(places, kind="stable")
    return ImagesWithVectors(places[order], vectors_ND[order], num_without)


def of_vectors(
    images: AnnotatedImages, work: Callable[[NDArray[np.float16]], NDArray[Any]]
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the places (N,) of the images with a vector, and what is made of these.

    Args:
        images: of the run.
        work: returns a row for each of some vectors (N, D), of which only a shard's are in memory.

    Raises:
        UserError: no image has one.
    """
    ids, made = ids_and_work(images.run, work)
    places = images.places(ids)
    return places[places >= 0], made[places >= 0]


def ids_and_work(
    run: RunFolder, work: Callable[[NDArray[np.float16]], NDArray[Any]]
) -> tuple[pa.Array, NDArray[Any]]:
    """Return `image_id` (N,) of the images with a vector, and what is made of these.

    Args:
        run: the run.
        work: see `of_vectors`.

    Raises:
        UserError: no image has one.
    """
    ids: list[str] = []
    parts = []
    for batch in vector_batches(run):
        ids += batch.image_ids
        parts.append(work(batch.vectors_ND))
    return pa.array(ids, pa.string()), np.concatenate(parts)


def vector_batches(run: RunFolder) -> Iterator[VectorBatch]:
    """Yield the vectors of a run, see `image_vectors`.

    Raises:
        UserError: it has none.
    """
    _ = vector_clip(run)
    has_any = False
    for batch in image_vectors(run):
        has_any = True
        yield batch
    if not has_any:
        raise UserError(
            f"{run.folder.uri}: none of its images has a CLIP vector: they were annotated before "
            "ovseg kept vectors; annotate them again into another run folder"
        )
