"""A trained student as an ONNX file, with what a program needs to use it in a JSON file beside."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ovseg_core.training.students import check_student
from ovseg_core.training.students.shared.onnx_file import (
    INPUT,
    OPSET,
    OUTPUTS,
    OnnxStudent,
    check_can_export,
    compare_with_onnxruntime,
    onnx_bytes,
)
from ovseg_core.training.students.shared.student_file import Student, load_student
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from pipeline.storage.weights import resolve
from schemas.vocabulary import BACKGROUND

STUDENT_FILE = "student.safetensors"
"""Name of a student in the folder that `ovseg train-student` writes."""


@dataclass(frozen=True)
class OnnxExport:
    """What was written.

    Attributes:
        file: the ONNX file.
        facts_file: the JSON beside it.
        size_bytes: of the ONNX file.
        facts: content of the JSON.
    """

    file: str
    facts_file: str
    size_bytes: int
    facts: dict[str, Any]


def export_to_onnx(student: str, out: str = "") -> OnnxExport:
    """Write a student as ONNX, after onnxruntime and torch agreed on it.

    Args:
        student: its file (.safetensors) or the folder that holds it, a path or any fsspec URL.
        out: the ONNX file, a path or any fsspec URL; empty: beside the student's.

    Raises:
        ConfigError: a library of the extra `onnx` is missing.
        WeightsError: no such student, one that cannot be used or written, or onnxruntime computes
            something else; nothing is written.
    """
    check_can_export()
    is_file = uris.without_query(student).endswith(".safetensors")
    place = student if is_file else uris.join(student.rstrip("/"), STUDENT_FILE)
    loaded = load_student(resolve(place))
    model = OnnxStudent(loaded.network, loaded.text)
    facts = _facts(loaded)
    data = onnx_bytes(model, facts)
    facts["max_difference"] = compare_with_onnxruntime(model, data)
    facts["onnxruntime"] = version("onnxruntime")
    parent, name = uris.parent_and_name(uris.normalise(out or place))
    name = name if out else f"{name.removesuffix('.safetensors')}.onnx"
    folder, facts_name = Folder(parent), f"{name.removesuffix('.onnx')}.onnx.json"
    folder.atomic_write(facts_name, json.dumps(facts, indent=1, ensure_ascii=False).encode())
    folder.atomic_write(name, data)
    file, facts_file = (uris.join(folder.uri, one) for one in (name, facts_name))
    return OnnxExport(file, facts_file, len(data), facts)


def _facts(student: Student) -> dict[str, Any]:
    """Return what the model's user needs to know; also the model's own metadata."""
    record = student.record
    options = check_student(record.student)
    stride_px = int(getattr(student.network, "stride_px"))  # noqa: B009 - of a StudentNetwork
    return {
        "student": record.student.name,
        "labels": [BACKGROUND, *record.vocabulary.names],
        "has_background": bool(record.vocabulary.background),
        "opset": OPSET,
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "shape": ["B", 3, "H", "W"],
            "pixels": "sRGB in the order red, green, blue, 0 to 255; the model normalises them",
            "size": "any; `annotate` reduces larger images to this longer side, in pixels:",
            "max_side_px": options.max_side_px,
        },
        "outputs": {
            OUTPUTS[0]: f"float32 (B, K, h, w), of class k = labels[k], a cell is {stride_px} px; "
            "enlarged bilinearly (align_corners false), their softmax over the classes is the "
            "probability",
            OUTPUTS[1]: "int64 (B, H, W), the class of the largest enlarged logit",
        },
        "vocabulary": record.vocabulary.model_dump(mode="json"),
        "training": record.training,
    }
