"""A worker's memory over its life: peak after 200 images against peak after 2,000.

The worker's own code path in one process with a worker's memory settings, fed by the same shards. A
ratio near 1 says that nothing grows with the number of images.
"""

import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.job import draw, job_config
from pipeline.annotate.build import build
from pipeline.collection.collect import collect
from pipeline.collection.manifest import Shards, shard_bounds
from pipeline.job.worker import Worker, WorkerSetup
from pipeline.job.worker_process import KEEP_MEMORY
from pipeline.run.folder import RunFolder
from pipeline.run.identity import RunIdentity

FEW, MANY = 200, 2000


def peak_mb() -> float:
    """Return the highest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> dict[str, Any]:
    """Annotate 2,000 images as a worker does and look at the peak on the way."""
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        # glibc reads them when a process starts.
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name], os.environ | KEEP_MEMORY)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        draw(images, MANY)
        config = job_config(images, Path(folder) / "run").model_copy(update={"shard_size": 50})
        manifest = collect(config.images, config.image)
        worker = Worker(WorkerSetup(config, "cpu", build))
        identity = RunIdentity(config, worker.prepare())
        RunFolder.create_or_resume(config.out, identity, manifest)
        peaks, done = {}, 0
        for shard in Shards(manifest, shard_bounds((manifest.num_rows, config.shard_size))):
            worker.annotate(shard)
            done += len(shard.refs)
            if done in (FEW, MANY):
                peaks[done] = peak_mb()
    return {
        "ratios": {"worker_peak_2000_over_200_images": round(peaks[MANY] / peaks[FEW], 3)},
        "figures": {"worker_peak_mb": {str(n): round(mb) for n, mb in peaks.items()}},
    }


if __name__ == "__main__":
    print(json.dumps(main()))
