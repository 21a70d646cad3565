"""What runs that grow, stored features and choosing among images cost: `python -m benchmarks.grow`.

    python -m benchmarks.grow              all topics
    python -m benchmarks.grow curation     these; the figures of the others stay in the file

Writes `benchmarks/results/grow.json`. A topic is a function that returns figures by flat names.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "grow.json"
TOPICS = {
    "curation": "benchmarks.curation:measure",
    "estimate": "benchmarks.estimate:measure",
    "planning": "benchmarks.planning:measure",
    "relabel": "benchmarks.relabel:measure",
    "sources": "benchmarks.sources:measure",
    "stored_features": "benchmarks.stored_features:measure",
}


def main(names: list[str]) -> int:
    """Measure the named topics, or all; keep the figures of others."""
    unknown = sorted(set(names) - TOPICS.keys())
    if unknown:
        print(f"unknown topic {unknown}; there are {', '.join(TOPICS)}", file=sys.stderr)
        return 2
    for name in names or TOPICS:
        module, function = TOPICS[name].split(":")
        measure: Callable[[], dict[str, float]] = getattr(import_module(module), function)
        found = measure()
        kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        text = json.dumps(dict(sorted((kept | found).items())), indent=1) + "\n"
        RESULTS.write_text(text, encoding="utf-8")
        print(json.dumps(found, indent=1), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
