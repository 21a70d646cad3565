"""`ovseg export-student`: a student's file becomes ONNX, and onnxruntime computes the same."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner, Result

from jobs.cli import app
from ovseg_core.decision.decide import decide_one
from ovseg_core.methods.student import Options, StudentSegmenter
from ovseg_core.segmenter import TextMatrix, encode_images
from ovseg_core.training.students import TextShape, build_network
from ovseg_core.training.students.shared.onnx_file import (
    MAX_DIFFERENCE,
    OPSET,
    OnnxStudent,
    compare_with_onnxruntime,
)
from ovseg_core.training.students.shared.student_file import (
    StudentRecord,
    load_student,
    student_bytes,
)
from schemas.config import ClipConfig, NamedOptions
from schemas.errors import WeightsError
from schemas.vocabulary import Label, Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones

VOCABULARY = Vocabulary(
    labels=(Label(name="cat", synonyms=("kitten",)), Label(name="dög")), background=("background",)
)


def write_student(folder: Path) -> Path:
    """Write an untrained student of a few thousand weights."""
    part = NamedOptions(name="maskclip_plus", options={"backbone": "test_byobnet", "channels": 16})
    torch.manual_seed(0)
    text = TextMatrix(F.normalize(torch.randn(4, 12), dim=1), torch.tensor([0, 1, 1, 2]), 3)
    network = build_network(part, TextShape(4, 12))
    record = StudentRecord(
        student=part,
        vocabulary=VOCABULARY,
        clip=ClipConfig(model="embedded"),
        training={"licence": "Apache-2.0"},
    )
    folder.mkdir(parents=True)
    (folder / "student.safetensors").write_bytes(student_bytes(network.state_dict(), text, record))
    return folder


def ovseg(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = write_student(tmp_path_factory.mktemp("students") / "cats")
    result = ovseg("export-student", made, "--to", "onnx")
    assert result.exit_code == 0, result.output
    assert "differs by at most" in result.output
    return made


@pytest.fixture(scope="module")
def session(folder) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "student.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", [(2, 3, 96, 128), (1, 3, 64, 75), (3, 3, 130, 33), (1, 3, 1, 1)])
def test_onnxruntime_computes_what_the_student_does_at_any_size(folder, session, shape):
    student = load_student(folder / "student.safetensors")
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(5)) * 255
    with torch.inference_mode():
        expected, label_maps = OnnxStudent(student.network, student.text)(pixels)
    logits, labels = session.run(None, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(logits, expected.numpy(), atol=MAX_DIFFERENCE, rtol=0)
    assert labels.shape == (shape[0], *shape[2:])
    assert (labels == label_maps.numpy()).mean() > 0.999


def test_the_model_computes_what_annotate_does(folder, session):
    options = Options(weights=str(folder / "student.safetensors"))
    method = StudentSegmenter(load_student(options.weights), options, tiny_backbones())
    images = [random_image(seed, 64, 76) for seed in (1, 2)]
    features = encode_images(method, images)
    scores = method.score(features, method.text_matrix(VOCABULARY))
    pixels = torch.stack(images).float().numpy()
    logits, labels = session.run(None, {"pixels": pixels})
    assert logits.std() > 1e-3  # else there would be nothing to compare
    for image, (level,) in enumerate(scores.levels):
        np.testing.assert_allclose(logits[image], level, atol=MAX_DIFFERENCE, rtol=0)
        decided = decide_one(scores, image, (64, 76)).label_map
        assert (labels[image] == np.asarray(decided)).mean() > 0.999


def test_labels_and_input_are_told_beside_the_model_and_in_it(folder):
    facts = json.loads((folder / "student.onnx.json").read_text(encoding="utf-8"))
    assert facts["labels"] == ["background", "cat", "dög"]
    assert facts["opset"] == OPSET
    assert facts["training"] == {"licence": "Apache-2.0"}
    assert facts["input"]["max_side_px"] == 1024
    assert facts["max_difference"] <= MAX_DIFFERENCE
    model = onnx.load(folder / "student.onnx")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    own = {one.key: json.loads(one.value) for one in model.metadata_props}["ovseg"]
    assert own.items() <= facts.items()
    assert own["input"]["name"] == model.graph.input[0].name
    assert set(own["outputs"]) == {one.name for one in model.graph.output}


def test_a_model_that_computes_something_else_is_refused(folder):
    student = load_student(folder / "student.safetensors")
    data = (folder / "student.onnx").read_bytes()
    other = OnnxStudent(student.network, student.text)
    assert compare_with_onnxruntime(other, data) <= MAX_DIFFERENCE
    with torch.no_grad():
        next(student.network.parameters()).mul_(1.5)
    with pytest.raises(WeightsError, match="differs from the student by"):
        compare_with_onnxruntime(other, data)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "student"),
        (("nowhere", "--to", "onx"), "Did you mean 'onnx'"),
        (("nowhere/student.pt",), "student"),
    ],
)
def test_mistakes_are_one_line(tmp_path, args, message):
    result = ovseg("export-student", tmp_path / args[0], *args[1:])
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_pickle_by_a_students_name_is_refused(tmp_path):
    torch.save({"network.weight": torch.zeros(2)}, tmp_path / "student.safetensors")
    result = ovseg("export-student", tmp_path)
    assert result.exit_code == 1
    assert not list(tmp_path.glob("*.onnx"))
