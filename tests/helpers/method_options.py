"""The options without which a method cannot be built: tiny networks beside its backbones."""

import atexit
import shutil
import tempfile
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ovseg_core.backbones.registry import Backbones
from tests.helpers.students import write_student
from tests.helpers.tiny_detectors import write_owlv2, write_sam3
from tests.helpers.tiny_sams import write_sam


def needed_options(method: str, backbones: Backbones) -> dict[str, Any]:
    """Return the options without which a method cannot be built here."""
    if method == "student":
        _ = backbones.clip  # finds the file
        return {"weights": str(_student_of(backbones.files()["clip"], backbones))}
    if method == "owlv2_sam2":
        return {
            **_detector_and_sam(),
            "box_threshold": 0.02,
            "nms_iou": 1.0,
            "gate_min_presence": 0,
        }
    if method == "sam3":
        return {"weights": _sam3(), "gate_min_presence": 0.0}
    return {}


@lru_cache
def _student_of(clip_file: str, backbones: Backbones) -> Path:
    return write_student(_folder() / "student.safetensors", backbones)


@cache
def _detector_and_sam() -> dict[str, str]:
    folder = _folder()
    return {"detector": write_owlv2(folder / "owlv2"), "sam": write_sam(folder / "sam2", "sam2")}


@cache
def _sam3() -> str:
    return write_sam3(_folder() / "sam3")


def _folder() -> Path:
    """Return a new folder, which is deleted with this process."""
    folder = tempfile.mkdtemp(prefix="ovseg-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
