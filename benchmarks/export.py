"""COCO export: peak memory of the streamed file against building it whole, and at a million masks.

Makes a run folder of smooth masks (1.7 kB of run lengths each) and exports it in processes of their
own, so that each has its own peak.
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ovseg_core.rle import encode_regions
from pipeline.exporters import coco
from pipeline.finished import FinishedRun
from pipeline.rundir import RunDir
from pipeline.runinfo import RunPlan
from schemas.config import JobConfig
from schemas.records import Annotation, ImageRef, ImageResult, ShardRows, ShardTally
from schemas.tables import to_table

FEW, MANY = 100_000, 1_000_000
"""Annotations."""
SEGMENTS = 10
"""Of one image."""
SHARD_IMAGES = 256
SIZE_HW = (480, 640)
LABELS = tuple(f"label {number}" for number in range(1, SEGMENTS + 1))
SCORES = (
    "mean_prob", "margin_mean", "margin_p10", "entropy_mean", "saliency_mean",
    "boundary_uncertainty", "area_frac",
)  # fmt: skip


def stream(run: str) -> int:
    """Export as the product does; return the bytes written."""
    folder = RunDir.open(run)
    return sum(folder.folder.size(name) for name in coco.export(folder, coco.Options()))


def build_whole(run: str) -> int:
    """Export the usual way, one object and one `json.dump`; return the bytes written."""
    images, annotations = [], []
    for shard in FinishedRun(RunDir.open(run)).shards(("path", "height", "width")):
        images += shard.images.values()
        for row in shard.segments():
            size = [row["height"], row["width"]]
            segmentation = {"size": size, "counts": row.pop("rle_counts")}
            annotations.append({"id": len(annotations) + 1, "segmentation": segmentation, **row})
    target = Path(run, "whole.json")
    with target.open("w", encoding="utf-8") as file:
        json.dump({"images": images, "annotations": annotations}, file)
    return target.stat().st_size


def measured(work: Callable[[str], int], run: str, answers: Any) -> None:
    """Put what a piece of work cost this process into `answers`."""
    start = time.process_time()
    num_bytes = work(run)
    seconds = time.process_time() - start
    # Not getrusage: its peak is inherited from the process that made the run folder.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak_kb = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
    answers.put({"peak_mb": int(peak_kb) / 1024, "cpu_s": seconds, "megabytes": num_bytes / 1e6})


def apart(work: Callable[[str], int], run: str) -> dict[str, float]:
    """Run a piece of work in a fresh process and return what it cost."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=measured, args=(work, run, answers))
    process.start()
    answer = answers.get()
    process.join()
    return {name: round(value, 1) for name, value in answer.items()}


def make_run(folder: Path, num_annotations: int) -> str:
    """Commit a run of so many annotations and return its folder."""
    values = {"images": str(folder / "photos"), "out": str(folder / "run"), "labels": LABELS}
    config = JobConfig.model_validate({**values, "shard_size": SHARD_IMAGES})
    refs = [
        ImageRef(image_id=f"{n:032x}", path=f"{n:07d}.jpg", uri=f"{folder}/photos/{n:07d}.jpg")
        for n in range(num_annotations // SEGMENTS)
    ]
    manifest = to_table("manifest", refs)
    run = RunDir.create_or_resume(config.out, RunPlan(config, {}, lambda: manifest))
    for shard in run.shards():
        images = [image(ref) for ref in shard.refs]
        segments = [row for ref in shard.refs for row in annotations(ref)]
        rows = ShardRows.model_construct(images=images, scores=[], annotations=segments)
        tally = ShardTally(num_images=len(images), num_segments=len(segments))
        run.commit(shard.index, "bench", rows, tally)
    return config.out


def image(ref: ImageRef) -> ImageResult:
    """Return the row of an image."""
    height, width = SIZE_HW
    known = ref.model_dump(include={"image_id", "path", "uri"})
    return ImageResult(**known, height=height, width=width, num_segments=SEGMENTS)


def annotations(ref: ImageRef) -> list[Annotation]:
    """Return the rows of an image's segments."""
    return [
        Annotation.model_construct(image_id=ref.image_id, **row)  # a million: not checked again
        for row in annotation_rows()
    ]


@cache
def annotation_rows() -> list[dict[str, Any]]:
    """Return the segments of one smooth random label map."""
    coarse = np.random.default_rng(0).random((SEGMENTS, 5, 7), dtype=np.float32)
    size = SIZE_HW[::-1]
    smooth = [cv2.resize(plane, size, interpolation=cv2.INTER_CUBIC) for plane in coarse]
    regions = np.argmax(smooth, axis=0) + 1
    return [
        {
            "label": LABELS[number - 1],
            "category_id": number,
            "segment_index": number - 1,
            "height": SIZE_HW[0],
            "width": SIZE_HW[1],
            "rle_counts": rle.counts,
            "area_px": rle.area_px,
            "bbox_xywh": rle.bbox_xywh,
            "num_components": 1,
            **dict.fromkeys(SCORES, 0.1234567),
        }
        for number, rle in encode_regions(regions, SIZE_HW).items()
    ]


def main() -> dict[str, Any]:
    """Export a small run both ways and a large one as the product does."""
    with tempfile.TemporaryDirectory() as folder:
        few = make_run(Path(folder, "few"), FEW)
        streamed, whole = apart(stream, few), apart(build_whole, few)
    with tempfile.TemporaryDirectory() as folder:
        many = apart(stream, make_run(Path(folder), MANY))
    ratio = streamed["peak_mb"] / whole["peak_mb"]
    return {
        "ratios": {"export_streamed_peak_over_whole_at_100k": round(ratio, 3)},
        "figures": {
            "export_100k_annotations": {"streamed": streamed, "whole": whole},
            "export_1m_annotations": many,
        },
    }


if __name__ == "__main__":
    print(json.dumps(main()))
