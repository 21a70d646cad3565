"""The whole job against its segmenter alone.

Two processes run the bare segmenter in a loop over images that are decoded already; the job reads,
decodes, segments, encodes and commits the same images with two actors. Start-up is left out on
both sides: the job's rate counts from the moment its first worker is ready. The loops are measured
as a plain script runs them, and with the memory settings that the job gives its workers.
"""

import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from jobs.demo.scenes import draw_scene
from ovseg_core.segmenter import encode_images
from pipeline.annotate.build import build
from pipeline.job.job import run
from pipeline.job.progress import make_progress
from pipeline.job.worker_process import KEEP_MEMORY
from schemas.config import JobConfig

NUM_IMAGES = 480
NUM_BARE = 160
SIZE_HW = (240, 320)
NUM_WORKERS = 2
BATCH_SIZE = 8
LABELS = ["red star", "blue circle", "green house", "yellow fish"]


def job_config(images: Path, out: Path) -> JobConfig:
    """Return the job on the embedded models, a thread for each worker."""
    return JobConfig.model_validate(
        {
            "images": str(images),
            "out": str(out),
            "labels": LABELS,
            "clip": {"model": "embedded"},
            "shard_size": 48,
            "run": {"workers": NUM_WORKERS, "device": "cpu", "batch_size": BATCH_SIZE},
        }
    )


def draw(folder: Path, num_images: int) -> None:
    """Write scenes as JPEG files; a hundred different ones, repeated."""
    for index in range(num_images):
        target = folder / f"{index:05d}.jpg"
        if index < 100:
            Image.fromarray(draw_scene(index, SIZE_HW).image).save(target, quality=90)
        else:
            target.write_bytes((folder / f"{index % 100:05d}.jpg").read_bytes())


def bare_rate(barrier: Any, rates: Any, num_images: int) -> None:
    """Put the images/s of the segmenter alone into `rates`."""
    torch.set_num_threads(1)
    config = job_config(Path("unused"), Path("unused"))
    segmenter = build(config, "cpu").segmenter
    text = segmenter.text_matrix(config.vocabulary)
    scenes = [torch.from_numpy(draw_scene(i, SIZE_HW).image).permute(2, 0, 1) for i in range(40)]
    batches = [scenes[i : i + BATCH_SIZE] for i in range(0, len(scenes), BATCH_SIZE)]
    segmenter.score(encode_images(segmenter, batches[0]), text)
    barrier.wait()
    start = time.perf_counter()
    done = 0
    while done < num_images:
        batch = batches[done // BATCH_SIZE % len(batches)]
        segmenter.score(encode_images(segmenter, batch), text)
        done += len(batch)
    rates.put(done / (time.perf_counter() - start))


def bare(settings: dict[str, str]) -> float:
    """Return the sum of the loops' rates, all at once, with these environment variables."""
    os.environ.update(settings)  # read by glibc when the spawned processes start
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(NUM_WORKERS), context.Queue()
    arguments = (barrier, rates, NUM_BARE // NUM_WORKERS)
    loops = [context.Process(target=bare_rate, args=arguments) for _ in range(NUM_WORKERS)]
    for loop in loops:
        loop.start()
    total = sum(rates.get() for _ in loops)
    for loop in loops:
        loop.join()
    for name in settings:
        del os.environ[name]
    return total


def main() -> dict[str, Any]:
    """Measure the bare loops before and after the job, and take their mean."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        draw(images, NUM_IMAGES)
        before = bare({}), bare(KEEP_MEMORY)
        report = run(job_config(images, Path(folder) / "run"), make_progress())
        after = bare(KEEP_MEMORY), bare({})
    plain, kept = before[0] + after[1], before[1] + after[0]
    return {
        "ratios": {
            "job_over_bare": round(2 * report.images_per_s / plain, 3),
            "job_over_bare_same_memory_settings": round(2 * report.images_per_s / kept, 3),
        },
        "figures": {
            "job_images_per_s": round(report.images_per_s, 2),
            "bare_loops_images_per_s": [round(before[0], 2), round(after[1], 2)],
            "bare_loops_same_settings_images_per_s": [round(before[1], 2), round(after[0], 2)],
        },
    }


if __name__ == "__main__":
    print(json.dumps(main()))
