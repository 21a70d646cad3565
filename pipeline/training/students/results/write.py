"""What a training writes beside the student: metrics, pictures, a model card."""

import io
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ovseg_core.training.students.shared.student_file import StudentRecord
from pipeline.evaluation.contact_sheet import SheetRow, contact_sheet
from pipeline.storage.folder import Folder
from pipeline.training.students.data import StudentData
from pipeline.training.students.results.metrics import CURVES, Metrics
from pipeline.training.students.store import STUDENT
from pipeline.training.students.validation import Found, Validator
from schemas.untrusted import printable

EXAMPLES, CARD = "examples.png", "MODEL_CARD.md"
_NUM_EXAMPLES = 10


def write_results(
    folder: Folder,
    validator: Validator,
    weights: Mapping[str, Tensor],
    data: StudentData,
    record: StudentRecord,
    metrics: Metrics,
) -> None:
    """Write metrics, curves, examples of validation images, and the model card.

    Args:
        folder: of the student.
        validator: finds what the student sees in the examples.
        weights: of the student.
        data: has the images.
        record: of the student's file.
        metrics: of the training.
    """
    metrics.write(folder)
    folder.atomic_write(CURVES, _png(metrics.curves(record.training.get("step_of_weights"))))
    numbers = data.validation or data.training
    found = islice(validator.found(weights, numbers[:_NUM_EXAMPLES]), _NUM_EXAMPLES)
    rows = [_sheet_row(one) for one in found]
    sheet = contact_sheet(rows, data.source.vocabulary.names)
    folder.atomic_write(EXAMPLES, _png(sheet))
    folder.atomic_write(CARD, model_card(record).encode())


def model_card(record: StudentRecord) -> str:
    """Return the model card of a student, as Markdown, from what its file says."""
    training, options = record.training, record.student.options
    labels = ", ".join(map(printable, record.vocabulary.names))
    told = {
        "learned from": _learned_from(training),
        "images": _counted(training.get("images", {})),
        "unreadable": _counted(training.get("unreadable", {})) or "none",
        "cleaning": _cleaning(training.get("identity", {})),
        "schedule": f"{training.get('steps'):,} steps of {options.get('batch')} views of "
        f"{options.get('size_px')} px; weights of step {training.get('step_of_weights'):,}",
        "network": f"{record.student.name}, {options.get('backbone', '')}",
        "text rows": f"CLIP {record.clip.model} {record.clip.pretrained}".strip(),
        "mIoU of validation": _miou(training),
        "licence of the teacher's weights": training.get("licence", "see the data set's own"),
    }
    lines = [f"| {name} | {printable(str(value))} |" for name, value in told.items()]
    return "\n".join(
        (
            "# Student",
            "",
            f"A network that `ovseg train-student` trained for: {labels}.",
            "",
            "| | |",
            "|---|---|",
            *lines,
            "",
            f"Use: `ovseg annotate ... --set method.name=student "
            f"--set method.options.weights={STUDENT}`",
            "",
            "The figure of validation compares with the labels that the training was given, on "
            "images that were held back: where those are a teacher's, it is agreement with the "
            "teacher, not truth.",
            "",
        )
    )


def _learned_from(training: Mapping[str, Any]) -> str:
    truth, teacher = training.get("truth"), training.get("teacher")
    parts = [f"truth {truth}"] if truth else []
    if teacher:
        print_of = str(training.get("teacher_fingerprint", ""))[:12]
        parts.append(f"run {print_of} of {teacher} ({training.get('teacher_clip')})")
        parts.append(f"masks: {training.get('masks')}")
        parts.append(f"{training.get('reviewed_images', 0):,} images reviewed")
    return "; ".join(parts)


def _cleaning(identity: Mapping[str, Any]) -> str:
    rules = {k.removeprefix("cleaning."): v for k, v in identity.items() if "cleaning." in k}
    if isinstance(rules.get("thresholds"), dict):
        rules["thresholds"] = "of a calibration"
    return ", ".join(f"{name} {value}" for name, value in rules.items() if value != "") or "none"


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in numbers.items())


def _miou(training: Mapping[str, Any]) -> str:
    miou = training.get("validation_miou")
    return "none: no image was kept for validation" if miou is None else f"{miou:.3f}"


def _sheet_row(found: Found) -> SheetRow:
    labels = found.example.labels
    said = np.maximum(labels.labels, -1)  # what is unlabelled is not counted either
    return SheetRow(
        caption=printable(found.example.path),
        image=found.example.image.permute(1, 2, 0).numpy(),
        found=found.label_map,
        truth=said if (said >= 0).any() else None,
        teacher=labels.predicted,
    ).reduced()


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return data.getvalue()
