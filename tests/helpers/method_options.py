"""The options without which a method cannot be built: tiny networks beside its backbones."""

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from ovseg_core.backbones.registry import Backbones
from tests.helpers.students import write_student


def needed_options(method: str, backbones: Backbones) -> dict[str, Any]:
    """Return the options without which a method cannot be built here."""
    if method == "student":
        _ = backbones.clip  # finds the file
        return {"weights": str(_student_of(backbones.files()["clip"], backbones))}
    return {}


@lru_cache
def _student_of(clip_file: str, backbones: Backbones) -> Path:
    return write_student(_folder() / "student.safetensors", backbones)


def _folder() -> Path:
    """Return a new folder, which is deleted with this process."""
    folder = tempfile.mkdtemp(prefix="ovseg-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
