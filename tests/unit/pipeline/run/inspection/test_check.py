"""`ovseg check` finds and names every kind of damage, and nothing in a sound run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from pipeline.corrections.log import ReviewLog
from pipeline.exporters import coco, labelme
from pipeline.run.folder import RunFolder
from pipeline.run.inspection.check import CheckReport, check_run
from pipeline.run.inspection.findings import MAX_NAMED, Finding
from schemas.records import TABLE_NAMES
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import (
    RunSpec,
    Scene,
    crowded_run,
    grow_run,
    label_map,
    make_run,
    odd_scenes,
)
from tests.helpers.tampered_runs import rewrite

FIXTURES = Path(__file__).parents[4] / "fixtures"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Four shards of odd names, one image without segments and one that failed."""
    return make_run(tmp_path_factory.mktemp("sound"), odd_scenes())


@pytest.fixture
def place(tmp_path: Path, sound: RunFolder) -> Path:
    """A copy of the sound run, to be damaged."""
    return Path(shutil.copytree(sound.folder.uri, tmp_path / "run"))


def checked(place: Path | str) -> CheckReport:
    return check_run(RunFolder.open(str(place)))


def only(report: CheckReport, kind: str) -> Finding:
    """Return the one finding."""
    assert report.counts == {kind: 1}, report.findings
    return report.findings[0]


def marker_of(place: Path, shard: int = 0) -> tuple[Path, dict[str, Any]]:
    file = place / "done" / f"{shard:05d}.json"
    return file, json.loads(file.read_text())


def file_of(place: Path, table: str, shard: int = 0) -> Path:
    return place / marker_of(place, shard)[1]["files"][table]["name"]


def test_a_sound_run_is_clean_and_stays_as_it_is(sound: RunFolder) -> None:
    before = {name: sound.folder.read_bytes(name) for name in sound.folder.list()}
    report = check_run(sound)
    assert report.is_clean
    assert not report.findings
    assert not report.not_checked
    assert (report.num_images, report.num_shards, report.num_checked) == (10, 4, 4)
    assert (report.num_left, report.generation) == (0, 1)
    assert report.num_rows["images"] == 10
    assert report.num_rows["scores"] == 9 * 3
    assert report.num_rows["annotations"] > 9
    assert before == {name: sound.folder.read_bytes(name) for name in sound.folder.list()}


def test_shards_that_are_not_finished_are_counted_and_no_fault(tmp_path: Path) -> None:
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(1, 3)))
    coco.export(run, coco.Options())
    report = check_run(run)
    assert report.is_clean, report.findings
    assert (report.num_checked, report.num_left) == (2, 2)
    assert report.exports == ("exports/coco",)


def test_instances_that_overlap_are_clean(tmp_path: Path) -> None:
    run = crowded_run(tmp_path)
    coco.export(run, coco.Options())
    assert check_run(run).is_clean


@pytest.mark.parametrize("version", [1, 2, 3])
def test_runs_of_older_versions_are_clean(version: int) -> None:
    run = RunFolder.open(str(FIXTURES / f"run_v{version}" / "run"))
    report = check_run(run)
    assert report.is_clean, report.findings
    assert report.num_checked > 0


def test_generations_are_clean_each_for_itself(tmp_path: Path) -> None:
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(5)]
    run = make_run(tmp_path, scenes)
    new, changed = [Scene("new.png", label_map(9))], [Scene("1.png", label_map(7, 30, 50))]
    grow_run(run, new, changed, vanished=["2.png"])
    now, before = checked(run.folder.uri), checked(f"{run.folder.uri}@1")
    assert now.is_clean, now.findings
    assert before.is_clean, before.findings
    assert (now.generation, now.num_images, before.num_images) == (2, 5, 5)
    assert (now.num_checked, before.num_checked) == (3, 2)
    assert "newest generation" in before.not_checked[0]
    file_of(Path(run.folder.uri), "scores", 2).unlink()
    assert only(checked(run.folder.uri), "file").where.startswith("scores/00002-")
    assert checked(f"{run.folder.uri}@1").is_clean
    record = Path(run.folder.uri) / "generations" / "00002.json"
    record.write_text(record.read_text().replace("5", "6"))
    assert "00002.json" in only(checked(run.folder.uri), "images").found


