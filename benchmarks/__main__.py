"""Run benchmarks in processes of their own and write `benchmarks/results/latest.json`.

    python -m benchmarks            the quick ones, within ten minutes
    python -m benchmarks --full     all
    python -m benchmarks NAME ...   these

One that fails or takes too long is named at the end, and the others go on; `measured` in the file
says when and at which commit each was run. A ratio compares two ways in one process pair on one
machine; the absolute figures beside it hold for this machine only.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.old_commit import OLD_COMMIT

QUICK = (
    "decision",
    "sleeping_gpu",
    "first_image",
    "scaling",
    "job",
    "clip_diy",
    "encode",
)
"""What `make bench` runs, together within `QUICK_S` on two quiet cores; the goals come first."""
LONG = (
    "planning",
    "ray_data",
    "proxyclip",
    "clip_dinoiser",
    "dense",
    "dense_memory",
    "memory",
    "export",
    "review",
    "color",
)
"""What `make bench-full` runs as well."""
QUICK_S = 570.0
LONG_S = 3600.0
"""Seconds for all of `QUICK` together, and for one of a full run."""
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, the quick ones or all; keep the earlier results of others."""
    is_full = arguments == ["--full"]
    names = [*QUICK, *LONG] if is_full else arguments or list(QUICK)
    unknown = set(names) - {*QUICK, *LONG}
    if unknown:
        known = ", ".join((*QUICK, *LONG))
        print(f"unknown benchmark {sorted(unknown)}; there are {known}", file=sys.stderr)
        return 2
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results: dict[str, Any] = {
        "machine": _machine(),
        "compared_with": OLD_COMMIT,
        "ratios": old.get("ratios", {}),
        "figures": old.get("figures", {}),
        "measured": old.get("measured", {}),
    }
    failed, end_s = [], time.monotonic() + QUICK_S
    for name in names:
        print(f"{name} ...", flush=True)
        began_s = time.monotonic()
        limit_s = LONG_S if arguments else end_s - began_s
        found = _run(name, limit_s) if limit_s > 0 else None
        if found is None:
            failed.append(name)
            continue
        results["ratios"].update(found["ratios"])
        results["figures"].update(found["figures"])
        # A figure of an earlier commit stays until its benchmark is run again: this says which.
        results["measured"][name] = {
            "commit": results["machine"]["commit"],
            "date": results["machine"]["date"],
            "seconds": round(time.monotonic() - began_s),
        }
        print(json.dumps(found, indent=2), flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"written: {RESULTS}")
    if failed:
        print(f"failed, or no time was left: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, limit_s: float) -> dict[str, Any] | None:
    """Return what a benchmark found; None: it failed, or took longer."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    # In a session of its own, so that what it has started can be ended with it.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            print(f"{name} is ended after {limit_s:.0f} s", file=sys.stderr)
            os.killpg(process.pid, signal.SIGTERM)
            return None
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        print(f"{name} ended with {process.returncode}", file=sys.stderr)
        return None
    # Lines of Ray's workers may come after it.
    return json.loads(next(it for it in reversed(output.splitlines()) if it.startswith("{")))


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
