"""What one core sustains beside a GPU that is never the limit: images per second of CPU.

A sleeping segmenter in the worker's own code path: JPEG files are read and decoded, score maps
decided, cut into segments, scored, encoded and committed as Parquet. The figure is images over the
CPU seconds of the whole process, so it holds for one core however many there are.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.photographs import write_photographs
from benchmarks.sleeping_segmenter import build_sleeping
from pipeline.collection.collect import collect
from pipeline.collection.manifest import Shards, shard_bounds
from pipeline.job.worker import Worker, WorkerSetup
from pipeline.job.worker_process import KEEP_MEMORY
from pipeline.run.folder import RunFolder
from pipeline.run.identity import RunIdentity
from schemas.config import JobConfig

SIZES = {"vga": ((480, 640), 16, 480), "12mp": ((3000, 4000), 1, 40)}
"""Height and width, images of a shard, most images."""
NUM_LABELS = {"": 20, "172": 171}
MAX_CPU_S = float(os.environ.get("OVSEG_BENCH_SECONDS", "6"))
"""A case ends after the shard in which it has taken so long."""
BATCH_SIZE = 8


def images_per_core_s(images: Path, out: Path, shard_size: int, num_labels: int) -> float:
    """Annotate shard after shard; return images per CPU second."""
    config = JobConfig.model_validate(
        {
            "images": str(images),
            "out": str(out),
            "labels": [f"thing {number}" for number in range(num_labels)],
            "clip": {"model": "embedded"},
            "shard_size": shard_size,
            "run": {"device": "cpu", "batch_size": min(BATCH_SIZE, shard_size)},
        }
    )
    manifest = collect(config.images, config.image)
    worker = Worker(WorkerSetup(config, "cpu", build_sleeping))
    RunFolder.create_or_resume(config.out, RunIdentity(config, worker.prepare()), manifest)
    done, start = 0, time.process_time()
    for shard in Shards(manifest, shard_bounds((manifest.num_rows, shard_size))):
        done += worker.annotate(shard).num_images
        if time.process_time() - start > MAX_CPU_S:
            break
    return done / (time.process_time() - start)


def main() -> dict[str, Any]:
    """Measure both sizes with few and with many labels."""
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        # glibc reads them when a process starts.
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name], os.environ | KEEP_MEMORY)
    torch.set_num_threads(1)
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        warm_up = write_photographs(Path(folder) / "warm_up", (96, 128), 8, 8)
        images_per_core_s(warm_up, Path(folder) / "run_warm_up", 8, 20)
        for size, (size_hw, shard_size, most) in SIZES.items():
            images = write_photographs(Path(folder) / size, size_hw, most, 8)
            for labels, num_labels in NUM_LABELS.items():
                name = f"sleeping_{size}{'_' if labels else ''}{labels}_images_per_core_s"
                out = Path(folder) / f"run_{size}{labels}"
                ratios[name] = round(images_per_core_s(images, out, shard_size, num_labels), 2)
    return {"ratios": ratios, "figures": {}}


if __name__ == "__main__":
    print(json.dumps(main()))
