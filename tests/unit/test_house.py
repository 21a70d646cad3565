"""The house rules that a machine can hold: direction of imports, light start, small files."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "ovseg_core", "pipeline", "jobs")


def test_imports_go_in_one_direction():
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("module", ["schemas.config", "schemas.tables", "jobs.cli"])
def test_light_modules_import_neither_torch_nor_ray(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'ray') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("folders", "most"), [(PACKAGES, 400), (("ovseg_core/methods",), 400)], ids=["all", "methods"]
)
def test_files_stay_small(folders, most):
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > most
    }
    assert files
    assert not long, "split these; a file holds one noun"


def test_only_storage_imports_fsspec():
    importers = [
        path.name
        for path in (ROOT / "pipeline").rglob("*.py")
        if any(
            line.startswith(("import fsspec", "from fsspec"))
            for line in path.read_text(encoding="utf-8").splitlines()
        )
    ]
    assert importers == ["remote.py"]
