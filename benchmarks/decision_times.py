"""Time the decision and the rows of one image; run by `benchmarks.decision` for two commits.

A script, not a module of the package: it takes `ovseg_core` from PYTHONPATH, of either commit.
"""

import json
import sys
import time
from importlib import import_module

import torch

try:
    from ovseg_core.decision.decide import decide_one
    from ovseg_core.decision.image_rows import image_rows
except ImportError:  # e384e9e
    decide_one = import_module("ovseg_core.decide").decide_one
    image_rows = import_module("ovseg_core.quality").image_rows
from score_maps import smooth_cosines  # type: ignore[import-not-found] # beside this file

from ovseg_core.segmenter import ScoreMaps
from schemas.config import MaskConfig

MAX_S = 6.0
"""A case is repeated for so long, or `MOST` times, and once at least."""
MOST = 5


def measure(size_hw: tuple[int, int], num_classes: int) -> dict[str, float]:
    """Return the least CPU milliseconds of each part."""
    names = [f"thing {number}" for number in range(1, num_classes)]
    maps = ScoreMaps(
        levels=((smooth_cosines(num_classes, 0),),),
        canvas_hw=None,
        objectness=None,
        fusion="none",
        domain="cosine",
        logit_scale=100.0,
    )
    least = {"decide": float("inf"), "rows": float("inf")}
    began = time.perf_counter()
    for _ in range(MOST):
        start = time.process_time()
        decision = decide_one(maps, 0, size_hw)
        middle = time.process_time()
        image_rows(decision, size_hw, names, MaskConfig())
        end = time.process_time()
        least["decide"] = min(least["decide"], middle - start)
        least["rows"] = min(least["rows"], end - middle)
        if time.perf_counter() - began > MAX_S:
            break
    return {part: 1e3 * seconds for part, seconds in least.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        measure((96, 128), 5)
        cases = json.loads(sys.argv[1])
        print(json.dumps({name: measure(tuple(hw), count) for name, (hw, count) in cases.items()}))
