"""The job against a Ray Data pipeline of the same segmenter, as a competent user writes it.

JPEG photographs of two megapixels, the embedded models, two workers; CLIP-DIY, whose network takes
nearly all the time on a CPU, and MaskCLIP, whose network is quick. The pipeline is the one of Ray's
documentation for batch inference: `read_images`, `map_batches` with two actors that hold
the segmenter, `write_parquet`; masks are encoded by pycocotools. It has no resume, no errors by
image, no score columns and no review order, which the job has.

Each side runs in a process of its own, from the command to the last file. Memory is the largest sum
over all its processes, Ray's own included, of their proportional shares (PSS).
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.old_commit import ROOT, environment
from benchmarks.photographs import write_photographs
from schemas.config import JobConfig

NUM_IMAGES = {"clip_diy": 100, "maskclip": 1000}
NUM_DIFFERENT = 40
SIZE_HW = (1200, 1600)
NUM_WORKERS = 2
BATCH_SIZE = 8
LOOK_EVERY_S = 0.5
LABELS = ["red star", "blue circle", "green house", "yellow fish"]


def job_config(method: str, images: Path, out: Path) -> JobConfig:
    """Return the job that both sides do."""
    return JobConfig.model_validate(
        {
            "images": str(images),
            "out": str(out),
            "labels": LABELS,
            "method": {"name": method},
            "clip": {"model": "embedded"},
            "shard_size": 50,
            "run": {"workers": NUM_WORKERS, "device": "cpu", "batch_size": BATCH_SIZE},
        }
    )


class Segment:
    """An actor of the pipeline: a batch of images in, a row for each with its masks out."""

    def __init__(self, method: str, images: str) -> None:
        import torch

        from pipeline.annotate.build import build

        torch.set_num_threads(1)
        self._config = job_config(method, Path(images), Path("unused"))
        self._segmenter = build(self._config, "cpu").segmenter
        self._text = self._segmenter.text_matrix(self._config.vocabulary)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Segment a batch."""
        import torch

        from ovseg_core.decision.decide import decide
        from ovseg_core.segmenter import encode_images

        images = [
            torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
            for image in batch["image"]
        ]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        with torch.inference_mode():
            maps = self._segmenter.score(encode_images(self._segmenter, images), self._text)
            decisions = decide(maps, sizes)
        masks = [
            _masks(decision.label_map, size)
            for decision, size in zip(decisions, sizes, strict=True)
        ]
        return {"path": batch["path"], "masks": masks}


def _masks(label_map: np.ndarray, size_hw: tuple[int, int]) -> str:
    """Return an image's masks as JSON: label, run lengths, area and box."""
    import cv2
    from pycocotools import mask as coco_mask

    full = cv2.resize(label_map.astype(np.uint8), size_hw[::-1], interpolation=cv2.INTER_NEAREST)
    rows = []
    for label in np.unique(full):
        if label:
            rle = coco_mask.encode(np.asfortranarray((full == label).astype(np.uint8)))
            rows.append(
                {
                    "label": LABELS[label - 1],
                    "counts": rle["counts"].decode(),
                    "area": int(coco_mask.area(rle)),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                }
            )
    return json.dumps(rows)


def run_ray_data(method: str, images: Path, out: Path) -> None:
    """Annotate a folder by Ray Data."""
    import ray
    import ray.data

    # Never a cluster that happens to run on this machine.
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    dataset = ray.data.read_images(str(images), include_paths=True, mode="RGB")
    dataset = dataset.map_batches(
        Segment,
        fn_constructor_args=(method, str(images)),
        batch_size=BATCH_SIZE,
        num_cpus=0.5,  # two actors and the reading share two cores
        concurrency=NUM_WORKERS,
    )
    dataset.write_parquet(str(out))


def run_job(method: str, images: Path, out: Path) -> None:
    """Annotate a folder as `ovseg annotate` does."""
    from pipeline.job import job

    job.run(job_config(method, images, out))


SIDES = {"job": run_job, "ray_data": run_ray_data}


def measure(side: str, method: str, images: Path, out: Path) -> dict[str, float]:
    """Run one side in a process of its own; return its images/s and peak memory in MB."""
    command = [sys.executable, "-m", "benchmarks.ray_data", side, method, str(images), str(out)]
    start, peak_bytes = time.perf_counter(), 0
    with subprocess.Popen(command, env=environment(ROOT), stdout=subprocess.DEVNULL) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _memory_bytes(tree))
            time.sleep(LOOK_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{side} ended with {process.returncode}")
    took_s = time.perf_counter() - start
    _check_complete(side, out, NUM_IMAGES[method])
    return {"images_per_s": NUM_IMAGES[method] / took_s, "peak_mb": peak_bytes / 1e6}


def _memory_bytes(process: psutil.Process) -> int:
    """Return the proportional shares of a process and all below it."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has ended meanwhile
            continue
    return total


def _check_complete(side: str, out: Path, num_images: int) -> None:
    import pyarrow.dataset as arrow_dataset

    place = out / "images" if side == "job" else out
    found = arrow_dataset.dataset(place, format="parquet").count_rows()
    if found != num_images:
        raise RuntimeError(f"{side} has written {found} rows of {num_images} images")


def main() -> dict[str, Any]:
    """Measure both sides, one after the other, by each method."""
    sides = {method: _measure_both(method) for method in NUM_IMAGES}
    ratios = {}
    for method, (job, ray_data) in sides.items():
        name = "ray_data" if method == "clip_diy" else f"ray_data_{method}"
        ratios[f"job_over_{name}"] = round(job["images_per_s"] / ray_data["images_per_s"], 2)
        ratios[f"memory_over_{name}"] = round(job["peak_mb"] / ray_data["peak_mb"], 2)
    figures = {
        f"{side}_{method}": {name: round(value, 1) for name, value in values.items()}
        for method, both in sides.items()
        for side, values in zip(SIDES, both, strict=True)
    }
    return {"ratios": ratios, "figures": {"ray_data": figures}}


def _measure_both(method: str) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        write_photographs(images, SIZE_HW, NUM_IMAGES[method], NUM_DIFFERENT)
        return [measure(side, method, images, Path(folder) / side) for side in SIDES]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SIDES[sys.argv[1]](sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        print(json.dumps(main()))
