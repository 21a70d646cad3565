"""A folder on the disk whose operations fail as planned."""

from pathlib import Path

import pytest

import tests.helpers.faulty_filesystem  # noqa: F401 - makes faulty:// known
from pipeline.storage.folder import Folder
from tests.helpers.fault_plan import PLAN_ENV, Fault, fault_environment, operations


class FaultyFolder:
    """A `faulty://` folder in a temporary place and its plan."""

    def __init__(self, place: Path, patch: pytest.MonkeyPatch) -> None:
        self._place = place / "plan"
        self._patch = patch
        self.disk = place / "disk"
        self.folder = Folder(f"faulty://{self.disk}")

    def plan(self, *faults: Fault) -> None:
        self._patch.setenv(PLAN_ENV, fault_environment(self._place, faults)[PLAN_ENV])

    def count(self, operation: str) -> int:
        return sum(name == operation for name, _ in operations(self._place))
