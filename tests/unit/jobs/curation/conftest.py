"""A run of drawn scenes and copies of some of them, annotated by the embedded models."""

import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from jobs.demo.scenes import draw_scene
from pipeline.run.folder import RunFolder
from tests.helpers.copied_images import copies

NUM_SCENES, NUM_COPIED = 24, 6


@pytest.fixture(scope="session")
def copied_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Scenes `a/00.png` ... `b/23.png`, and four copies each of the first six: `c/00-1.png` ..."""
    folder = tmp_path_factory.mktemp("copied")
    for seed in range(NUM_SCENES):
        scene = draw_scene(seed).image
        file = folder / "images" / ("a" if seed < NUM_SCENES // 2 else "b") / f"{seed:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene).save(file)
        for number, copy in enumerate(copies(scene, seed) if seed < NUM_COPIED else []):
            file = folder / "images" / "c" / f"{seed:02d}-{number}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(copy).save(file)
    command = ["annotate", "--local", "--images", f"{folder}/images", "--out", f"{folder}/run"]
    options = ["--set", "clip.model=embedded", "--set", "run.device=cpu"]
    result = CliRunner().invoke(app, [*command, "--labels", "red star,blue heart", *options])
    assert result.exit_code == 0, result.output
    return RunFolder.open(f"{folder}/run")
