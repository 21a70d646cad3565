"""CLIP's vectors of a run's images, shard by shard, and the CLIP that made them.

Search, near-duplicates and sampling stand on them. An image that failed has no vector, nor has one
of a shard that an ovseg without vectors made.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from pipeline.run.folder import RunFolder
from schemas.config import ClipConfig
from schemas.errors import RunFolderError, UserError
from schemas.records import ShardDone

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

CLIP_ROLE = "clip"
"""Of the weights in a run's record."""


@dataclass(frozen=True)
class VectorBatch:
    """Vectors of images of one shard, in the order of their places.

    Attributes:
        image_ids: of the images.
        paths: likewise, relative to the collection's root.
        vectors_ND: float16 (N, D) unit vectors in CLIP's joint space; N is 1 or more.
    """

    image_ids: tuple[str, ...]
    paths: tuple[str, ...]
    vectors_ND: NDArray[np.float16]


@dataclass(frozen=True)
class VectorClip:
    """The CLIP that made a run's vectors: texts that its text encoder embeds can be compared.

    Attributes:
        config: names it as the job did.
        weights: `clip` and `clip.*` of the run's record: SHA-256 of its files, and its activation.
    """

    config: ClipConfig
    weights: dict[str, str]


def image_vectors(run: RunFolder) -> Iterator[VectorBatch]:
    """Yield the vectors of the run's current images, those that are there.

    Args:
        run: at any generation; images that are superseded in it are left out. It may go on: shards
            that are finished when this begins are read.

    Raises:
        RunFolderError: a file is damaged, or vectors have several lengths.
    """
    dim = 0
    for marker in run.done().values():
        table = run.shard_table(marker, "vectors")
        if not table.num_rows:
            continue
        vectors = table["vector"].combine_chunks()
        vectors_ND = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
        if dim and vectors_ND.shape[1] != dim:
            raise RunFolderError(
                f"{run.folder.uri}/{marker.files['vectors'].name}: expected vectors of {dim} "
                f"numbers, as in the shards before, got {vectors_ND.shape[1]}: delete "
                f"done/{marker.shard:05d}.json and give the command that made the run again"
            )
        dim = vectors_ND.shape[1]
        ids = table["image_id"].cast(pa.string()).combine_chunks()
        refs = run.rows_of_shard(marker.shard)
        places = compute.index_in(ids, value_set=refs["image_id"].combine_chunks())
        yield VectorBatch(
            tuple(ids.to_pylist()), tuple(refs["path"].take(places).to_pylist()), vectors_ND
        )


def has_vectors(run: RunFolder, markers: Iterable[ShardDone]) -> bool:
    """Return whether any image of a run's shards has a vector, and words can be compared with it.

    Args:
        run: the run.
        markers: of the shards.
    """
    files = (marker.files.get("vectors") for marker in markers)
    return CLIP_ROLE in run.info.weights and any(file and file.num_rows for file in files)


def num_vectors(run: RunFolder) -> int:
    """Return how many of the run's current images have a vector."""
    return sum(
        marker.files["vectors"].num_rows
        if run.superseded_in(marker.shard) is None
        else run.shard_table(marker, "vectors", ["image_id"]).num_rows
        for marker in run.done().values()
        if "vectors" in marker.files
    )


def vector_clip(run: RunFolder) -> VectorClip:
    """Return the CLIP that made the run's vectors.

    Raises:
        UserError: its method loads none, so that its images have no vectors.
    """
    weights = {
        role: digest
        for role, digest in run.info.weights.items()
        if role.partition(".")[0] == CLIP_ROLE
    }
    config = run.info.job()
    if CLIP_ROLE not in weights:
        raise UserError(
            f"{run.folder.uri}: its images have no vectors, as the method {config.method.name} "
            "loads no image encoder of CLIP: annotate them with a method that does, such as naclip"
        )
    return VectorClip(config.clip, weights)
