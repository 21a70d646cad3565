"""The driver with 1, 8 and 64 workers that sleep: does their number limit it?

The job's own driver and pool on Ray, real commits; the workers' processes have no torch and sleep
for a shard's time, so that two cores can hold 64 of them. Counted from when all have started. The
rate of 64 over that of one is to be near 64; the driver's CPU time is that of its whole process.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import ray

from benchmarks.sleeping_worker import SleepingSetup, SleepingWorker
from pipeline.collection.collect import collect
from pipeline.job.driver import Driver
from pipeline.job.progress import make_progress
from pipeline.job.shard_status import ShardStatus
from pipeline.job.termination import Termination
from pipeline.job.worker import WorkerSetup
from pipeline.job.worker_pool import WorkerPool
from pipeline.job.worker_process import set_ray_environment
from pipeline.run.folder import RunFolder
from pipeline.run.identity import RunIdentity
from schemas.config import JobConfig

NUM_WORKERS = tuple(map(int, os.environ.get("OVSEG_BENCH_WORKERS", "1,8,64").split(",")))
SHARD_SIZE = 50
SECONDS_PER_IMAGE = 0.1
ROUNDS = 2
"""Shards for each worker."""


def measure(folder: Path, num_workers: int) -> dict[str, float]:
    """Return images/s of so many workers, and the driver's CPU milliseconds an image."""
    num_images = num_workers * ROUNDS * SHARD_SIZE
    listed = folder / f"list{num_workers}.txt"
    listed.write_text("".join(f"s3://bucket/{place:06d}.jpg\n" for place in range(num_images)))
    config = JobConfig.model_validate(
        {
            "images": str(listed),
            "out": str(folder / f"run{num_workers}"),
            "labels": ["thing"],
            "clip": {"model": "embedded"},
            "shard_size": SHARD_SIZE,
            "run": {"workers": num_workers, "device": "cpu"},
        }
    )
    setup = SleepingSetup(config, "cpu", str(Path.cwd()), SECONDS_PER_IMAGE)
    pool = WorkerPool(cast(WorkerSetup, setup), num_workers * ROUNDS, SleepingWorker)
    try:
        ray.wait(pool.starting, num_returns=num_workers)
        first = pool.wait_for_first()
        images = collect(config.images, config.image)
        run = RunFolder.create_or_resume(config.out, RunIdentity(config, pool.weights), images)
        progress = make_progress()
        progress.start(num_images, 0)
        status = ShardStatus(run, progress)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        progress.begin()
        Driver(pool, status, iter(run.shards()), Termination()).run(first)
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        progress.close()
    finally:
        pool.stop_all()
    if len(run.done()) != num_workers * ROUNDS:
        raise RuntimeError(f"{len(run.done())} shards are done, expected {num_workers * ROUNDS}")
    return {"images_per_s": num_images / took_s, "driver_cpu_ms": 1e3 * cpu_s / num_images}


def main() -> dict[str, Any]:
    """Measure each number of workers on one Ray."""
    set_ray_environment()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # the workers import this package
    ray.init(
        address="local",  # never a cluster that happens to run on this machine
        num_cpus=max(NUM_WORKERS),
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=256 << 20,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = {count: measure(Path(folder), count) for count in NUM_WORKERS}
    few, many = min(NUM_WORKERS), max(NUM_WORKERS)
    return {
        "ratios": {
            f"sleeping_{many}_over_{few}": round(
                found[many]["images_per_s"] / found[few]["images_per_s"], 1
            ),
            "driver_cpu_ms_per_image": round(found[many]["driver_cpu_ms"], 3),
        },
        "figures": {
            "sleeping_workers": {
                str(count): {name: round(value, 3) for name, value in values.items()}
                for count, values in found.items()
            }
        },
    }


if __name__ == "__main__":
    print(json.dumps(main()))
