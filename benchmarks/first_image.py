"""From the command to the first image: the whole of `annotate --limit 1`, embedded models.

Against the commit `old_commit.OLD_COMMIT`, in turns, in this process and on Ray with two workers.
Wall seconds; the least of the turns, after one of each that fills the page cache.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.old_commit import OLD_COMMIT, ROOT, environment, old_checkout
from benchmarks.photographs import write_photographs

WAYS = {"local": ["--local"], "ray": ["--workers", "2"]}
TURNS = {"local": 2, "ray": 1}
OVSEG = "import sys; from jobs.cli import main; sys.exit(main())"


def seconds(checkout: Path, folder: Path, flags: list[str]) -> float:
    """Return the wall seconds of one command, with the code of a checkout."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            *(sys.executable, "-c", OVSEG, "annotate", "--images", str(folder), "--limit", "1"),
            *("--labels", "red star,blue circle", "--set", "clip.model=embedded"),
            *("--out", f"{out}/run", *flags),
        ]
        start = time.perf_counter()
        subprocess.run(command, env=environment(checkout), cwd=out, capture_output=True, check=True)
        return time.perf_counter() - start


def main() -> dict[str, Any]:
    """Measure both commits in turns."""
    ratios, figures = {}, {}
    with tempfile.TemporaryDirectory() as folder, old_checkout() as old:
        images = write_photographs(Path(folder) / "images", (240, 320), 2, 2)
        checkouts = {OLD_COMMIT: old, "now": ROOT}
        for way, flags in WAYS.items():
            least = dict.fromkeys(checkouts, float("inf"))
            for turn in range(TURNS[way] + (way == "local")):
                for name, checkout in checkouts.items():
                    took_s = seconds(checkout, images, flags)
                    if turn or way != "local":
                        least[name] = min(least[name], took_s)
            suffix = "" if way == "local" else f"_{way}"
            ratios[f"first_image{suffix}_old_over_new"] = round(least[OLD_COMMIT] / least["now"], 2)
            figures[f"first_image{suffix}_s"] = {k: round(v, 2) for k, v in least.items()}
    return {"ratios": ratios, "figures": figures}


if __name__ == "__main__":
    print(json.dumps(main()))
