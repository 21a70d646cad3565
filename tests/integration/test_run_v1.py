"""A run folder of schema version 1 (tests/fixtures/run_v1) is read by every command."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.log import ReviewLog
from pipeline.run.folder import RunFolder
from schemas.tables import TABLES, to_records
from tests.helpers.review_server import serving

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run_v1"


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def json_of(*args: str) -> dict:
    result = ovseg(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def annotate(*args: str) -> Result:
    settings = ("--set", "clip.model=embedded", "--set", "shard_size=2", "--local")
    return ovseg("annotate", "--images", "scenes", *args, *settings)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the run in `run` and its images and truth in `scenes`."""
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> RunFolder:
    return RunFolder.open("run")


def test_tables_have_todays_columns(run: RunFolder) -> None:
    for marker in run.done().values():
        for name in ("images", "scores", "annotations"):
            table = run.shard_table(marker, name)
            schema, record = TABLES[name]
            assert table.schema.remove_metadata() == schema
            assert all(isinstance(row, record) for row in to_records(name, table))
            some = [schema.names[0], schema.names[-1]]
            assert run.shard_table(marker, name, some).column_names == some
    scores = [
        row["objectness_mean"]
        for batch in run.read_table("annotations", ["objectness_mean"])
        for row in batch.to_pylist()
    ]
    assert [round(score, 3) for score in scores] == [0.575, 0.777, 0.875, 0.848, 0.834, 0.793]


def test_inspect_counts_its_images_and_seconds(folder: Path) -> None:
    found = json_of("inspect", "run")
    assert (found["num_ok"], found["num_errors"], found["num_left"]) == (3, 1, 2)
    assert found["num_segments"] == 6
    assert set(found["seconds"]) == {"read", "decode", "segment", "rle", "wall"}
    assert found["seconds"]["rle"] > 0
    assert found["slowest"][0]["stages"]["rle"] > 0
    assert len(found["orphans"]) == 3
    assert "rle" in ovseg("inspect", "run").stdout


def test_export_writes_what_version_1_wrote(folder: Path) -> None:
    result = ovseg(
        "export", "run", "--to", "coco", "--set", "label_answers=false", "--masks", "predicted"
    )
    assert result.exit_code == 0, result.output
    old = json.loads(Path("coco_by_version_1.json").read_text())
    for annotation in old["annotations"]:
        attributes = annotation["attributes"]
        annotation["attributes"] = {
            "objectness_mean" if name == "saliency_mean" else name: value
            for name, value in attributes.items()
        }
    new = json.loads(Path("run/exports/coco/instances.json").read_text())
    for name in ("images", "annotations", "categories"):
        assert new[name] == old[name]
    for name in ("fingerprint", "failed_images", "num_images_left"):
        assert new["info"][name] == old["info"][name]


@pytest.mark.parametrize("to", ["cvat", "label_studio", "semantic_png"])
def test_other_exports_work(folder: Path, to: str) -> None:
    result = ovseg("export", "run", "--to", to)
    assert result.exit_code == 0, result.output


def test_evaluate_measures_what_version_1_measured(folder: Path) -> None:
    old = json.loads(Path("evaluation_by_version_1.json").read_text())
    new = json_of("evaluate", "run", "--truth", "scenes/instances.json")
    assert new["labels"] == old["labels"]
    assert new["miou"] == old["miou"]


def test_corrections_are_read_and_added(run: RunFolder) -> None:
    log = ReviewLog(run)
    assert [decision.action for decision in log.decisions()] == [
        "reject", "undo", "relabel", "accept", "accept",
    ]  # fmt: skip
    layer = ReviewedLayer(run)
    reviewed = {
        image.path: [mask.verdict for mask in layer.masks(image.image_id)]
        for image in layer.images.values()
    }
    assert reviewed["scene_002.jpg"] == ["accepted", "changed"]
    log.append([log.decisions()[-1]])
    assert len(ReviewLog(run)) == 6


def test_calibrate_fits_what_version_1_fitted(folder: Path) -> None:
    result = ovseg("calibrate", "run", "--out", "new.yaml", "--set", "min_segments=1")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("new.yaml").read_text()) == json.loads(
        Path("calibration.yaml").read_text()
    )


def test_a_calibration_of_version_1_is_accepted(folder: Path) -> None:
    given = ("--set", "calibration=calibration.yaml", "--dry-run")
    result = annotate("--labels", "red striped ring", "--out", "other", *given)
    assert result.exit_code == 0, result.output


def test_compare_reads_it_beside_a_run_of_today(run: RunFolder) -> None:
    labels = ",".join(run.info.job().vocabulary.names)
    annotated = annotate("--labels", labels, "--out", "today", "--set", "method=maskclip")
    assert annotated.exit_code == 3, annotated.output  # the file that ends early
    for first, other in (("run", "today"), ("today", "run")):
        found = json_of("compare", first, other)
        assert found["num_images"] == 3
        assert 0 < found["mean_agreement"] < 1


def test_review_shows_its_masks(run: RunFolder) -> None:
    with serving(run) as client:
        items = client.shown()
        assert {item["path"] for item in items} == {
            f"scene_{n}" for n in ("000.png", "001.jpg", "002.jpg")
        }
        image = client.get("/api/image", id=items[0]["image_id"]).json
        assert image["segments"]


def test_resume_is_refused_in_one_line(folder: Path) -> None:
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    result = annotate("--labels", "red striped ring", "--out", "run")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "run is a run folder of schema version 1" in line
    assert "give another output folder" in line
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
