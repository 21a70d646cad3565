"""Run in the environment of the readers, without importing ovseg: print what mlcroissant says.

    python read_croissant.py EXPORT

EXPORT is the folder of `ovseg export RUN --to croissant`; the output has what the library calls
errors and warnings, and the records of both tables.
"""

import json
import sys
from pathlib import Path

import mlcroissant

dataset = mlcroissant.Dataset(jsonld=Path(sys.argv[1]) / "croissant.json")
issues = dataset.metadata.ctx.issues


def plain(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else getattr(value, "tolist", lambda: value)()


records = {
    name: [{key: plain(value) for key, value in row.items()} for row in dataset.records(name)]
    for name in ("images", "annotations")
}
found = {"errors": sorted(issues.errors), "warnings": sorted(issues.warnings), **records}
sys.stdout.write(json.dumps(found, default=str))
