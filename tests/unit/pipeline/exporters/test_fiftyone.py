from pathlib import Path

from pipeline.exporters import fiftyone
from tests.helpers.drawn_runs import awkward_scenes, make_run

DOCS = Path(__file__).parents[4] / "docs"


def test_export_loader_is_the_one_in_the_docs(tmp_path):
    run = make_run(tmp_path, awkward_scenes())
    fiftyone.export(run, fiftyone.Options())
    loader = run.folder.read_bytes("exports/fiftyone/load.py").decode()
    compile(loader, "load.py", "exec")
    assert f"```python\n{loader}```\n" in (DOCS / "exports.md").read_text(encoding="utf-8")
