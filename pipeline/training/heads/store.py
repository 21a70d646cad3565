"""The files of a head's training."""

from collections.abc import Mapping

from pipeline.storage import uris
from pipeline.training.store import Identity, TrainingFiles, TrainingStore
from schemas.config import HeadConfig

_MAX_BYTES = 1 << 30
"""Of a checkpoint or head: a head has a few hundred thousand weights, a checkpoint four of each."""


class HeadStore(TrainingStore):
    """Reads and writes both files.

    Args:
        config: says where they are.
        identity: of this training.
        versions: of the libraries that can change its result.
    """

    def __init__(self, config: HeadConfig, identity: Identity, versions: Mapping[str, str]) -> None:
        folder, name = uris.parent_and_name(uris.normalise(config.out))
        files = TrainingFiles(
            folder=folder,
            result=name,
            checkpoint=uris.parent_and_name(uris.normalise(config.checkpoint))[1],
            command="ovseg train-heads",
            out="--out",
            max_bytes=_MAX_BYTES,
            accepts_versions=config.run.accept_versions,
        )
        super().__init__(files, identity, versions)
