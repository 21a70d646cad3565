from pathlib import Path

import pytest

from benchmarks.photographs import write_photographs
from benchmarks.sleeping_gpu import images_per_core_s
from pipeline.run.folder import RunFolder


def test_a_sleeping_segmenters_masks_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = write_photographs(tmp_path / "images", (48, 64), num_images=4, num_different=3)
    assert images_per_core_s(images, tmp_path / "run", shard_size=2, num_labels=3) > 0
    done = RunFolder.open(str(tmp_path / "run")).done()
    assert [marker.tally.num_images for marker in done.values()] == [2, 2]
    assert all(marker.tally.num_segments >= 4 for marker in done.values())
