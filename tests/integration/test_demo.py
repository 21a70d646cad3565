"""The demo as it is typed: two Ray workers; then its job in one process, with the same masks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from jobs.cli import app
from jobs.demo.shapes import SHAPES
from pipeline.run.folder import RunFolder

NUM_SCENES = 6


@pytest.mark.timeout(400)  # half a minute on a quiet machine; Ray's start suffers from a busy one
def test_the_demo_and_the_same_job_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # As `make demo` does: by its path, in a shell that does not know the program.
    script = Path(sys.executable).with_name("ovseg")
    command = [str(script), "demo", "--scenes", str(NUM_SCENES), "--seed", "1"]
    env = {**os.environ, "PATH": os.defpath}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert result.returncode == 0, result.stderr
    assert f"{NUM_SCENES} of {NUM_SCENES} images done" in result.stdout
    assert "phrases of pairs never seen" in result.stdout
    whose = "\none mask per phrase, by clip_diy\n", "\none mask per object (instances), by sclip "
    assert all(words in result.stdout for words in whose), "the progress of two runs"
    assert "\\n" not in result.stdout, "an escaped line end"
    assert "Traceback" not in result.stderr
    assert "left out" not in result.stderr
    assert "masks: predicted" not in result.stderr, "nobody can have reviewed them yet"
    last = result.stdout.splitlines()[-1]
    assert last.strip() == f"{script} review out/demo/run", "it can be typed as it stands"

    demo = Path("out/demo")
    with Image.open(demo / "contact_sheet.png") as sheet:
        assert sheet.width > 1700, "image, masks, instances, truth, twice"
        assert len(sheet.convert("RGB").resize((64, 64)).getcolors(4096) or []) > 500
    page = (demo / "run" / "exports" / "gallery" / "index.html").read_text(encoding="utf-8")
    assert page.count("<article") == NUM_SCENES
    assert len(COCO(str(demo / "run/exports/coco/instances.json")).imgs) == NUM_SCENES

    assert RunFolder.open(str(demo / "instances")).mask_kind == "instance"

    local = ["annotate", str(demo / "demo.yaml"), "--local", "--out", "local"]
    assert CliRunner().invoke(app, local).exit_code == 0
    assert CliRunner().invoke(app, ["export", "local"]).exit_code == 0
    assert masks(Path("local")) == masks(demo / "run")

    shapes = ["annotate", str(demo / "demo.yaml"), "--labels", ",".join(SHAPES)]
    assert CliRunner().invoke(app, [*shapes, "--out", "shapes", "--local"]).exit_code == 0
    wrong = CliRunner().invoke(
        app, ["evaluate", "shapes", "--truth", str(demo / "truth" / "phrases.json")]
    )
    assert wrong.exit_code == 1
    assert "no category of the truth is a label of the run" in wrong.stderr
    assert re.search(r"such as --label '\w+ \w+ (\w+)=\1'", wrong.stderr)
    evaluate = ["evaluate", "shapes", "--truth", str(demo / "truth" / "shapes.json"), "--json"]
    found = json.loads(CliRunner().invoke(app, evaluate).stdout)
    assert (found["num_images"], found["unknown_categories"]) == (NUM_SCENES, [])
    assert found["foreground_iou"] > 0.5


def masks(run: Path) -> list[tuple[object, ...]]:
    exported = (run / "exports" / "coco" / "instances.json").read_text(encoding="utf-8")
    return [
        (found["image_id"], found["category_id"], found["segmentation"])
        for found in json.loads(exported)["annotations"]
    ]
