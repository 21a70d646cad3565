from pathlib import Path

import pytest

import ovseg_core as ov
from jobs.demo.draw import draw_scenes


@pytest.fixture(scope="package")
def segmenter() -> ov.Predictor:
    return ov.load("clip_diy", clip="embedded", device="cpu", batch_size=2)


@pytest.fixture(scope="package")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[str]]:
    """Three drawn scenes of different sizes, and their labels."""
    folder = tmp_path_factory.mktemp("scenes")
    drawn = draw_scenes(folder, 3, seed=0)
    return sorted(folder.glob("*.png")), list(drawn.labels)
