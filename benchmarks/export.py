"""Exports: memory and time at a million masks, and of formats that write many files or draw.

Makes run folders of smooth masks (1.2 kB of run lengths each, 640x480) and exports them in
processes of their own, so that each has its own peak. COCO is also built whole, the usual way.
The figures include helper processes: CPU time is the sum of all processes, `helpers_mb` the memory
of the helpers beside the peak of the export itself.
"""

import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from ovseg_core.rle.encode import encode_rle
from pipeline.exporters import panoptic
from pipeline.exporters.shared.export import Export
from pipeline.run.folder import RunFolder
from pipeline.run.identity import RunIdentity
from pipeline.run.reader import RunReader
from schemas import plugins
from schemas.config import JobConfig
from schemas.records import Annotation, ImageRef, ImageResult, ShardRows, ShardTally
from schemas.score_columns import SCORE_COLUMNS
from schemas.tables import to_table

FEW, MANY = 100_000, 1_000_000
"""Annotations."""
PICTURED = 20_000
"""Annotations where a format writes a file for each image, or draws each mask."""
ONE_FILE = {
    "coco": {},
    "coco_of_100_mb": {"max_bytes": 100_000_000},
    "fiftyone": {},
    "cvat": {},
    "label_studio": {},
}
"""Formats and their options; what follows `_of_` or `_as_` is only the figure's name."""
MANY_FILES = {
    "coco": {},
    "cvat": {},
    "label_studio": {},
    "semantic_png": {},
    "panoptic": {},
    "labelme": {},
    "yolo_seg": {},
    "coco_as_components": {"segments": "components"},
    "coco_as_polygons": {"polygons": True},
}
SEGMENTS = 10
"""Segments of each image."""
SHARD_IMAGES = 256
SIZE_HW = (480, 640)
NUM_MAPS = 256
"""Different label maps: of fewer ones the archive would compress repetitions."""
LABELS = tuple(f"label {number}" for number in range(1, SEGMENTS + 1))
SCORES = [name for name in SCORE_COLUMNS if name != "num_components"]


def export_to(name: str, options: dict[str, Any], run: str) -> int:
    """Export as the product does; return the bytes written."""
    part = plugins.load_plugin("pipeline.exporters", name)
    folder = RunFolder.open(run)
    part.export(folder, part.Options.model_validate(options))
    return sum(folder.folder.sizes(part.FOLDER).values())


class WithoutPictures(Export):
    """An export that drops the files of single images."""

    def put(self, name: str, data: bytes | Callable[[], bytes]) -> None:
        """Drop a file."""


def panoptic_json(run: str) -> int:
    """Write the panoptic format's one large file alone; return its bytes."""
    options, folder = panoptic.Options(), RunFolder.open(run)
    with WithoutPictures(folder, panoptic.FOLDER, options, "Panoptic") as export:
        panoptic.write(export, options)
    return folder.folder.size(f"{panoptic.FOLDER}/panoptic.json")


def build_whole(run: str) -> int:
    """Export the usual way, one object and one `json.dump`; return the bytes written."""
    images, annotations = [], []
    for shard in RunReader(RunFolder.open(run)).shards():
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
    """Put what a piece of work cost this process and its helpers into `answers`."""
    start, begin = sum(os.times()[:4]), time.perf_counter()
    done, most = threading.Event(), [0.0]
    watch = threading.Thread(target=watch_helpers, args=(done, most))
    watch.start()
    num_bytes = work(run)
    done.set()
    watch.join()
    seconds, wall = sum(os.times()[:4]) - start, time.perf_counter() - begin
    figures = {"peak_mb": peak_mb("self"), "cpu_s": seconds, "wall_s": wall}
    answers.put({**figures, "helpers_mb": max(most), "megabytes": num_bytes / 1e6})


def watch_helpers(done: threading.Event, sums: list[float]) -> None:
    """Note the sum of the peaks of all child processes, now and then."""
    while not done.wait(0.5):
        with suppress(psutil.NoSuchProcess, OSError, StopIteration):
            sums.append(sum(peak_mb(child.pid) for child in psutil.Process().children()))


