"""A run folder of schema version 2 (tests/fixtures/run_v2) is read by every command."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.corrections.layer import ReviewedLayer
from pipeline.run.folder import RunFolder
from schemas.tables import TABLES, to_records
from tests.helpers.review_server import serving

FIXTURES = Path(__file__).parents[1] / "fixtures"


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def json_of(*args: str) -> dict:
    result = ovseg(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the run in `run` and its images and truth in `scenes`."""
    shutil.copytree(FIXTURES / "run_v2", tmp_path, dirs_exist_ok=True)
    shutil.copytree(FIXTURES / "run_v1" / "scenes", tmp_path / "scenes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> RunFolder:
    return RunFolder.open("run")


def test_tables_have_todays_columns_with_their_defaults(run: RunFolder) -> None:
    for marker in run.done().values():
        for name in ("images", "scores", "annotations"):
            table = run.shard_table(marker, name)
            schema, record = TABLES[name]
            assert table.schema.remove_metadata() == schema
            assert all(isinstance(row, record) for row in to_records(name, table))
    columns = ["num_frames", "value_range", "color_profile"]
    rows = [row for batch in run.read_table("images", columns) for row in batch.to_pylist()]
    assert rows == [{"num_frames": 1, "value_range": "", "color_profile": ""}] * 6


def test_inspect_counts_its_images_and_its_review(folder: Path) -> None:
    found = json_of("inspect", "run")
    assert (found["num_ok"], found["num_errors"], found["num_left"]) == (5, 1, 0)
    assert (found["num_segments"], found["num_multi_frame"], found["orphans"]) == (9, 0, [])
    assert (found["review"]["num_reviewed"], found["review"]["num_empty"]) == (5, 1)


@pytest.mark.parametrize(
    ("masks", "expected"), [("predicted", "coco_by_version_2"), ("merged", "merged_by_version_2")]
)
def test_export_writes_what_version_2_wrote(folder: Path, masks: str, expected: str) -> None:
    result = ovseg(
        "export", "run", "--to", "coco", "--set", "label_answers=false", "--masks", masks
    )
    assert result.exit_code == 0, result.output
    old = json.loads(Path(f"{expected}.json").read_text())
    new = json.loads(Path("run/exports/coco/instances.json").read_text())
    for name in ("images", "annotations", "categories"):
        assert new[name] == old[name]
    for name in ("fingerprint", "failed_images", "num_images_left"):
        assert new["info"][name] == old["info"][name]


@pytest.mark.parametrize("to", ["cvat", "label_studio", "semantic_png"])
def test_other_exports_work(folder: Path, to: str) -> None:
    result = ovseg("export", "run", "--to", to)
    assert result.exit_code == 0, result.output


def test_evaluate_measures_what_version_2_measured(folder: Path) -> None:
    old = json.loads(Path("evaluation_by_version_2.json").read_text())
    new = json_of("evaluate", "run", "--truth", "scenes/instances.json")
    assert (new["labels"], new["miou"]) == (old["labels"], old["miou"])
    assert json_of("evaluate", "run", "--truth", "reviewed")["num_images"] == 5


def test_compare_reads_it_beside_runs_of_other_versions(folder: Path) -> None:
    shutil.copytree(FIXTURES / "run_v1" / "run", "older")
    for first, other in (("run", "older"), ("older", "run")):
        found = json_of("compare", first, other)
        assert found["num_images"] == 3
        assert found["mean_agreement"] > 0.9


def test_review_shows_its_masks_and_corrections(run: RunFolder) -> None:
    layer = ReviewedLayer(run)
    verdicts = [mask.verdict for image in layer.images for mask in layer.masks(image)]
    assert verdicts == ["accepted"] * 8
    with serving(run) as client:
        assert len(client.shown()) == 5


def test_resume_is_refused_in_one_line(folder: Path) -> None:
    settings = ("--set", "clip.model=embedded", "--local")
    given = ("--images", "scenes", "--labels", "red striped ring", "--out", "run")
    result = ovseg("annotate", *given, *settings)
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert "run is a run folder of schema version 2" in line
    assert "give another output folder" in line
