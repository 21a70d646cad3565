"""Plan, begin and resume a job on a list of ten million images.

Each step in a process of its own; memory is the process at its highest. Goals: planned within 3
minutes and 2 GB, resumed within 10 s.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.old_commit import ROOT, environment
from pipeline.job.job import plan
from schemas.config import JobConfig

NUM_IMAGES = int(os.environ.get("OVSEG_BENCH_IMAGES", "10000000"))
CHUNK = 100_000


def write_list(file: Path) -> None:
    """Write a list of images in a bucket, chunk by chunk."""
    schema = pa.schema([("uri", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        for first in range(0, NUM_IMAGES, CHUNK):
            places = range(first, min(first + CHUNK, NUM_IMAGES))
            uris = [f"s3://bucket/{place // 1000:05d}/photo-{place:08d}.jpg" for place in places]
            writer.write_table(pa.table({"uri": uris}, schema))


def step(name: str, folder: Path) -> dict[str, float]:
    """Plan and begin a job, or resume it up to its first shard."""
    config = JobConfig.model_validate(
        {
            "images": str(folder / "list.parquet"),
            "out": str(folder / "run"),
            "labels": ["thing"],
            "clip": {"model": "embedded"},
        }
    )
    start = time.perf_counter()
    planned = plan(config)
    run = planned.begin({})
    shard = run.shards()[0]
    took_s = time.perf_counter() - start
    if (planned.run is None) != (name == "plan") or planned.num_images != NUM_IMAGES:
        raise RuntimeError(f"{name}: {planned.num_images} images, shard of {len(shard.refs)}")
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak_kb = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return {"s": round(took_s, 1), "gb": round(peak_kb * 1024 / 1e9, 2)}


def main() -> dict[str, Any]:
    """Measure both steps."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_list(Path(folder) / "list.parquet")
        for name in ("plan", "resume"):
            command = [sys.executable, "-m", "benchmarks.planning", name, folder]
            done = subprocess.run(
                command, env=environment(ROOT), stdout=subprocess.PIPE, check=True
            )
            found[name] = json.loads(done.stdout.splitlines()[-1])
    return {
        "ratios": {
            f"{name}_10m_{unit}": value
            for name, values in found.items()
            for unit, value in values.items()
        },
        "figures": {"planning_images": NUM_IMAGES},
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(step(sys.argv[1], Path(sys.argv[2]))))
    else:
        print(json.dumps(main()))
