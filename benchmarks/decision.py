"""Score maps -> label map -> rows, on one core, against the commit `old_commit.OLD_COMMIT`.

Smooth random cosines at patch resolution, the canvas as large as the image. Both commits run in
turns in processes of their own; a figure is the least CPU time of some repeats.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.old_commit import OLD_COMMIT, ROOT, environment, old_checkout

CASES = {
    "vga21": ((480, 640), 21),
    "vga172": ((480, 640), 172),
    "12mp21": ((3000, 4000), 21),
}
TURNS = 1

Times = dict[str, dict[str, float]]


def times(checkout: Path) -> Times:
    """Return the milliseconds of each case's parts with the code of a checkout."""
    script = Path(__file__).with_name("decision_times.py")
    command = [sys.executable, str(script), json.dumps(CASES)]
    done = subprocess.run(
        command, env=environment(checkout), cwd=checkout, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def least(turns: list[Times]) -> Times:
    """Return the least of some turns, part by part."""
    return {
        case: {part: round(min(turn[case][part] for turn in turns), 1) for part in parts}
        for case, parts in turns[0].items()
    }


def main() -> dict[str, Any]:
    """Measure both commits in turns."""
    turns: dict[str, list[Times]] = {"old": [], "new": []}
    with old_checkout() as checkout:
        for _ in range(TURNS):
            turns["old"].append(times(checkout))
            turns["new"].append(times(ROOT))
    old, new = least(turns["old"]), least(turns["new"])
    return {
        "ratios": {
            f"{part}_{case}_old_over_new": round(old[case][part] / new[case][part], 2)
            for case in CASES
            for part in ("rows", "decide")
        },
        "figures": {"decision_ms": {OLD_COMMIT: old, "now": new}},
    }


if __name__ == "__main__":
    print(json.dumps(main()))
