import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.image_files import picture

HEAVY = (
    *("torch", "torchvision", "timm", "open_clip", "transformers", "torch._dynamo", "sympy"),
    *("ray", "pandas", "sklearn", "matplotlib", "scipy"),
)
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
    assert imported(*job, "--local") == {"torch", "torchvision", "timm", "open_clip"}
    assert imported("inspect", job[job.index("--out") + 1]) == set()


STILL_THERE = """
from pipeline.job.quick_imports import import_quickly
import_quickly()
import_quickly()
import open_clip, pyarrow, sys, timm, torch, torchvision
left_out = {"torch._dynamo", "transformers", "pandas"} & set(sys.modules)
assert not left_out, left_out
boxes = torch.tensor([[0, 0.0, 0, 4, 4], [0, 2, 2, 6, 6]])
assert torchvision.ops.roi_align(torch.ones(1, 1, 6, 8), boxes, (2, 3)).shape == (2, 1, 2, 3)
import importlib.resources, torch._dynamo, transformers
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2, 2]
assert "ViT-B-32" in open_clip.list_models()
assert importlib.resources.files("open_clip").joinpath("model_configs").is_dir()
model = timm.create_model("naflexvit_base_patch16_gap", depth=1, embed_dim=64, num_heads=2)
assert model(torch.zeros(2, 3, 32, 48)).shape[0] == 2
from transformers import AutoTokenizer
"""


def test_what_was_left_out_can_be_imported_and_used_afterwards() -> None:
    pytest.importorskip("transformers", reason="an optional extra")
    result = subprocess.run(
        [sys.executable, "-c", STILL_THERE], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
