"""Peak memory and seconds of a COCO export.

    python -m benchmarks.coco_export --annotations 1000000

Makes a run folder of noisy masks (about 700 bytes of run lengths each) in a temporary folder, then
exports it in a process of its own. Prints one line of JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEGMENTS = 10
SHARD_IMAGES = 256
LABELS = [f"label {number}" for number in range(1, SEGMENTS + 1)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--annotations", type=int, default=1_000_000)
    parser.add_argument("--export", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.export:
        print(json.dumps(measure(arguments.export)))
        return
    with tempfile.TemporaryDirectory(prefix="ovseg-bench-") as folder:
        make_run(Path(folder), arguments.annotations // SEGMENTS)
        command = [sys.executable, "-m", "benchmarks.coco_export", "--export", f"{folder}/run"]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def measure(run: str) -> dict[str, float]:
    from pipeline.exporters import coco
    from pipeline.rundir import RunDir

    before = _peak_mb()
    started = time.process_time()
    folder = RunDir.open(run)
    written = coco.export(folder, coco.Options())
    seconds = time.process_time() - started
    return {
        "annotations": sum(marker.tally.num_segments for marker in folder.done().values()),
        "megabytes": round(sum(folder.folder.size(name) for name in written) / 1e6, 1),
        "cpu_s": round(seconds, 1),
        "peak_rss_mb": round(_peak_mb(), 1),
        "rss_after_imports_mb": round(before, 1),
    }


def make_run(folder: Path, num_images: int) -> None:
    from pipeline.rundir import RunDir
    from pipeline.runinfo import RunPlan
    from schemas.config import JobConfig
    from schemas.records import ImageRef, ShardRows, ShardTally
    from schemas.tables import to_table

    config = JobConfig.model_validate(
        {
            "images": str(folder / "photos"),
            "out": str(folder / "run"),
            "labels": LABELS,
            "shard_size": SHARD_IMAGES,
        }
    )
    refs = [
        ImageRef(image_id=f"{n:032x}", path=f"{n:07d}.jpg", uri=f"{folder}/photos/{n:07d}.jpg")
        for n in range(num_images)
    ]
    manifest = to_table("manifest", refs)
    run = RunDir.create_or_resume(
        config.out, RunPlan(config=config, weights={}, manifest=lambda: manifest)
    )
    for shard in run.shards():
        images, annotations = zip(*(_image(ref) for ref in shard.refs), strict=True)
        rows = ShardRows.model_construct(
            images=images, scores=(), annotations=[row for rows in annotations for row in rows]
        )
        tally = ShardTally(num_images=len(images), num_segments=len(rows.annotations))
        run.commit(shard.index, "bench", rows, tally)


def _image(ref: "ImageRef") -> tuple["ImageResult", list["Annotation"]]:  # noqa: F821
    from schemas.records import Annotation, ImageResult

    image = ImageResult(
        image_id=ref.image_id, path=ref.path, uri=ref.uri, height=480, width=640, num_segments=10
    )
    scores = dict.fromkeys(
        (
            "mean_prob",
            "margin_mean",
            "margin_p10",
            "entropy_mean",
            "saliency_mean",
            "boundary_uncertainty",
            "area_frac",
        ),
        0.1234567,
    )
    rows = [
        Annotation.model_construct(
            image_id=ref.image_id,
            label=label,
            category_id=index + 1,
            segment_index=index,
            height=480,
            width=640,
            rle_counts=counts,
            area_px=12345,
            bbox_xywh=(1.0, 2.0, 300.0, 400.0),
            num_components=3,
            **scores,
        )
        for index, (label, counts) in enumerate(zip(LABELS, _counts(), strict=True))
    ]
    return image, rows


def _counts(cache: list[str] = []) -> list[str]:  # noqa: B006 - made once
    if not cache:
        import cv2
        import numpy as np

        from ovseg_core.rle import encode_regions

        coarse = np.random.default_rng(0).random((SEGMENTS, 5, 7), dtype=np.float32)
        smooth = [cv2.resize(plane, (640, 480), interpolation=cv2.INTER_CUBIC) for plane in coarse]
        labels = np.argmax(smooth, 0) + 1
        cache += [rle.counts for rle in encode_regions(labels, (480, 640)).values()]
    return cache


def _peak_mb() -> float:
    # Not getrusage: its peak is inherited from the process that made the run folder.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1]) / 1024


if __name__ == "__main__":
    main()
