"""What one GPU gives, layer by layer, within five minutes: `make bench-gpu`.

Matrix products alone, CLIP's bare image encoder, each method's segmenter, and whole jobs from JPEG
files on disk, on random networks of ViT-B/16's size (and of DINO ViT-B/8's for the second one) in
bfloat16. Writes `benchmarks/results/gpu-<device>.json`. Without a GPU it runs through on the CPU
with the embedded models and tiny sizes, only to test itself, and says so.

    python -m benchmarks.gpu [--out FOLDER] [METHOD ...]
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.photographs import photograph, write_photographs
from benchmarks.proxyclip import random_vit_b16
from ovseg_core import methods
from ovseg_core.segmenter import encode_images
from pipeline.annotate.build import build
from pipeline.job.job import run
from schemas import plugins
from schemas.config import JobConfig

LIMIT_S = 280.0
"""Methods and jobs for which there is no time left are named in `left_out`."""
RESULTS = Path(__file__).parent / "results"
NUM_LABELS = 20
GFLOP_OF_VIT_B16 = 35.2
"""Of an image of 224 x 224 pixels: 17.6 G multiplications with an addition each."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured on a kind of device."""

    matrix: int
    bare_batch: int
    batch: int
    num_images: int
    image_hw: tuple[int, int]
    seconds: float
    """Of each measurement, at least."""
    jobs: tuple[str, ...] | None
    """Methods whose whole job is run; None: those that are measured."""


SIZES = {
    "cuda": Sizes(8192, 256, 32, 1500, (480, 640), 3.0, ("maskclip", "proxyclip", "clip_diy")),
    "cpu": Sizes(256, 2, 2, 4, (96, 128), 0.0, None),
}


def per_second(work: Callable[[], object], amount: float, sizes: Sizes) -> float:
    """Return `amount` over the seconds of one call, after one call to warm up."""
    work()
    _wait()
    calls, start = 0, time.perf_counter()
    while not calls or time.perf_counter() - start < sizes.seconds:
        work()
        _wait()
        calls += 1
    return calls * amount / (time.perf_counter() - start)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_tflops(device: str, sizes: Sizes) -> float:
    """Return the rate of products of square bfloat16 matrices."""
    side = sizes.matrix
    left, right = (torch.rand(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return per_second(lambda: left @ right, 2 * side**3 / 1e12, sizes)


def config_of(method: str, networks: dict[str, Any], device: str, **more: Any) -> JobConfig:
    """Return the job of a method, in bfloat16 where this ovseg can."""
    fields = {
        "images": "unused",
        "out": "unused",
        "labels": [f"thing {number}" for number in range(NUM_LABELS)],
        "method": {"name": method},
        "run": {"device": device, "local": True},
        **networks,
        **more,
    }
    if "compute" in JobConfig.model_fields:
        fields["compute"] = {"precision": "bf16"}
    return JobConfig.model_validate(fields)


def networks(device: str, folder: Path) -> dict[str, Any]:
    """Return the configuration's networks: large random ones for a GPU, else the embedded."""
    if device == "cpu":
        return {"clip": {"model": "embedded"}}
    random_vit_b16(folder)
    return {
        "clip": {"model": f"local-dir:{folder}/clip"},
        "vision": {"model": f"local-dir:{folder}/vision"},
    }


def bare_encoder(config: JobConfig, device: str, sizes: Sizes) -> float:
    """Return the images/s of CLIP's image encoder by itself, in bfloat16."""
    from ovseg_core.backbones.registry import Backbones

    clip = Backbones.from_config(config, device, str).clip
    side = clip.input_px
    batch = torch.rand(sizes.bare_batch, 3, side, side, device=device)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        return per_second(lambda: clip.visual(batch), sizes.bare_batch, sizes)


def segmenter(config: JobConfig, device: str, sizes: Sizes) -> dict[str, float]:
    """Return the images/s of a method from pixels to score maps, and its peak memory."""
    built = build(config, device).segmenter
    text = built.text_matrix(config.vocabulary)
    images: Sequence[Tensor] = [
        torch.from_numpy(photograph(seed, sizes.image_hw)).permute(2, 0, 1).contiguous()
        for seed in range(sizes.batch)
    ]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def work() -> None:
        built.score(encode_images(built, images), text)

    with torch.inference_mode():
        rate = per_second(work, sizes.batch, sizes)
    peak_mb = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0.0
    return {"segmenter_images_per_s": round(rate, 2), "peak_gpu_mb": round(peak_mb)}


def whole_job(config: JobConfig) -> float:
    """Return the images/s of a job in this process, start-up left out."""
    report = run(config)
    if report.errors or report.num_new != report.num_images:
        raise RuntimeError(report.summary())
    return report.images_per_s


def measure(device: str, names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Measure layer by layer until the time is up."""
    began_s, sizes = time.perf_counter(), SIZES[device]
    nets = networks(device, folder)
    found: dict[str, Any] = {"matrix_bf16_tflops": round(matrix_tflops(device, sizes), 3)}
    bare = bare_encoder(config_of(names[0], nets, device), device, sizes)
    found["bare_encoder_images_per_s"] = round(bare, 2)
    if device == "cuda":
        share = bare * GFLOP_OF_VIT_B16 / 1e3 / found["matrix_bf16_tflops"]
        found["bare_encoder_share_of_matrix_rate"] = round(share, 3)
    images = write_photographs(folder / "images", sizes.image_hw, sizes.num_images, 8)
    results: dict[str, dict[str, Any]] = {name: {} for name in names}
    left_out = []
    with_job = names if sizes.jobs is None else sizes.jobs
    for name in names:
        if time.perf_counter() - began_s > LIMIT_S / 2:
            left_out.append(f"segmenter of {name}")
        else:
            results[name] = segmenter(config_of(name, nets, device), device, sizes)
            print(name, results[name], flush=True)
    for name in (name for name in names if name in with_job):
        # A job takes about as long as its segmenter alone, and its start.
        rate = results[name].get("segmenter_images_per_s", 0.0)
        left_s = LIMIT_S - (time.perf_counter() - began_s) - 20
        if device == "cuda" and (not rate or 2 * sizes.num_images / rate > left_s):
            left_out.append(f"job of {name}")
            continue
        places = {"images": str(images), "out": str(folder / f"run_{name}")}
        job_run = {"device": device, "local": True, "batch_size": sizes.batch}
        config = config_of(name, nets, device, run=job_run, **places)
        results[name]["job_images_per_s"] = round(whole_job(config), 2)
        print(name, results[name], flush=True)
    return {**found, "methods": results, "left_out": left_out}


def main() -> int:
    """Measure and write the file of this device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("methods", nargs="*", default=[], help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    if device == "cpu":
        print("no GPU here: tiny sizes on the CPU, which only test this script")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        names = given.methods or [*filter(methods.runs_by_name, plugins.names(methods.PACKAGE))]
        found = measure(device, names, Path(folder))
    has_precision = "compute" in JobConfig.model_fields
    report = {
        "device": name,
        "is_a_test_only": device == "cpu",
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "precision": "bf16" if has_precision else "fp32, as this ovseg has no compute.precision",
        "seconds": round(time.perf_counter() - start, 1),
        **found,
    }
    file = given.out / f"gpu-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"written: {file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
