"""A job on the GPU gives the masks that it gives on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.demo.draw import draw_scenes
from pipeline.job.job import run
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from schemas.config import JobConfig

NUM_SCENES = 6
SIZE = ("height", "width")


def annotated(images: Path, out: Path, labels: tuple[str, ...], **run_fields: Any) -> RunReader:
    config = JobConfig.model_validate(
        {
            "images": str(images),
            "out": str(out),
            "labels": list(labels),
            "clip": {"model": "embedded"},
            "run": {"local": True, **run_fields},
        }
    )
    report = run(config)
    assert report.exit_code == 0
    return RunReader(RunFolder.open(str(out)))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_masks_on_the_gpu_equal_those_on_the_cpu(tmp_path: Path, batch_size: int) -> None:
    images = tmp_path / "scenes"
    images.mkdir()
    labels = tuple(draw_scenes(images, NUM_SCENES, seed=9).labels)
    cpu = annotated(images, tmp_path / "cpu", labels, device="cpu", batch_size=4)
    gpu = annotated(images, tmp_path / "gpu", labels, device="cuda", batch_size=batch_size)
    for on_cpu, on_gpu in zip(cpu.shards(SIZE), gpu.shards(SIZE), strict=True):
        maps = zip(on_cpu.label_maps(), on_gpu.label_maps(), strict=True)
        for (image, expected), (same_image, found) in maps:
            assert image["image_id"] == same_image["image_id"]
            assert np.mean(expected == found) >= 0.999
