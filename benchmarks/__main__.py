"""Run every benchmark in a process of its own and write `benchmarks/results/latest.json`.

    python -m benchmarks [NAME ...]

A ratio compares two ways in one process pair on one machine; the absolute figures beside it hold
for this machine only.
"""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

NAMES = (
    "clip_diy",
    "proxyclip",
    "clip_dinoiser",
    "dense",
    "dense_memory",
    "job",
    "memory",
    "encode",
    "export",
    "review",
    "color",
)
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; keep the earlier results of those not run."""
    unknown = set(names) - set(NAMES)
    if unknown:
        print(f"unknown benchmark {sorted(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if names and RESULTS.exists() else {}
    results: dict[str, Any] = {
        "machine": _machine(),
        "ratios": old.get("ratios", {}),
        "figures": old.get("figures", {}),
    }
    for name in names or NAMES:
        print(f"{name} ...", flush=True)
        found = _run(name)
        results["ratios"].update(found["ratios"])
        results["figures"].update(found["figures"])
        print(json.dumps(found, indent=2), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"written: {RESULTS.relative_to(Path.cwd())}")
    return 0


def _run(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def _machine() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
