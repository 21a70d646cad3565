"""Run in the environment of the readers, without importing ovseg: print what each reads as JSON.

    python read_tables.py duckdb|polars|datasets|daft|ray LIST

LIST is what `ovseg inspect RUN --files annotations` printed; the output has, by label, how many
rows there are and how many pixels they have.
"""

import json
import sys
from pathlib import Path

reader, files = sys.argv[1], Path(sys.argv[2]).read_text().splitlines()
if reader == "duckdb":
    import duckdb

    table = duckdb.read_parquet(files)
    rows = table.project("label, area_px").fetchall()
elif reader == "polars":
    import polars as pl

    table = pl.read_parquet(files)
    rows = table.select("label", "area_px").rows()
elif reader == "datasets":
    from datasets import load_dataset

    table = load_dataset("parquet", data_files=files, split="train")
    rows = list(zip(table["label"], table["area_px"], strict=True))
elif reader == "daft":
    import daft

    columns = daft.read_parquet(files).select("label", "area_px").to_pydict()
    rows = list(zip(columns["label"], columns["area_px"], strict=True))
else:
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
    table = ray.data.read_parquet(files)
    rows = [(row["label"], row["area_px"]) for row in table.iter_rows()]
found: dict[str, tuple[int, int]] = {}
for label, area in rows:
    number, pixels = found.get(label, (0, 0))
    found[label] = number + 1, pixels + area
sys.stdout.write(f"\n{json.dumps(found)}\n")
