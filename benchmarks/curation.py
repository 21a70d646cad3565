"""Near-duplicates: are copies found, is nothing else taken for one, and how long does it take.

    python -m benchmarks.grow curation

Copies (JPEG of quality 30, 5 % cut off, mirrored, half the size) of drawn scenes, and of
photographs where there are any, lie among other scenes; every pair of images of one group counts.
Thresholds were chosen on other seeds and other photographs.
"""

import os
import resource
import tempfile
import time
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.demo.scenes import draw_scene
from pipeline.curation.duplicates import DuplicateRules, find_duplicates
from pipeline.curation.images import annotated_images
from pipeline.curation.neighbours import pairs_above
from pipeline.job.job import run
from pipeline.run.folder import RunFolder
from schemas.config import JobConfig
from tests.helpers.copied_images import copies

PHOTOGRAPHS = os.environ.get("OVSEG_PHOTOGRAPHS", "")
"""A folder of JPEG files; without one only drawn scenes are measured."""
SCENES, COPIED, SEED = 400, 150, 200_000
IMAGES, DIM = 100_000, 512


def measure() -> dict[str, float]:
    """Return `duplicates_recall`, `duplicates_precision`, `duplicates_100k_s` and sizes."""
    return quality() | speed()


def quality() -> dict[str, float]:
    """Return recall and precision of pairs, and of vectors alone."""
    with tempfile.TemporaryDirectory(prefix="ovseg-curation-") as place:
        group_of = _write_images(Path(place, "images"))
        config = JobConfig.model_validate(
            {
                "images": f"{place}/images",
                "out": f"{place}/run",
                "labels": ["star", "heart"],
                "method": {"name": "naclip"},
                "clip": {"model": "embedded"},
                "run": {"device": "cpu", "local": True},
            }
        )
        run(config)
        images = annotated_images(RunFolder.open(f"{place}/run"))
        assert len(images) == len(group_of)
        began_s = time.process_time()
        found = find_duplicates(images, DuplicateRules())
        spent_s = time.process_time() - began_s
        alone = find_duplicates(images, DuplicateRules(pictures=False))
        groups = [group_of[path] for path in images.paths.to_pylist()]
        recall, precision = _pairs(groups, found.groups)
        recall_alone, precision_alone = _pairs(groups, alone.groups)
    return {
        "duplicates_recall": recall,
        "duplicates_precision": precision,
        "duplicates_images": len(groups),
        "duplicates_close_pairs": found.num_close,
        "duplicates_cpu_ms_per_image_read": round(1000 * spent_s / max(1, found.num_read), 2),
        "duplicates_recall_without_pictures": recall_alone,
        "duplicates_precision_without_pictures": precision_alone,
    }


def speed() -> dict[str, float]:
    """Return the time for all pairs of 100,000 vectors of 512 numbers.

    CPU seconds of all threads, halved: the seconds of two cores that do nothing else.
    """
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(IMAGES, DIM)).astype(np.float32)
    vectors += rng.normal(size=DIM).astype(np.float32)  # CLIP's vectors lie in a cone
    vectors[-5000:] = vectors[:5000] + 0.1 * rng.normal(size=(5000, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    halves = vectors.astype(np.float16)
    del vectors
    before = time.process_time()
    pairs = pairs_above(halves, 0.9)
    spent_s = time.process_time() - before
    assert len(pairs.cosine) == 5000
    return {
        "duplicates_100k_s": round(spent_s / 2, 1),
        "duplicates_100k_cpu_s": round(spent_s, 1),
        "duplicates_100k_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def _write_images(folder: Path) -> dict[str, int]:
    """Write images and copies; return the number of the original of each by name."""
    folder.mkdir()
    photographs = sorted(Path(PHOTOGRAPHS).glob("*.jpg"))[20:] if PHOTOGRAPHS else []
    originals = [Image.fromarray(draw_scene(SEED + seed).image) for seed in range(SCENES)]
    originals += [Image.open(file).convert("RGB") for file in photographs]
    group_of = {}
    for number, original in enumerate(originals):
        is_copied = number < COPIED or number >= SCENES
        copied = copies(np.asarray(original), SEED + number) if is_copied else []
        for name, pixels in enumerate([np.asarray(original), *copied]):
            file = f"{number:05d}_{name}.png"
            Image.fromarray(pixels).save(folder / file)
            group_of[file] = number
    return group_of


def _pairs(groups: list[int], found: list[np.ndarray]) -> tuple[float, float]:
    """Return recall and precision of the pairs of images that are in one group."""
    numbers = np.array(groups)
    right = sum(
        int(numbers[a] == numbers[b]) for group in found for a, b in combinations(group.tolist(), 2)
    )
    num_found = sum(len(group) * (len(group) - 1) // 2 for group in found)
    sizes = np.bincount(numbers)
    num_true = int((sizes * (sizes - 1) // 2).sum())
    return round(right / num_true, 4), round(right / max(1, num_found), 4)
