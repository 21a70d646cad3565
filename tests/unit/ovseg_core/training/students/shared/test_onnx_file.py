"""A student as an ONNX model, computed by onnxruntime."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from ovseg_core.segmenter import TextMatrix
from ovseg_core.training.students import TextShape, build_network
from ovseg_core.training.students.shared.onnx_file import (
    MAX_DIFFERENCE,
    OPSET,
    OnnxStudent,
    compare_with_onnxruntime,
    onnx_bytes,
)
from schemas.config import NamedOptions
from schemas.errors import WeightsError

CLASS_OF_PHRASE = torch.tensor([0, 1, 1, 2, 3])


def student(seed: int = 0) -> OnnxStudent:
    options = {"backbone": "test_byobnet", "width": 16, "heads": 2, "head": "text"}
    options |= {"hierarchy": False}  # a model of all levels takes three times as long to write
    part = NamedOptions(name="text_fusion", options=options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows_QD = F.normalize(torch.randn(5, 12), dim=1)
        network = build_network(part, TextShape(*rows_QD.shape))
    return OnnxStudent(network, TextMatrix(rows_QD, CLASS_OF_PHRASE, 4)).eval()


@pytest.fixture(scope="module")
def data() -> bytes:
    return onnx_bytes(student(), {"labels": ["background", "cat"]})


@pytest.fixture(scope="module")
def session(data) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", [(2, 3, 96, 128), (1, 3, 64, 75), (3, 3, 130, 33)])
def test_onnxruntime_computes_what_the_student_does_at_any_size(session, shape):
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(5)) * 255
    with torch.inference_mode():
        probabilities, labels = student()(pixels)
    theirs = session.run(None, {"pixels": pixels.numpy()})
    assert probabilities.std() > 1e-3  # else there would be nothing to compare
    np.testing.assert_allclose(theirs[0], probabilities.numpy(), atol=MAX_DIFFERENCE, rtol=0)
    assert theirs[1].shape == (shape[0], *shape[2:])
    assert (theirs[1] == labels.numpy()).mean() > 0.999


def test_a_class_has_the_probability_of_its_best_phrase():
    ours = student()
    pixels = torch.rand(2, 3, 64, 96) * 255
    with torch.inference_mode():
        probabilities, _ = ours(pixels)
        of_phrases = ours.network(pixels, ours.rows_QD).softmax(dim=1)
    assert torch.equal(probabilities[:, 1], of_phrases[:, 1:3].amax(dim=1))
    assert torch.equal(probabilities[:, 3], of_phrases[:, 4])


def test_the_model_says_its_opset_and_carries_the_facts(data):
    model = onnx.load_from_string(data)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    facts = {one.key: json.loads(one.value) for one in model.metadata_props}
    assert facts == {"ovseg": {"labels": ["background", "cat"]}}


def test_compare_is_small_for_the_student_itself_and_refuses_another(data):
    assert compare_with_onnxruntime(student(), data) <= MAX_DIFFERENCE
    with pytest.raises(WeightsError, match="differs from the student by"):
        compare_with_onnxruntime(student(seed=1), data)
