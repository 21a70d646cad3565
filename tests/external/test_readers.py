"""DuckDB, Polars, Hugging Face datasets, Daft and Ray Data read a run's tables in one line.

Opt-in, `make test-readers`: nothing else needs them, so they have their own environment, whose
Python is OVSEG_READERS.
"""

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.run.reader import RunReader
from tests.helpers.drawn_runs import crowded_run, make_run, odd_scenes

WANTED = os.environ.get("OVSEG_READERS", "")
SCRIPT = Path(__file__).with_name("read_tables.py")
pytestmark = [
    pytest.mark.skipif(not WANTED, reason="opt-in, takes 0.9 GB: make test-readers"),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize("make", [crowded_run, lambda folder: make_run(folder, odd_scenes())])
@pytest.mark.parametrize("reader", ["duckdb", "polars", "datasets", "daft", "ray"])
def test_readers_find_the_committed_rows_and_no_others(tmp_path: Path, reader: str, make) -> None:
    run = make(tmp_path)
    tables = Path(run.folder.uri, "annotations")
    shutil.copy(next(tables.iterdir()), tables / "00000-killed-01234567.parquet")
    listed = CliRunner().invoke(app, ["inspect", run.folder.uri, "--files", "annotations"])
    files = tmp_path / "files.txt"
    files.write_text(listed.stdout)
    surroundings = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [WANTED, str(SCRIPT), reader, str(files)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    number, pixels = Counter[str](), Counter[str]()
    for shard in RunReader(run).shards():
        for row in shard.segments():
            number[row["label"]] += 1
            pixels[row["label"]] += row["area_px"]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {label: [number[label], pixels[label]] for label in number}
