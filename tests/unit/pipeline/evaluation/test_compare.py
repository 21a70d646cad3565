"""Agreement of two runs, by image and label."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ovseg_core.decision.review_priority import mask_priority
from pipeline.evaluation.compare import (
    FOLDER,
    compare,
    compared_run,
    comparison_files,
    read_comparison,
)
from pipeline.review.filter import Filter
from pipeline.review.session import ReviewSession
from pipeline.run.folder import RunFolder
from pipeline.storage import parquet
from schemas.errors import UserError
from tests.helpers.drawn_runs import (
    RunSpec,
    Scene,
    crowded_run,
    crowded_scene,
    grow_run,
    label_map,
    make_run,
)
from tests.helpers.exported_masks import label_studio_tasks

HALF = label_map(0).copy()
HALF[:20][HALF[:20] == 1] = 0
MOVED = np.where(label_map(1) == 2, 3, label_map(1)).astype(np.uint16)


@pytest.fixture
def runs(tmp_path) -> tuple[RunFolder, RunFolder]:
    empty = np.zeros((9, 14), np.uint16)
    first = [Scene("a/é.png", label_map(0)), Scene("b.png", label_map(1)), Scene("c.png", empty)]
    other = [Scene("a/é.png", HALF), Scene("b.png", MOVED), Scene("c.png", empty)]
    first += [Scene("gone.png", label_map(2)), Scene("turned.png", label_map(3))]
    other += [Scene("gone.png", None), Scene("turned.png", label_map(3).T.copy())]
    return (
        make_run(tmp_path / "one", first),
        make_run(tmp_path / "two", other, RunSpec(shard_size=2)),
    )


def _iou(one: np.ndarray, other: np.ndarray, label: int) -> float:
    return ((one == label) & (other == label)).sum() / ((one == label) | (other == label)).sum()


def test_compare_iou_by_image_and_label(runs):
    report = compare(*runs)
    assert (report.num_images, report.num_missing, report.num_without_masks) == (3, 2, 1)
    table = read_comparison(runs[0], report.file)
    assert table == {
        "id-a/é.png": pytest.approx({
            "cat": _iou(label_map(0), HALF, 1), "dog": 1.0, "potted plant": 1.0,
        }),
        "id-b.png": pytest.approx({
            "cat": 1.0, "dog": 0.0, "potted plant": _iou(label_map(1), MOVED, 3),
        }),
    }  # fmt: skip
    labels = {label.name: label for label in report.labels}
    assert report.labels[0].name == "dog"
    assert (labels["dog"].mean_iou, labels["dog"].num_only_first) == (0.5, 1)
    assert labels["cat"].num_images == 2
    means = {path: np.mean(list(values.values())) for path, values in table.items()}
    assert [worst.path for worst in report.worst] == ["b.png", "a/é.png"]
    assert report.mean_agreement == pytest.approx(np.mean(list(means.values())))


def test_compare_writes_a_table_beside_the_exports(runs):
    before = {name: runs[0].folder.read_bytes(name) for name in runs[0].folder.list()}
    file = compare(*runs).file
    assert {n: d for n, d in before.items() if runs[0].folder.read_bytes(n) != d} == {}
    assert set(runs[0].folder.list()) - set(before) == {file}
    rows = pq.read_table(f"{runs[0].folder.uri}/{file}").to_pylist()
    assert len(rows) == 6
    ours = [row for row in rows if row["path"] == "b.png"]
    assert [row["label"] for row in ours] == ["cat", "dog", "potted plant"]
    (mean,) = {row["image_agreement"] for row in ours}
    assert mean == pytest.approx(np.mean([row["iou"] for row in ours]))
    dog = ours[1]
    assert (dog["area_px"], dog["other_area_px"]) == ((label_map(1) == 2).sum(), 0)
    assert all(name.startswith("exports/") for name in set(runs[0].folder.list()) - set(before))


def test_compared_again_after_its_folder_was_renamed_there_is_one_table(runs, tmp_path):
    first, other = runs
    file = compare(first, other).file
    assert compared_run(file) == ("run", "clip_diy")
    before = first.folder.read_bytes(file)
    old = file.replace("/run-", "/")  # as older versions named it
    first.folder.atomic_write(old, before)
    strange = f"{FOLDER}/mine.parquet"
    first.folder.atomic_write(strange, before)
    renamed = RunFolder.open(str(Path(other.folder.uri).rename(tmp_path / "sea-lions")))
    again = compare(first, renamed).file
    assert compared_run(again) == ("sea-lions", "clip_diy")
    assert compared_run(old) == ("", "clip_diy")
    assert list(comparison_files(first)) == [strange, again]
    assert first.folder.read_bytes(again) == before


def test_compare_joins_components_of_a_label(tmp_path):
    scenes = [Scene("a.png", label_map(0))]
    parts = make_run(tmp_path / "parts", scenes, RunSpec(masks={"segments": "components"}))
    report = compare(make_run(tmp_path / "whole", scenes), parts)
    assert report.mean_agreement == 1.0


def test_compare_runs_without_anything_in_common_are_refused(runs, tmp_path):
    with pytest.raises(UserError, match="same run"):
        compare(runs[0], runs[0])
    words = make_run(
        tmp_path / "words", [Scene("a.png", label_map(0))], RunSpec(labels=("x", "y", "z"))
    )
    with pytest.raises(UserError, match="no label in common"):
        compare(runs[0], words)
    images = make_run(tmp_path / "images", [Scene("other.png", label_map(0))])
    with pytest.raises(UserError, match="no annotated image in common"):
        compare(runs[0], images)
    with pytest.raises(UserError, match="not a comparison of the run"):
        read_comparison(runs[0], "exports/compare/none.parquet")


def test_read_comparison_by_path_or_address_only(runs, monkeypatch):
    run, file = runs[0], compare(*runs).file
    expected = read_comparison(run, file)
    monkeypatch.chdir(Path(run.folder.uri).parent)
    for place in (f"{run.folder.uri}/{file}", f"run/{file}", f"./run/{file}"):
        assert read_comparison(run, place) == expected
    for place in (
        "/nowhere.parquet",
        "../run.yaml",
        "run.yaml",
        "manifest.parquet",
        ".",
    ):
        with pytest.raises(UserError, match="is not a comparison of the run"):
            read_comparison(run, place)


class CountingRun(RunFolder):
    """Counts how often images are looked up in its manifest."""

    num_lookups = 0

    def manifest(self):
        self.num_lookups += 1
        return super().manifest()


def test_compare_looks_up_all_images_at_once(tmp_path):
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(20)]
    first = make_run(tmp_path / "one", scenes)
    other = make_run(tmp_path / "two", scenes, RunSpec(labels=("dog", "cat", "cow")))
    counting = CountingRun(other.folder)
    assert compare(first, counting).num_images == 20
    assert counting.num_lookups == 1


def test_compare_names_labels_of_one_vocabulary_only(runs, tmp_path):
    spec = RunSpec(labels=("cat", "cow", "dog"))
    other = make_run(tmp_path / "words", [Scene("b.png", label_map(1))], spec)
    report = compare(runs[0], other)
    assert (report.labels_only_first, report.labels_only_other) == (("potted plant",), ("cow",))
    assert {label.name for label in report.labels} == {"cat", "dog"}


def test_label_studio_scores_follow_a_comparison(runs):
    def scores(**options) -> dict[str, float]:
        tasks = label_studio_tasks(runs[0], **options)
        return {task["data"]["file_name"]: task["predictions"][0]["score"] for task in tasks}

    alone, file = scores(), compare(*runs).file
    with_other = scores(comparison=file)
    for path in ("a/é.png", "b.png"):
        assert with_other[path] < alone[path], "they disagree on something there"
    assert with_other["c.png"] == alone["c.png"], "no masks"
    assert with_other["gone.png"] == alone["gone.png"], "not compared"
    assert scores() == alone
    with pytest.raises(UserError, match=r"it has exports/compare/"):
        scores(comparison="exports/compare/no.parquet")


def test_mask_priority_halves_trust_without_agreement():
    scores = {"mean_prob": 0.8, "margin_mean": 0.9, "entropy_mean": 0.1, "area_frac": 0.3}
    alone = 1 - mask_priority(scores)
    assert 1 - mask_priority(scores, agreement=0.0) == pytest.approx(alone / 2)
    assert 1 - mask_priority(scores, agreement=0.5) == pytest.approx(0.75 * alone)


def _with(name: str, values: list[object]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        table = parquet.read_table(data)
        whole = (values * table.num_rows)[: table.num_rows]
        return parquet.write_table(table.drop_columns([name]).append_column(name, pa.array(whole)))

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data[:-40] + b"\xff" * 32 + data[-8:], id="thrift"),
        pytest.param(lambda data: data[:100], id="cut"),
        pytest.param(_with("iou", ["much"]), id="text for a number"),
        pytest.param(_with("iou", [float("nan")]), id="NaN"),
        pytest.param(_with("iou", [1e308]), id="beyond 1"),
        pytest.param(_with("image_agreement", [None, 0.5]), id="empty"),
        pytest.param(_with("image_id", [None, "id-b.png"]), id="no id"),
        pytest.param(_with("label", [7]), id="a number for a label"),
    ],
)
def test_damaged_comparison_is_refused_by_the_page(
    change: Callable[[bytes], bytes], runs: tuple[RunFolder, RunFolder]
) -> None:
    run, file = runs[0], compare(*runs).file
    session = ReviewSession(run)
    (order,) = session.facts()["compared"]
    run.folder.atomic_write(file, change(run.folder.read_bytes(file)))
    with pytest.raises(UserError, match="is not a comparison of the run"):
        session.open_view(Filter(order=order))


def test_compare_matches_instances_one_to_one(tmp_path):
    left, right = np.zeros((20, 40), bool), np.zeros((20, 40), bool)
    left[2:18, 2:20], right[2:18, 18:38] = True, True  # they overlap
    whole = left | right
    empty = np.zeros((20, 40), np.uint16)

    def run(name: str, *masks: np.ndarray) -> RunFolder:
        drawn = tuple((1, 0.8, mask) for mask in masks)
        scenes = [Scene(f"{n}.png", empty, instances=drawn) for n in "ab"]
        job = {"method": name}
        spec = RunSpec(masks={"segments": "instances"}, job=job)
        return make_run(tmp_path / f"{name}{len(masks)}", scenes, spec)

    both, one, swapped = run("naclip", left, right), run("naclip", whole), run("sclip", right, left)
    same = compare(both, swapped)
    assert same.mean_agreement == 1.0
    assert (same.labels[0].mean_iou, same.labels[0].iou) == (1.0, 1.0)
    report = compare(both, one)
    best = max(left.sum(), right.sum()) / whole.sum()
    assert report.mean_agreement == pytest.approx(best / 1.5)
    assert report.labels[0].iou == 1.0  # the same pixels, but not the same objects
    table = pq.read_table(f"{both.folder.uri}/{report.file}").to_pylist()
    assert {row["area_px"] for row in table} == {whole.sum()}
    assert {row["other_area_px"] for row in table} == {whole.sum()}


def test_compare_of_instances_with_class_masks_is_of_pixels(tmp_path):
    instances = crowded_run(tmp_path / "instances")
    scenes = [crowded_scene("a/one.png"), crowded_scene("turned.jpg", 6)]
    scenes = [replace(scene, instances=None) for scene in scenes]
    classes = make_run(tmp_path / "classes", scenes)
    report = compare(instances, classes)
    (cat,) = (label for label in report.labels if label.name == "cat")
    left, right, *over = (mask for _, _, mask in crowded_scene("").instances)
    cats = left | right
    assert cat.iou == pytest.approx((cats & ~over[0]).sum() / cats.sum())


def test_two_generations_of_a_run_are_compared(tmp_path):
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(3)]
    grow_run(make_run(tmp_path, scenes), [Scene("z.png", label_map(5))], [Scene("1.png", MOVED)])
    first, second = (RunFolder.open(f"{tmp_path}/run@{number}") for number in (1, 2))
    report = compare(first, second)
    assert compared_run(report.file).folder == "run@2"
    assert (report.num_images, report.num_missing) == (3, 0)
    ious = read_comparison(first, report.file)
    assert set(ious["id-0.png"].values()) == {1.0}
    assert ious["id-1.png"]["dog"] == 0.0
    back = compare(second, first)
    assert (back.num_missing, compared_run(back.file).folder) == (1, "run@1")
    with pytest.raises(UserError, match="these are the same run"):
        compare(second, RunFolder.open(f"{tmp_path}/run"))
