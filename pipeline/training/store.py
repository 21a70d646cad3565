"""The files of a training: the checkpoint while it runs, its result at the end.

Both hold the identity of the training, so that neither is used by another one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from torch import Tensor

from ovseg_core.backbones.file_formats.head_file import file_bytes, record_in, tensors_in
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from schemas.errors import RunFolderError
from schemas.redact import redact

_MAX_DIFFERENCES = 3
Identity = Mapping[str, Any]
"""All that can change the result, by dotted name."""


def images_sha256(images: pa.Table) -> str:
    """Return the SHA-256 (hex) of paths and sizes; etags change when a folder is copied.

    Args:
        images: rows of the manifest's schema.
    """
    digest = hashlib.sha256()
    for name in ("path", "size_bytes"):
        for value in images.column(name).to_pylist():
            digest.update(f"{value}\0".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class TrainingFiles:
    """Where a training writes.

    Attributes:
        folder: local path or fsspec URL.
        result: name of what it makes.
        checkpoint: name of its checkpoint.
        command: that makes them, for messages.
        out: how the user gives another place, for messages.
        max_bytes: larger files are refused unread.
        accepts_versions: a checkpoint of other versions of libraries is resumed.
    """

    folder: str
    result: str
    checkpoint: str
    command: str
    out: str
    max_bytes: int
    accepts_versions: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A training after a number of steps.

    Attributes:
        step: steps done; the order and augmentation of the images follow from it and the seed.
        state: of weights and optimiser.
        failed: error code of each image that could not be read so far, by path.
        notes: what else belongs to it, as text by name.
    """

    step: int
    state: dict[str, Tensor]
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


class TrainingStore:
    """Reads and writes both files.

    Args:
        files: where they are.
        identity: of this training.
        versions: of the libraries that can change its result. A checkpoint with others is refused
            unless `files.accepts_versions`; a finished training is finished.
    """

    def __init__(
        self, files: TrainingFiles, identity: Identity, versions: Mapping[str, str]
    ) -> None:
        self._files = files
        self._folder = Folder(files.folder)
        self._identity = json.loads(json.dumps(identity))
        self._versions = dict(versions)

    def is_finished(self) -> bool:
        """Return whether the result is there; then delete a checkpoint that is left.

        Raises:
            RunFolderError: the file is there, but of another training or of none.
        """
        data = self._read(self._files.result)
        if data is None:
            return False
        self._check_identity(data, self._files.result)
        self._folder.discard(self._files.checkpoint)  # left by a process that died between the two
        return True

    def last(self) -> Checkpoint | None:
        """Return the checkpoint; None where there is none.

        Raises:
            RunFolderError: the checkpoint is of another training, or damaged.
        """
        data = self._read(self._files.checkpoint)
        if data is None:
            return None
        record = self._check_identity(data, self._files.checkpoint)
        try:
            versions = _texts(record.get("versions", "{}"))
            failed, step = _texts(record["failed"]), int(record["step"])
            notes = _texts(record.get("notes", "{}"))
            state = tensors_in(data)
        except KeyError as error:
            raise self.damaged(f"its record has no {error}") from error
        except ValueError as error:
            raise self.damaged(str(error)) from error
        self._check_versions(versions)
        return Checkpoint(step, state, failed, notes)

    def damaged(self, why: str) -> RunFolderError:
        """Return the error of a checkpoint that cannot be resumed."""
        place = redact(uris.join(self._folder.uri, self._files.checkpoint))
        return RunFolderError(f"{place} is damaged ({why}); delete it to begin the training anew")

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint, atomically."""
        step = {"step": str(checkpoint.step), "failed": json.dumps(checkpoint.failed)}
        notes = {"notes": json.dumps(checkpoint.notes)} if checkpoint.notes else {}
        data = file_bytes(checkpoint.state, {**self.record, **step, **notes})
        self._folder.atomic_write(self._files.checkpoint, data)

    def finish(self, result: bytes) -> None:
        """Write the result and delete the checkpoint."""
        self._folder.atomic_write(self._files.result, result)
        self._folder.discard(self._files.checkpoint)

    @property
    def record(self) -> dict[str, str]:
        """What the files record of the training."""
        return {
            "identity": json.dumps(self._identity),
            "version": version("ovseg"),
            "versions": json.dumps(self._versions),
        }

    def _read(self, name: str) -> bytes | None:
        try:
            return self._folder.read_bytes(name, self._files.max_bytes)
        except FileNotFoundError:
            return None

    def _check_versions(self, theirs: dict[str, str]) -> None:
        """Check the versions that a checkpoint records.

        Raises:
            RunFolderError: names the libraries that differ.
        """
        differing = [
            f"{library} was {theirs[library]}, now {self._versions.get(library)}"
            for library in sorted(theirs)
            if theirs[library] != self._versions.get(library)
        ]
        if differing and not self._files.accepts_versions:
            place = redact(uris.join(self._folder.uri, self._files.checkpoint))
            raise RunFolderError(
                f"{place} was begun with other versions of libraries: {'; '.join(differing)}. "
                "Install the old ones to resume it, or accept that its steps differ slightly from "
                "here on (--set run.accept_versions=true), or delete it to begin anew"
            )

    def _check_identity(self, data: bytes, name: str) -> dict[str, str]:
        """Return the record in a file, given its content.

        Raises:
            RunFolderError: it is of another training.
        """
        place = redact(uris.join(self._folder.uri, name))
        try:
            record = record_in(data)
            theirs = _table(self.recorded_identity(record))
        except (ValueError, KeyError) as error:
            raise RunFolderError(
                f"{place} exists and was not made by `{self._files.command}`; "
                f"give another {self._files.out}"
            ) from error
        differing = [
            f"{key} was {theirs.get(key)!r}, now {self._identity.get(key)!r}"
            for key in sorted(theirs.keys() | self._identity.keys())
            if theirs.get(key) != self._identity.get(key)
        ]
        if differing:
            shown = "; ".join(differing[:_MAX_DIFFERENCES])
            hidden = len(differing) - _MAX_DIFFERENCES
            more = f"; and {hidden} more" if hidden > 0 else ""
            raise RunFolderError(
                f"{place} belongs to another training ({shown}{more}); "
                f"give another {self._files.out} or delete it"
            )
        return record

    def recorded_identity(self, record: Mapping[str, str]) -> str:
        """Return the identity of a training as JSON, out of the record in one of its files.

        Raises:
            ValueError: the record has none that can be read.
            KeyError: it has none.
        """
        return record["identity"]


def _table(text: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("its record is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("a part of its record is not a table")
    return found


def _texts(text: str) -> dict[str, str]:
    found = _table(text)
    if not all(isinstance(value, str) for value in found.values()):
        raise ValueError("a part of its record is not a table of texts")
    return found
