"""Fixtures of storage's tests."""

from pathlib import Path

import pytest

from tests.helpers.faulty_folder import FaultyFolder


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultyFolder:
    return FaultyFolder(tmp_path, monkeypatch)