def peak_mb(process: int | str) -> float:
    """Return a process's peak; getrusage's is inherited from the one that started it."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    peak_kb = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
    return int(peak_kb) / 1024


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
    """Commit a run with this number of annotations and return its folder."""
    values = {"images": str(folder / "photos"), "out": str(folder / "run"), "labels": LABELS}
    config = JobConfig.model_validate({**values, "shard_size": SHARD_IMAGES})
    refs = [
        ImageRef(image_id=f"{n:032x}", path=f"{n:07d}.jpg", uri=f"{folder}/photos/{n:07d}.jpg")
        for n in range(num_annotations // SEGMENTS)
    ]
    manifest = to_table("manifest", refs)
    run = RunFolder.create_or_resume(config.out, RunIdentity(config, {}), manifest)
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
        for row in annotation_rows(int(ref.image_id, 16) % NUM_MAPS)
    ]


@cache
def annotation_rows(seed: int) -> list[dict[str, Any]]:
    """Return the segments of one smooth random label map."""
    coarse = np.random.default_rng(seed).random((SEGMENTS, 5, 7), dtype=np.float32)
    size = SIZE_HW[::-1]
    smooth = [cv2.resize(plane, size, interpolation=cv2.INTER_CUBIC) for plane in coarse]
    regions = np.argmax(smooth, axis=0) + 1
    return [
        {
            "label": LABELS[number - 1],
            "category_id": number,
            "segment_index": number - 1,
            "kind": "class",
            "height": SIZE_HW[0],
            "width": SIZE_HW[1],
            "rle_counts": rle.counts,
            "area_px": rle.area_px,
            "bbox_xywh": rle.bbox_xywh,
            "num_components": 1,
            **dict.fromkeys(SCORES, 0.1234567),
        }
        for number, rle in encode_rle(regions, SIZE_HW).items()
    ]


def all_formats(formats: dict[str, dict[str, Any]], run: str) -> dict[str, dict[str, float]]:
    """Export a run in every format, one after another."""
    known = plugins.names("pipeline.exporters")
    found = {}
    for figure, options in formats.items():
        name = next(name for name in known if figure in (name, *_variants(figure, name)))
        found[figure] = apart(partial(export_to, name, options), run)
        shutil.rmtree(Path(run, "exports"))  # a million in Label Studio's format are 11 GB
    return found


def _variants(figure: str, name: str) -> tuple[str, ...]:
    return tuple(figure for word in ("_of_", "_as_") if figure.startswith(f"{name}{word}"))


def main() -> dict[str, Any]:
    """Export runs of three sizes."""
    with tempfile.TemporaryDirectory() as folder:
        few = make_run(Path(folder, "few"), FEW)
        streamed, whole = apart(partial(export_to, "coco", {}), few), apart(build_whole, few)
    with tempfile.TemporaryDirectory() as folder:
        pictured = all_formats(MANY_FILES, make_run(Path(folder), PICTURED))
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), MANY)
        many = all_formats(ONE_FILE, run) | {"panoptic_json": apart(panoptic_json, run)}
    plain = many["coco"]
    ratio = streamed["peak_mb"] / whole["peak_mb"]
    return {
        "ratios": {
            "export_streamed_peak_over_whole_at_100k": round(ratio, 3),
            **{
                f"export_{name}_{what}_over_coco_at_1m": round(figures[key] / plain[key], 2)
                for name, figures in many.items()
                for what, key in (("time", "wall_s"), ("cpu", "cpu_s"))
                if name != "coco"
            },
        },
        "figures": {
            "export_100k_annotations": {"streamed": streamed, "whole": whole},
            "export_1m_annotations": many,
            "export_20k_annotations_of_2k_images": pictured,
        },
    }


if __name__ == "__main__":
    print(json.dumps(main()))
