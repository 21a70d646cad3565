"""The commands one after another on drawn scenes with the embedded models, as a user types them."""

import json
import shutil
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.demo.draw import Scenes, draw_scenes
from ovseg_core.embedded import FOUND_HEAD

NUM_SCENES = 5


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def the_error(result: Result) -> str:
    """Return the one line of stderr that is not progress."""
    lines = [line for line in result.stderr.splitlines() if not line.endswith(" images")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scenes:
    """Scenes in ./scenes, and ./job.yaml that annotates them in this process into ./run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "scenes"
    folder.mkdir()
    drawn = draw_scenes(folder, NUM_SCENES, seed=5)
    job = {
        "images": "scenes",
        "out": "run",
        "labels": list(drawn.labels),
        "clip": {"model": "embedded"},
        "shard_size": 2,
        "run": {"local": True, "device": "cpu", "batch_size": 2},
    }
    Path("job.yaml").write_text(json.dumps(job), encoding="utf-8")
    Path("truth.json").write_text(json.dumps(drawn.truth), encoding="utf-8")
    return drawn


def test_annotate_inspect_export_evaluate(scenes: Scenes) -> None:
    annotated = ovseg("annotate", "job.yaml")
    assert annotated.exit_code == 0, annotated.output
    assert f"{NUM_SCENES} of {NUM_SCENES} images done" in annotated.stdout
    assert "ovseg export run --to coco" in annotated.stdout

    inspected = json.loads(ovseg("inspect", "run", "--json").stdout)
    assert inspected["num_ok"] == NUM_SCENES
    assert inspected["num_shards_done"] == inspected["num_shards"] == 3
    assert sum(inspected["segments_by_label"].values()) == inspected["num_segments"] > 0
    tables = ovseg("inspect", "run")
    assert tables.exit_code == 0
    assert "Slowest images" in tables.stdout

    exported = ovseg("export", "run", "--to", "coco")
    assert exported.exit_code == 0, exported.output
    coco = COCO("run/exports/coco/instances.json")
    assert len(coco.imgs) == NUM_SCENES
    assert len(coco.anns) == inspected["num_segments"]
    flags = ("--segments", "components", "--set", "polygons=true", "--set", "flatten_names=true")
    assert ovseg("export", "run", *flags).exit_code == 0
    regions = json.loads(Path("run/exports/coco/instances.json").read_text(encoding="ascii"))
    assert all(isinstance(a["segmentation"], list) for a in regions["annotations"])
    assert all("part_of" in a["attributes"] for a in regions["annotations"])
    assert all("path" in image for image in regions["images"])

    evaluated = ovseg("evaluate", "run", "--truth", "truth.json", "--json")
    assert evaluated.exit_code == 0, evaluated.output
    assert 0.3 < json.loads(evaluated.stdout)["miou"] <= 1
    assert "mIoU" in ovseg("evaluate", "run", "--truth", "truth.json").stdout


def test_a_pilot_grows_and_its_run_is_updated(scenes: Scenes, tmp_path: Path) -> None:
    pilot = ovseg("annotate", "job.yaml", "--limit", "2")
    assert pilot.exit_code == 0, pilot.output
    refused = ovseg("annotate", "job.yaml")
    assert refused.exit_code == 1
    assert "with --update this run grows" in the_error(refused)
    shown = ovseg("annotate", "job.yaml", "--update", "--dry-run")
    assert "to be updated  3 new (for example scene_002.png)" in shown.stdout
    grown = ovseg("annotate", "job.yaml", "--update")
    assert grown.exit_code == 0, grown.output
    assert "5 of 5 images done" in grown.stdout
    assert "the run was updated: 3 new (for example scene_002.png)" in grown.stdout

    (tmp_path / "other").mkdir()
    draw_scenes(tmp_path / "other", 2, seed=9)
    shutil.move("other/scene_000.png", "scenes/scene_001.png")  # changed
    shutil.move("other/scene_001.png", "scenes/scene_100.png")
    Path("scenes/scene_004.png").unlink()
    told = ovseg("annotate", "job.yaml")
    assert "the collection has changed since the run listed it: 1 new" in told.stdout
    assert "--update annotates" in told.stdout
    words = ovseg("annotate", "job.yaml", "--update", "--set", "vocabulary=[cat,dog]")
    assert "the words were: " in the_error(words)
    assert ovseg("annotate", "job.yaml", "--update").exit_code == 0
    found = json.loads(ovseg("inspect", "run", "--json").stdout)
    assert (found["generation"], found["num_images"], found["num_ok"]) == (3, 5, 5)
    assert json.loads(ovseg("inspect", "run@1", "--json").stdout)["num_images"] == 2
    compared = json.loads(ovseg("compare", "run@2", "run@3", "--json").stdout)
    assert (compared["num_images"], compared["num_missing"]) == (3, 2)  # gone, of another size

    assert ovseg("annotate", "job.yaml", "--set", "out=fresh").exit_code == 0
    assert _masks("run") == _masks("fresh")


def _masks(run: str) -> dict[str, list]:
    assert ovseg("export", run, "--to", "coco").exit_code == 0
    coco = COCO(f"{run}/exports/coco/instances.json")
    return {
        image["file_name"]: [mask["segmentation"] for mask in coco.imgToAnns[number]]
        for number, image in coco.imgs.items()
    }


def test_second_run_has_nothing_to_do_and_another_job_is_refused(scenes: Scenes) -> None:
    first = ovseg("annotate", "job.yaml")
    assert first.exit_code == 0, first.output
    marker = Path("run/done/00000.json").read_bytes()
    again = ovseg("annotate", "job.yaml", "--set", "run.batch_size=3")
    assert again.exit_code == 0
    assert "nothing was left to do" in again.stdout
    assert Path("run/done/00000.json").read_bytes() == marker
    other = ovseg("annotate", "job.yaml", "--set", "masks.min_area_px=7")
    assert other.exit_code == 1
    assert len(other.stderr.splitlines()) == 1
    assert "masks.min_area_px was 1, now 7" in other.stderr


def test_dry_run_writes_nothing(scenes: Scenes) -> None:
    before = sorted(Path().rglob("*"))
    result = ovseg("annotate", "job.yaml", "--dry-run", "--limit", "3")
    assert result.exit_code == 0, result.output
    assert "3 in scenes" in result.stdout
    assert "2 of up to 2 images" in result.stdout
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("option", ["head=head.safetensors", "max_side_px=300"])
def test_options_of_a_default_plug_in_need_no_name(scenes: Scenes, option: str) -> None:
    shutil.copy(FOUND_HEAD, "head.safetensors")
    where = "method.options.objectness.options"
    planned = ovseg("annotate", "job.yaml", "--dry-run", "--set", f"{where}.{option}")
    assert planned.exit_code == 0, planned.output
    wrong = ovseg("annotate", "job.yaml", "--dry-run", "--set", f"{where}.x{option}")
    assert wrong.exit_code == 1
    assert f"{where}.x{option.partition('=')[0]}: unknown key" in the_error(wrong)


def test_broken_images_are_counted_and_exit_3(scenes: Scenes) -> None:
    Path("scenes/scene_001.png").write_bytes(b"")
    whole = Path("scenes/scene_002.png").read_bytes()
    Path("scenes/scene_002.png").write_bytes(whole[: len(whole) // 2])
    result = ovseg("annotate", "job.yaml")
    assert result.exit_code == 3
    assert "empty_file 1, truncated 1" in result.stdout
    assert "ovseg inspect run" in result.stdout
    inspected = json.loads(ovseg("inspect", "run", "--json").stdout)
    assert inspected["errors"] == {"empty_file": 1, "truncated": 1}
    shown = ovseg("inspect", "run").stdout
    assert "scene_001.png" in shown
    assert "truncated" in shown
    accepted = ovseg("annotate", "job.yaml", "--set", "run.max_error_share=0.5")
    assert accepted.exit_code == 0


def test_orphans_are_listed_and_cleaned(scenes: Scenes) -> None:
    assert ovseg("annotate", "job.yaml").exit_code == 0
    orphan = Path("run/images/00001-killed.parquet")
    orphan.write_bytes(b"half")
    assert "images/00001-killed.parquet" in ovseg("inspect", "run", "--orphans").stdout
    assert "1 orphan deleted" in ovseg("inspect", "run", "--clean").stdout
    assert not orphan.exists()
    assert json.loads(ovseg("inspect", "run", "--json").stdout)["num_ok"] == NUM_SCENES


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--set", "clip.model=local-dir:nowhere"], "nowhere"),
        (["--set", "clip.model=ViT-Z-99"], "ViT-Z-99"),
        (["--images", "scenes/*.jpg"], "no images under"),
        (["--images", "scenes/instances.txt"], "scenes/instances.txt"),
        (["--out", "scenes"], "scenes"),
    ],
)
def test_user_errors_are_one_line(scenes: Scenes, args: list[str], expected: str) -> None:
    result = ovseg("annotate", "job.yaml", *args)
    assert result.exit_code == 1, result.output
    assert expected in the_error(result)
    assert not Path("run").exists()


def test_missing_gpu_is_one_line(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = ovseg("annotate", "job.yaml", "--set", "run.device=cuda")
    assert result.exit_code == 1
    assert "run.device is `cuda`" in the_error(result)


def test_unknown_exporter_gets_a_suggestion(scenes: Scenes) -> None:
    result = ovseg("export", "run", "--to", "cocoo")
    assert result.exit_code == 1
    assert "Did you mean 'coco'" in result.stderr


def test_tasks_share_a_run(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    del scenes
    first = ovseg("annotate", "job.yaml", "--shards", "1/2")
    assert first.exit_code == 0, first.output
    assert "task 1 of 2: 3 of 3 images done" in first.stdout
    assert "3 of 5 images done" in first.stdout
    assert "2 images left to the other tasks" in first.stdout
    assert "ovseg review" not in first.stdout
    second = ovseg("annotate", "job.yaml", "--shards", "2/2")
    assert second.exit_code == 0, second.output
    assert "whole run: 5 of 5 images done" in second.stdout
    assert "ovseg review" in second.stdout
    assert "5 of 5 images done" in ovseg("annotate", "job.yaml").stdout
    assert "run.shards: expected TASK/TASKS" in the_error(
        ovseg("annotate", "job.yaml", "--shards", "0/2")
    )
    assert ovseg("annotate", "job.yaml", "--shards", "").exit_code == 2
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    refused = ovseg("annotate", "job.yaml", "--shards", "1/2")
    assert "RAY_ADDRESS names the cluster 10.0.0.1:6379" in the_error(refused)
