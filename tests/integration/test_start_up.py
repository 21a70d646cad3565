"""What the commands import before they do anything."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.image_files import picture

HEAVY = "torch", "torchvision", "timm", "open_clip", "ray", "sklearn", "matplotlib", "pandas"
WHAT_IT_IMPORTS = f"""
import sys
print(file=sys.stderr)
from jobs.cli import main
try:
    main()
finally:
    print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)
"""


def imported(*args: str) -> set[str]:
    """Run `ovseg` in a process of its own and return the heavy modules that it imported."""
    command = [sys.executable, "-c", WHAT_IT_IMPORTS, *args]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.splitlines()[-1].split())


def test_commands_of_a_cluster_import_no_torch() -> None:
    modules = "follow, known_jobs, logs, status, stop, submit"
    code = f"import sys; from jobs.cluster import {modules}; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the flags of a job on two images."""
    folder: Path = tmp_path_factory.mktemp("start")
    (folder / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(picture(48, 64)).save(folder / "images" / name)
    return [
        *("annotate", "--images", str(folder / "images"), "--out", str(folder / "run")),
        *("--labels", "red star,blue circle", "--set", "clip.model=embedded"),
    ]


def test_help_imports_no_heavy_module() -> None:
    assert imported("--help") == set()


def test_a_job_in_this_process_imports_only_what_it_computes_with(job: list[str]) -> None:
    assert imported(*job, "--dry-run") == {"torch"}
    images = Path(job[job.index("--images") + 1])
    (listed := images.parent / "images.txt").write_text("images/a.jpg\n\nimages/b.jpg\n")
    assert imported(*job, "--images", str(listed), "--dry-run") == {"torch"}
    assert imported(*job, "--local") == {"torch", "torchvision", "timm", "open_clip"}
    # pyarrow's way from a column to numpy imports pandas.
    assert imported("inspect", job[job.index("--out") + 1]) <= {"pandas"}