def test_a_run_in_a_bucket_is_clean_or_not_as_on_a_disk(place: Path, s3_folder: str) -> None:
    coco.export(RunFolder.open(str(place)), coco.Options())
    fsspec.filesystem("s3").put(f"{place}/", f"{s3_folder}/", recursive=True)
    report = checked(s3_folder)
    assert report.is_clean, report.findings
    assert report.exports == ("exports/coco",)
    fsspec.filesystem("s3").rm(f"{s3_folder}/{marker_of(place)[1]['files']['images']['name']}")
    assert only(checked(s3_folder), "file").found == "no such file"


def test_a_manifest_that_is_another_is_found(place: Path) -> None:
    (place / "manifest.parquet").write_bytes(b"PAR1")
    report = checked(place)
    assert "manifest.parquet is not the one that run.yaml names" in only(report, "images").found
    assert report.not_checked


MARKERS: dict[str, tuple[Callable[[dict], object], str]] = {
    "of another run": (lambda m: m.update(fingerprint="0" * 64), "of another run"),
    "of a later version": (lambda m: m.update(schema_version=99), "99"),
    "of another shard": (lambda m: m.update(shard=2), "shard 2"),
    "with another count": (lambda m: m["tally"].update(num_segments=1), "1 segments"),
    "without a table": (lambda m: m["files"].pop("scores"), "its tables"),
    "without a field": (lambda m: m.pop("tally"), "tally"),
}


@pytest.mark.parametrize(("change", "words"), MARKERS.values(), ids=MARKERS)
def test_a_marker_that_lies_is_found(place: Path, change: Callable, words: str) -> None:
    file, marker = marker_of(place)
    change(marker)
    file.write_text(json.dumps(marker))
    finding = only(checked(place), "marker")
    assert finding.where == "done/00000.json"
    assert words in f"{finding.expected} {finding.found}"
    again = ("give the command that made the run again", "read the run with the ovseg that made")
    assert finding.advice.startswith(again)


def test_torn_and_foreign_markers_are_found(place: Path) -> None:
    (place / "done" / "00001.json").write_text('{"shard"')
    (place / "failed").mkdir(exist_ok=True)
    (place / "failed" / "00002.json").write_text("{}")
    shutil.copy(place / "done" / "00003.json", place / "done" / "00007.json")
    report = checked(place)
    assert report.counts == {"marker": 3}
    assert {finding.where for finding in report.findings} == {
        "done/00001.json", "failed/00002.json", "done/00007.json"
    }  # fmt: skip


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_files_that_are_gone_cut_off_longer_or_changed_are_found(place: Path, table: str) -> None:
    whole = file_of(place, table).read_bytes()
    changed = bytes([whole[0] ^ 1]) + whole[1:]
    for data, words in (
        (None, "no such file"),
        (whole[:-1], f"{len(whole) - 1:,} bytes with SHA-256"),
        (whole + b"x", f"more than {len(whole):,} bytes"),
        (changed, f"{len(whole):,} bytes with SHA-256"),
    ):
        file_of(place, table).unlink()
        if data is not None:
            file_of(place, table).write_bytes(data)
        finding = only(checked(place), "file")
        assert finding.where == marker_of(place)[1]["files"][table]["name"]
        assert finding.found.startswith(words)
        assert f"{len(whole):,} bytes with SHA-256" in finding.expected
        file_of(place, table).write_bytes(whole)


def test_a_file_that_is_no_table_is_found(sound: RunFolder, tmp_path: Path) -> None:
    run = rewrite(sound, tmp_path / "run", "scores", {}, b"PAR1, says who wrote the marker")
    assert check_run(run).counts == {"file": 4}


def changed_rows(sound: RunFolder, place: Path, table: str, column: str, change: Callable) -> Any:
    """Return the report on a run in which the first value of a column is another, hashes fit."""
    seen = []

    def first(value: Any) -> Any:
        seen.append(value)
        return change(value) if len(seen) == 1 else value

    return check_run(rewrite(sound, place, table, {column: first}))


