"""Plan, begin and resume a job on ten million images: of a list file, and of a bucket.

Each step in a process of its own; memory is the process at its highest, with all its libraries.
Goals: a list planned within 3 minutes, both in 2 GB, resumed within 10 s.

`python -m benchmarks.grow planning` writes

- `plan_10m_peak_mb`: a job on a list is planned, as by `--dry-run`; `begin_10m_peak_mb`: it is
  begun, too, up to its first shard;
- `plan_10m_bucket_peak_mb`, `begin_10m_bucket_peak_mb`: likewise of a bucket, whose objects are
  nowhere, see `benchmarks.large_bucket`;
- `plan_10m_bucket_cpu_s`: seconds of the planning process alone, most of them S3's client;
- `plan_200k_lines_peak_mb`: planned on a .txt of 200,000 lines of which one is not plain.
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

from benchmarks import large_bucket
from benchmarks.old_commit import ROOT, environment
from pipeline.job.job import plan
from schemas.config import JobConfig

NUM_IMAGES = int(os.environ.get("OVSEG_BENCH_IMAGES", "10000000"))
CHUNK = 100_000
NUM_LINES = 200_000


def write_list(file: Path) -> None:
    """Write a list of images in a bucket, chunk by chunk."""
    schema = pa.schema([("uri", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        for first in range(0, NUM_IMAGES, CHUNK):
            places = range(first, min(first + CHUNK, NUM_IMAGES))
            uris = [f"s3://bucket/{place // 1000:05d}/photo-{place:08d}.jpg" for place in places]
            writer.write_table(pa.table({"uri": uris}, schema))


def write_lines(file: Path) -> None:
    """Write a list of images that is read line by line, as a name of it is odd."""
    lines = [f"{place // 1000:05d}/photo-{place:08d}.jpg" for place in range(NUM_LINES)]
    file.write_text("\n".join(["./odd.jpg", *lines]), encoding="utf-8")


def step(name: str, images: str, folder: Path) -> dict[str, float]:
    """Plan and begin a job, or resume it up to its first shard."""
    config = JobConfig.model_validate(
        {
            "images": images,
            "out": str(folder / "run"),
            "labels": ["thing"],
            "clip": {"model": "embedded"},
        }
    )
    start = time.perf_counter()
    planned = plan(config)
    plan_cpu_s, plan_gb = time.process_time(), peak_gb()
    run = planned.begin({})
    shard = run.shards()[0]
    took_s = time.perf_counter() - start
    if (planned.run is None) != (name == "plan"):
        raise RuntimeError(f"{name}: {planned.num_images} images, shard of {len(shard.refs)}")
    return {
        "images": planned.num_images,
        "s": round(took_s, 1),
        "gb": peak_gb(),
        "plan_gb": plan_gb,
        "plan_cpu_s": round(plan_cpu_s),
    }


def peak_gb() -> float:
    """Return the memory of this process at its highest so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak_kb = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return round(peak_kb * 1024 / 1e9, 3)


def step_apart(name: str, images: str, folder: str, env: dict[str, str]) -> dict[str, float]:
    """Measure a step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.planning", name, images, folder]
    env = environment(ROOT) | env
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure() -> dict[str, float]:
    """Measure lists and a bucket, for `benchmarks.grow`."""
    with tempfile.TemporaryDirectory() as folder:
        write_list(Path(folder) / "list.parquet")
        of_list = step_apart("plan", f"{folder}/list.parquet", folder, {})
    with tempfile.TemporaryDirectory() as folder, large_bucket.served(NUM_IMAGES) as env:
        bucket = step_apart("plan", large_bucket.URI, folder, env)
    if bucket["images"] != NUM_IMAGES:
        raise RuntimeError(f"{bucket['images']} images of {NUM_IMAGES}")
    with tempfile.TemporaryDirectory() as folder:
        write_lines(Path(folder) / "list.txt")
        lines = step_apart("plan", f"{folder}/list.txt", folder, {})
    return {
        "plan_10m_peak_mb": round(1000 * of_list["plan_gb"]),
        "begin_10m_peak_mb": round(1000 * of_list["gb"]),
        "plan_10m_bucket_peak_mb": round(1000 * bucket["plan_gb"]),
        "begin_10m_bucket_peak_mb": round(1000 * bucket["gb"]),
        "plan_10m_bucket_cpu_s": bucket["plan_cpu_s"],
        "plan_200k_lines_peak_mb": round(1000 * lines["plan_gb"]),
    }


def main() -> dict[str, Any]:
    """Measure both steps of a list."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_list(Path(folder) / "list.parquet")
        for name in ("plan", "resume"):
            found[name] = step_apart(name, f"{folder}/list.parquet", folder, {})
    return {
        "ratios": {
            f"{name}_10m_{unit}": value
            for name, values in found.items()
            for unit, value in values.items()
            if unit in ("s", "gb")
        },
        "figures": {"planning_images": NUM_IMAGES},
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(step(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
    else:
        print(json.dumps(main()))
