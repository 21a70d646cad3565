"""A run folder of schema version 3 (tests/fixtures/run_v3) is read as it was."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.run.folder import RunFolder
from schemas.tables import TABLES

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the run in `run` and its images in `scenes`."""
    shutil.copytree(FIXTURES / "run_v3", tmp_path, dirs_exist_ok=True)
    shutil.copytree(FIXTURES / "run_v1" / "scenes", tmp_path / "scenes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_segments_are_components_without_a_proposal(folder: Path) -> None:
    run = RunFolder.open("run")
    for marker in run.done().values():
        table = run.shard_table(marker, "annotations")
        assert table.schema.remove_metadata() == TABLES["annotations"][0]
        assert set(table["kind"].to_pylist()) == {"component"}
        assert set(table["proposal_score"].to_pylist()) == {1.0}
    kinds = [kind for batch in run.read_table("annotations", ["kind"]) for kind in batch["kind"]]
    assert len(kinds) == 9


def test_export_writes_what_version_3_wrote(folder: Path) -> None:
    result = CliRunner().invoke(
        app, ["export", "run", "--to", "coco", "--set", "label_answers=false"]
    )
    assert result.exit_code == 0, result.output
    old = json.loads(Path("coco_by_version_3.json").read_text())
    new = json.loads(Path("run/exports/coco/instances.json").read_text())
    assert new == old


def test_resume_is_refused_in_one_line(folder: Path) -> None:
    given = ("--images", "scenes", "--labels", "red striped ring", "--out", "run", "--local")
    result = CliRunner().invoke(app, ["annotate", *given, "--set", "clip.model=embedded"])
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert "run is a run folder of schema version 3" in line
