"""The file of a trained student: what was written comes back, and nothing else is taken."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ovseg_core.backbones.file_formats.head_file import file_bytes, read_record
from ovseg_core.training.students.shared.student_file import load_student, read_student_record
from schemas.errors import WeightsError
from tests.helpers.students import WORDS, write_student
from tests.helpers.tiny_models import tiny_backbones

BIAS = "network.head.smooth.4.bias"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student") / "s.safetensors", tiny_backbones())


def test_a_student_comes_back_as_it_was(file: Path) -> None:
    student = load_student(file)
    assert student.record == read_student_record(file)
    assert student.record.vocabulary == WORDS
    assert student.text.class_index_Q.tolist() == [0, 1, 2, 2]
    tensors = load_file(file)
    for name, value in student.network.state_dict().items():
        assert torch.equal(value, tensors[f"network.{name}"])
    assert not student.network.training
    assert not any(weight.requires_grad for weight in student.network.parameters())


def changed(file: Path, folder: Path, entry: Any = None, **tensors: Tensor | None) -> Path:
    """A student's file with another record, or other tensors; None takes one out."""
    record: dict[str, Any] = json.loads(read_record(file)["student"])
    record |= entry or {}
    content = load_file(file) | {name: one for name, one in tensors.items() if one is not None}
    content = {name: one for name, one in content.items() if tensors.get(name, one) is not None}
    made = folder / "changed.safetensors"
    made.write_bytes(file_bytes(content, {"student": json.dumps(record)}))
    return made


def options(**values: Any) -> dict[str, Any]:
    small = {"backbone": "test_convnext", "backbone_weights": "random", "channels": 16}
    return {"student": {"name": "maskclip_plus", "options": {**small, **values}}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"version": 2}, "version 2, expected 1"),
        ({"student": {"name": "../maskclip_plus"}}, "cannot be built.*student"),
        ({"student": {"name": "maskclip"}}, "Did you mean 'maskclip_plus'"),
        (options(channels=8), "does not fit"),
        (options(channels=10**9), "does not fit|cannot be built"),
        (options(channels=10**15), "does not fit|cannot be built"),
        (options(backbone="hf-hub:someone/net"), "timm has no model"),
        (options(backbone="test_resnet"), "does not fit"),
        (options(unknown=1), "unknown key"),
        ({"vocabulary": ["cat"]}, "no text rows that fit"),
        ({"vocabulary": 3}, "is not a student"),
        ({"training": []}, "is not a student"),
    ],
)
def test_records_of_something_else_are_one_line(
    file: Path, tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        load_student(changed(file, tmp_path, entry))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (BIAS, None, "does not fit"),
        (BIAS, torch.zeros(1), "does not fit"),
        (BIAS, torch.full((16,), torch.nan), "NaN"),
        ("network.more", torch.zeros(3), "does not fit"),
        ("text.rows_QD", None, "no text rows"),
        ("text.rows_QD", torch.zeros(4, 0), "no text rows"),
        ("text.rows_QD", torch.full((4, 16), torch.inf), "no text rows"),
        ("text.rows_QD", torch.zeros(3, 16), "no text rows"),
        ("text.class_index_Q", torch.tensor([0, 1, 1, 2]), "no text rows"),
        ("text.class_index_Q", torch.tensor([0.0, 1, 2, 2]), "no text rows"),
        ("text.class_index_Q", torch.tensor(7), "no text rows"),
    ],
)
def test_tensors_that_do_not_fit_are_one_line(
    file: Path, tmp_path: Path, name: str, value: Tensor | None, message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        load_student(changed(file, tmp_path, **{name: value}))
    assert "\n" not in str(caught.value)


def test_files_of_another_kind_are_refused(file: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickle.safetensors"
    torch.save({"network": torch.zeros(2)}, pickled)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-1000])
    head = tmp_path / "head.safetensors"
    head.write_bytes(file_bytes({"weight": torch.zeros(2)}, {"kind": "found"}))
    pt = tmp_path / "student.pt"
    torch.save({"network": torch.zeros(2)}, pt)
    for wrong in (pickled, cut, head, pt, tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(WeightsError) as caught:
            load_student(wrong)
        assert "\n" not in str(caught.value)