ROWS: dict[str, tuple[str, str, Callable, str, str]] = {
    "a foreign image": ("annotations", "image_id", lambda _: "id-x", "reference", "not of this"),
    "a failed image": ("scores", "image_id", lambda _: "id-broken #1.jpg", "reference", "shard"),
    "a foreign label": ("annotations", "label", lambda _: "yeti", "reference", "'yeti'"),
    "another category": ("scores", "category_id", lambda _: 2, "reference", "category 2"),
    "no category": ("annotations", "category_id", lambda _: 99, "reference", "category 99"),
    "another area": ("annotations", "area_px", lambda v: v + 1, "mask", "run lengths say"),
    "another box": ("annotations", "bbox_xywh", lambda v: [v[0] + 1, *v[1:]], "mask", "bbox"),
    "another size": ("annotations", "width", lambda v: v + 1, "mask", "57 x 40"),
    "other lengths": ("annotations", "rle_counts", lambda _: "5d0", "mask", "run lengths of a"),
    "no number": ("annotations", "segment_index", lambda _: -1, "mask", "-1"),
    "no share": ("annotations", "mean_prob", lambda _: 2.0, "row", "out of its range"),
    "another address": ("images", "uri", lambda _: "http://x/y", "row", "uri is not that"),
    "fewer segments": ("images", "num_segments", lambda v: v - 1, "row", "segments"),
    "no size": ("images", "height", lambda _: 0, "row", "0"),
    "two frames": ("images", "num_frames", lambda _: 2, "row", "several frames"),
}


@pytest.mark.parametrize(("table", "column", "change", "kind", "words"), ROWS.values(), ids=ROWS)
def test_rows_that_cannot_be_are_found(
    sound: RunFolder,
    tmp_path: Path,
    table: str,
    column: str,
    change: Callable,
    kind: str,
    words: str,
) -> None:
    report = changed_rows(sound, tmp_path / "run", table, column, change)
    assert kind in report.counts, report.findings
    finding = next(one for one in report.findings if one.kind == kind)
    assert words in f"{finding.where} {finding.expected} {finding.found}"
    assert "delete done/00000.json" in finding.advice


def test_images_missing_foreign_and_twice_are_found(sound: RunFolder, tmp_path: Path) -> None:
    report = changed_rows(sound, tmp_path / "a", "images", "image_id", lambda _: "id-x")
    assert report.counts["row"] == 2
    assert [(f.found, f.where.split(", ", 1)[1]) for f in report.findings[:2]] == [
        ("none", "plain.jpg"), ("id-x", "plain.jpg")
    ]  # fmt: skip
    report = changed_rows(sound, tmp_path / "b", "images", "image_id", lambda _: "id-50%20off.png")
    assert "none" in {finding.found for finding in report.findings}
    report = changed_rows(
        sound, tmp_path / "c", "images", "image_id", lambda _: "id-with space.png"
    )
    assert "2 rows" in {finding.found for finding in report.findings}


def test_segments_and_scores_that_are_there_twice_are_found(
    sound: RunFolder, tmp_path: Path
) -> None:
    run = rewrite(sound, tmp_path / "a", "annotations", {"segment_index": lambda _: 0})
    found = check_run(run).findings
    assert {finding.found for finding in found} == {"segment_index 0 a second time"}
    change = {"label": lambda _: "dog", "category_id": lambda _: 2}
    report = check_run(rewrite(sound, tmp_path / "b", "scores", change))
    assert report.counts == {"row": 9 * 2}


def test_findings_are_all_counted_and_the_first_are_named(tmp_path: Path) -> None:
    rows = [Scene(f"{n:02d}.png", label_map(n)) for n in range(40)]
    run = make_run(tmp_path, rows, RunSpec(shard_size=40))
    report = check_run(rewrite(run, tmp_path / "other", "annotations", {"area_px": lambda _: 1}))
    assert report.counts == {"mask": report.num_rows["annotations"]}
    assert report.counts["mask"] > MAX_NAMED == len(report.findings)


def test_damage_in_a_review_is_found(place: Path) -> None:
    run = RunFolder.open(str(place))
    decision = {"image_id": "id-plain.jpg", "action": "accept", "at_s": 1.0}
    log = ReviewLog(run)
    log.append([ReviewDecision.model_validate(decision)])
    assert checked(place).is_clean
    log.append([ReviewDecision.model_validate({**decision, "image_id": "id-of-another-run"})])
    assert "id-of-another-run" in only(checked(place), "review").found
    entry = sorted((place / "reviewed" / "log").iterdir())[-1]
    entry.write_text(json.dumps({"decisions": [{"action": "burn"}]}))
    assert only(checked(place), "review").where.startswith(f"reviewed/log/{entry.stem}")
    entry.write_text("{")
    assert entry.name in only(checked(place), "review").found
    entry.unlink()
    (place / "reviewed" / "imports").mkdir()
    (place / "reviewed" / "imports" / "0001700000000000000-0123abcd.json").write_text("{}")
    assert "0123abcd.json is damaged" in only(checked(place), "review").found


