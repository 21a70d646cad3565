"""The file of a trained student: everything that `annotate` needs, and where it came from.

One safetensors file: the network's tensors, the text rows of its labels, and a record. What is read
from it is a stranger's: every part is checked, and no code in it is run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn

from ovseg_core.backbones.checkpoint import (
    LOAD_FAILURES,
    check_finite_weights,
    check_fit,
    one_line,
    read_tensors,
)
from ovseg_core.backbones.file_formats.head_file import file_bytes, read_record
from ovseg_core.segmenter import TextMatrix
from ovseg_core.training.students import TextShape, build_network
from schemas.base import Frozen, validated
from schemas.config import ClipConfig, NamedOptions
from schemas.errors import ConfigError, OvsegError, WeightsError
from schemas.vocabulary import Vocabulary

FORMAT = 1
"""Version of the file's layout."""
_NETWORK, _ROWS, _CLASSES = "network.", "text.rows_QD", "text.class_index_Q"
RECORD_ENTRY = "student"
"""Name of the record in the file."""


class StudentRecord(Frozen):
    """What a student's file says of it."""

    version: NonNegativeInt = FORMAT
    """Of the file's layout."""
    student: NamedOptions
    """Which student, with all of its options."""
    vocabulary: Vocabulary
    """The labels that it has learned."""
    clip: ClipConfig
    """CLIP whose text encoder gave the rows."""
    clip_sha256: str = ""
    """SHA-256 of that CLIP's weights file."""
    templates: tuple[str, ...] = ()
    """Templates of phrases that the vocabulary gives none for."""
    training: dict[str, Any] = {}
    """Where it came from: the teacher, its masks, the schedule, figures, licence."""


@dataclass(frozen=True)
class Student:
    """A trained student, on the CPU.

    Attributes:
        network: a `StudentNetwork`, in evaluation mode.
        text: rows of the labels that it has learned.
        record: see there.
    """

    network: nn.Module
    text: TextMatrix
    record: StudentRecord


def student_bytes(weights: Mapping[str, Tensor], text: TextMatrix, record: StudentRecord) -> bytes:
    """Return a student as the content of a safetensors file."""
    tensors = {f"{_NETWORK}{name}": value for name, value in weights.items()}
    tensors |= {_ROWS: text.rows_QD, _CLASSES: text.class_index_Q}
    return file_bytes(tensors, {RECORD_ENTRY: record.model_dump_json()})


def read_student_record(file: str | Path) -> StudentRecord:
    """Return what a student's file says of it, without its tensors.

    Raises:
        WeightsError: the file is missing, damaged, or of another kind or version.
    """
    if not Path(file).is_file():
        raise WeightsError(f"no student at {file}; `ovseg train-student` makes one")
    record = read_record(file)
    if RECORD_ENTRY not in record:
        raise WeightsError(
            f"{file} is not a student: expected the student.safetensors that "
            "`ovseg train-student` writes"
        )
    try:
        values = json.loads(record[RECORD_ENTRY])
        if isinstance(values, dict) and values.get("version") != FORMAT:
            raise ValueError(
                f"its layout has the version {values.get('version')!r}, expected {FORMAT}: "
                "another version of ovseg wrote it"
            )
        return validated(StudentRecord, values)
    except (ValueError, RecursionError, ConfigError) as error:
        raise WeightsError(f"{file} is not a student: {one_line(error)}") from error


def load_student(file: str | Path) -> Student:
    """Load a student.

    Raises:
        WeightsError: the file is missing, damaged, does not fit its own record, or holds values
            that are not finite.
    """
    record = read_student_record(file)
    tensors = read_tensors(file)
    text = _text(tensors, record.vocabulary, file)
    weights = {
        name.removeprefix(_NETWORK): value
        for name, value in tensors.items()
        if name.startswith(_NETWORK)
    }
    check_finite_weights(weights, file)
    shape = TextShape(len(text.rows_QD), text.rows_QD.shape[1])
    try:
        with torch.device("meta"):  # without memory, to compare sizes first
            check_fit(build_network(record.student, shape), weights)
        network = build_network(record.student, shape)
        network.load_state_dict(weights)
    except OvsegError as error:
        raise WeightsError(f"the student {file} cannot be built: {error}") from error
    except LOAD_FAILURES as error:
        raise WeightsError(f"the student {file} does not fit: {one_line(error)}") from error
    return Student(network.eval().requires_grad_(False), text, record)


def _text(tensors: Mapping[str, Tensor], vocabulary: Vocabulary, file: str | Path) -> TextMatrix:
    """Return the text rows in a file.

    Raises:
        WeightsError: they are not those of the vocabulary.
    """
    rows_QD, index_Q = tensors.get(_ROWS), tensors.get(_CLASSES)
    classes = [0] * len(vocabulary.background)
    for number, label in enumerate(vocabulary.labels, start=1):
        classes += [number] * len(label.phrases)
    fits = (
        rows_QD is not None
        and index_Q is not None
        and rows_QD.ndim == 2
        and rows_QD.shape[1] > 0
        and rows_QD.dtype == torch.float32
        and index_Q.dtype == torch.int64
        and index_Q.tolist() == classes
        and len(rows_QD) == len(classes)
        and bool(rows_QD.isfinite().all())
    )
    if not fits:
        raise WeightsError(f"the student {file} has no text rows that fit its labels")
    assert rows_QD is not None
    assert index_Q is not None
    return TextMatrix(rows_QD, index_Q, 1 + len(vocabulary.labels))
