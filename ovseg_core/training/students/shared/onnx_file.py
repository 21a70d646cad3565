"""A trained student as an ONNX model of any batch and image size, compared with the student.

The words are constants of the model. Shapes: B images, H W pixels of any size, h w cells, K classes
(0 is background), Q phrases.
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_core.segmenter import TextMatrix
from ovseg_core.training.students import PAD_TO_PX, class_logits
from schemas.errors import ConfigError, WeightsError

OPSET = 20
"""Version of ONNX's operators that the model is written in."""
MAX_DIFFERENCE = 1e-4
"""Largest difference of a probability between onnxruntime and torch."""
INPUT, OUTPUTS = "pixels", ("logits", "labels")
_EXAMPLE = (2, 3, 96, 128)
_COMPARED = ((1, 3, 96, 128), (2, 3, 96, 128), (2, 3, 120, 75), (1, 3, 210, 333))
"""Shapes of the images that both compute: other sizes and batches than the example's as well."""
_METADATA = "ovseg"
_QUIET = ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")


class OnnxStudent(nn.Module):
    """What the model computes.

    Args:
        network: a `StudentNetwork` with its weights.
        text: of the words that the model knows.
    """

    def __init__(self, network: nn.Module, text: TextMatrix) -> None:
        super().__init__()
        self.network: Any = network
        self.num_classes = text.num_classes
        self.register_buffer("rows_QD", text.rows_QD)
        self.register_buffer("class_index_Q", text.class_index_Q)

    def forward(self, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the classes (B, K, h, w) and the label maps (B, H, W).

        As the method `student` computes them: padded so that the maps of all levels are aligned,
        the best phrase of each class; enlarged, the largest logit wins.

        Args:
            pixels_B3HW: float32, sRGB 0..255.
        """
        text = TextMatrix(self.rows_QD, self.class_index_Q, self.num_classes)  # type: ignore[arg-type]
        (height, width), stride = pixels_B3HW.shape[2:], self.network.stride_px
        # Not -side % PAD_TO_PX: torch's exporter needs longer to follow sizes through a remainder.
        below, right = (
            (side + PAD_TO_PX - 1) // PAD_TO_PX * PAD_TO_PX - side for side in (height, width)
        )
        padded = F.pad(pixels_B3HW, (0, right, 0, below), mode="replicate")
        logits_BKhw = class_logits(self.network(padded, text.rows_QD), text)
        cells_h, cells_w = ((side + stride - 1) // stride for side in (height, width))
        logits_BKhw = logits_BKhw[:, :, :cells_h, :cells_w]
        size_hw = cells_h * stride, cells_w * stride
        enlarged = F.interpolate(logits_BKhw, size=size_hw, mode="bilinear", align_corners=False)
        return logits_BKhw, enlarged[:, :, :height, :width].argmax(dim=1)


def check_can_export() -> None:
    """Check that the libraries of the extra `onnx` are there.

    Raises:
        ConfigError: one is not installed.
    """
    missing = [
        name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)
    ]
    if missing:
        raise ConfigError(
            f"the export to ONNX needs {', '.join(missing)}: pip install 'ovseg[onnx]'"
        )


def onnx_bytes(student: OnnxStudent, facts: Mapping[str, Any]) -> bytes:
    """Return the student as the content of an ONNX file.

    Args:
        student: on the CPU.
        facts: JSON that the model carries under the metadata key `ovseg`.

    Raises:
        ConfigError: a library of the extra `onnx` is missing.
        WeightsError: this network cannot be written as ONNX.
    """
    check_can_export()
    any_size = torch.export.Dim.DYNAMIC
    with _quiet():
        try:
            program = torch.onnx.export(
                student.eval(),
                (torch.zeros(_EXAMPLE),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise WeightsError(f"this student cannot be written as ONNX: {reason}") from error
    assert program is not None
    program.model.metadata_props[_METADATA] = json.dumps(dict(facts), sort_keys=True)
    return program.model_proto.SerializeToString()


def compare_with_onnxruntime(student: OnnxStudent, data: bytes) -> float:
    """Return the largest difference of a probability between onnxruntime and torch.

    Both compute random images of several sizes and batches.

    Raises:
        WeightsError: it is more than `MAX_DIFFERENCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    worst, place = 0.0, _COMPARED[0]
    for shape in _COMPARED:
        pixels = torch.rand(shape, generator=random) * 255
        with torch.inference_mode():
            ours, _ = student.eval()(pixels)
        theirs = torch.from_numpy(session.run([OUTPUTS[0]], {INPUT: pixels.numpy()})[0])
        difference = float((ours.softmax(dim=1) - theirs.softmax(dim=1)).abs().max())
        if not difference <= worst:
            worst, place = difference, shape
    if not worst <= MAX_DIFFERENCE:
        raise WeightsError(
            f"onnxruntime differs from the student by {worst:.2g} in a probability (images of the "
            f"shape {place}): expected at most {MAX_DIFFERENCE:g}; nothing was written"
        )
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says of its own steps from the log."""
    loggers = [logging.getLogger(name) for name in _QUIET]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