def _edited(place: Path, change: Callable[[list[str]], list[str]], name: str = "") -> CheckReport:
    file = place / "exports" / "coco" / (name or "instances.json")
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))
    return checked(place)


EDITS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "an image fewer": (lambda lines: [*lines[:2], *lines[3:]], "an entry 2, with space.png"),
    "an annotation fewer": (lambda lines: [*lines[:-2], lines[-1]], "an entry"),
    "an image renamed": (
        lambda lines: [line.replace('"plain.jpg"', '"other.jpg"') for line in lines],
        'file_name "other.jpg"',
    ),
    "another category": (
        lambda lines: [line.replace('"category_id": 1,', '"category_id": 3,') for line in lines],
        "category_id 3",
    ),
    "another label": (
        lambda lines: [line.replace('"name": "cat"', '"name": "cow"') for line in lines],
        "categories",
    ),
    "another run": (
        lambda lines: [line.replace('"fingerprint": "', '"fingerprint": "0') for line in lines],
        "fingerprint",
    ),
    "cut off": (lambda lines: lines[:-1], "it ends before its end"),
    "torn": (lambda lines: [*lines[:3], "{\n", *lines[4:]], "one entry a line"),
}


@pytest.mark.parametrize(("change", "words"), EDITS.values(), ids=EDITS)
def test_coco_files_that_differ_from_the_tables_are_found(
    place: Path, change: Callable, words: str
) -> None:
    coco.export(RunFolder.open(str(place)), coco.Options())
    assert checked(place).is_clean
    report = _edited(place, change)
    assert set(report.counts) == {"export"}
    told = [f"{f.where} {f.expected} {f.found}" for f in report.findings]
    assert any(words in text for text in told), told
    assert all(f.where.startswith("exports/coco/") for f in report.findings)
    assert report.findings[0].advice == f"export again: ovseg export {place} --to coco"


def test_results_of_fewer_masks_are_found(place: Path) -> None:
    coco.export(RunFolder.open(str(place)), coco.Options())
    report = _edited(place, lambda lines: [lines[0], *lines[2:]], "results_segm.json")
    assert only(report, "export").where == "exports/coco/results_segm.json"


OPTIONS = (
    {},
    {"polygons": True},
    {"segments": "components", "min_area_px": 9},
    {"min_score": 0.6, "flatten_names": True},
    {"max_bytes": 4000},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_exports_of_any_options_are_clean(place: Path, options: dict) -> None:
    coco.export(RunFolder.open(str(place)), coco.Options(**options))
    report = checked(place)
    assert report.is_clean, report.findings


def test_exports_from_before_a_review_or_an_update_are_found(tmp_path: Path) -> None:
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(4)]
    run = make_run(tmp_path, scenes)
    for exporter in (coco, labelme):
        exporter.export(run, exporter.Options())
    assert check_run(run).exports == ("exports/coco", "exports/labelme")
    grown = grow_run(run, [Scene("new.png", label_map(8))])
    report = check_run(grown)
    assert report.counts == {"export": 2}
    assert {finding.found for finding in report.findings} == {"4"}
    for exporter in (coco, labelme):
        exporter.export(grown, exporter.Options(masks="merged"))
    assert check_run(grown).is_clean
    decision = {"image_id": "id-0.png", "action": "reject", "at_s": 2e9}
    ReviewLog(grown).append([ReviewDecision.model_validate(decision)])
    report = check_run(grown)
    assert report.counts == {"export": 2}
    assert "1 images are reviewed" in report.findings[0].expected
    for exporter in (coco, labelme):
        exporter.export(grown, exporter.Options())
    assert check_run(grown).is_clean


def test_an_export_that_was_interrupted_is_found(place: Path) -> None:
    labelme.export(RunFolder.open(str(place)), labelme.Options())
    (place / "exports" / "labelme" / "LOSSES.txt").unlink()
    assert only(checked(place), "export").where == "exports/labelme/LOSSES.txt"


def test_no_name_or_number_in_a_file_ends_in_a_traceback(sound: RunFolder, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for number in range(30):
        place = Path(shutil.copytree(sound.folder.uri, tmp_path / str(number)))
        files = sorted(file for file in place.rglob("*.*") if file.name != "run.yaml")
        file = files[rng.integers(len(files))]
        data = bytearray(file.read_bytes())
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(data))
        report = checked(place)
        # A marker's seconds are as good as any others.
        assert not report.is_clean or file.parent.name == "done", file
        shutil.rmtree(place)
