"""The files of a student's training, in its folder."""

import json
from collections.abc import Mapping

from ovseg_core.training.students.shared.student_file import RECORD_ENTRY
from pipeline.storage import uris
from pipeline.training.store import Identity, TrainingFiles, TrainingStore
from schemas.config import StudentConfig

STUDENT = "student.safetensors"
CHECKPOINT = "checkpoint.safetensors"
_MAX_BYTES = 32 << 30
"""Of a checkpoint: weights, their average, the best ones, and the optimiser's state."""


class StudentStore(TrainingStore):
    """Reads and writes the student and its checkpoint.

    Args:
        config: says where they are.
        identity: of this training.
        versions: of the libraries that can change its result.
    """

    def __init__(
        self, config: StudentConfig, identity: Identity, versions: Mapping[str, str]
    ) -> None:
        files = TrainingFiles(
            folder=uris.normalise(config.out),
            result=STUDENT,
            checkpoint=CHECKPOINT,
            command="ovseg train-student",
            out="--out",
            max_bytes=_MAX_BYTES,
            accepts_versions=config.run.accept_versions,
        )
        super().__init__(files, identity, versions)

    def recorded_identity(self, record: Mapping[str, str]) -> str:
        """Return the identity in the record of a checkpoint, or in that of a student."""
        if RECORD_ENTRY not in record:
            return super().recorded_identity(record)
        try:
            return json.dumps(json.loads(record[RECORD_ENTRY])["training"]["identity"])
        except (TypeError, RecursionError) as error:
            raise ValueError("its record is not that of a student") from error
