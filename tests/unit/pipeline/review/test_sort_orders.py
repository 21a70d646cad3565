"""The sort orders of the review page against the priorities of the exporters."""

import re
from pathlib import Path

import numpy as np
import pytest

from ovseg_core.decision.review_priority import combined, combined_by_image
from pipeline.evaluation.compare import (
    FILES,
    FOLDER,
    compare,
    comparison_files,
    read_comparison,
)
from pipeline.exporters.shared.priorities import Priorities
from pipeline.exporters.shared.segments import DIGITS
from pipeline.review.index import ReviewIndex
from pipeline.review.sort_orders import SortOrders
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from schemas.errors import UserError
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run

EMPTY = np.zeros((9, 14), np.uint16)
NUM = 7


def scenes(shift: int) -> list[Scene]:
    """Two runs of the same images differ in their masks; one image is in the first run only."""
    made = [
        Scene(f"{(3 * n) % NUM}/é {n}.png", label_map(n + shift * (n % 2)), 0.6 + 0.03 * n)
        for n in range(NUM)
    ]
    made.append(Scene("empty.png", EMPTY))
    made.append(Scene("alone.png", None if shift else label_map(50)))
    return [*made, Scene("broken.png", None)]


@pytest.fixture(params=["class", "components"])
def compared(request, tmp_path) -> tuple[RunFolder, str]:
    """A run and the name of the order that its comparison gives."""
    spec = RunSpec(masks={"segments": request.param})
    first = make_run(tmp_path / "one", scenes(0), spec)
    other = make_run(tmp_path / "two", scenes(9), RunSpec(shard_size=2))
    report = compare(first, other)
    return first, f"compare:{report.file.rpartition('/')[2].removesuffix('.parquet')}"


def test_priority_with_comparison_equals_the_exporters(compared):
    run, name = compared
    index = ReviewIndex(run)
    agreement = SortOrders(index).agreement(name)
    assert agreement is not None
    (file,) = comparison_files(run)
    exported, ious = Priorities(run, file), read_comparison(run, file)
    priorities = []
    for shard in RunReader(run).shards():
        for image_id, image in shard.images.items():
            rows = [row for row in shard.segments() if row["image_id"] == image_id]
            place = index.row(image_id)
            assert place is not None
            priorities.append(exported.of_image(image, rows))
            assert round(float(agreement.priority[place]), DIGITS) == pytest.approx(priorities[-1])
            known = ious.get(image_id, {})
            expected = [known.get(row["label"], np.nan) for row in rows]
            np.testing.assert_allclose(agreement.of_mask[index.segments.of(place)], expected)
            mean = np.mean(list(known.values())) if known else np.nan
            np.testing.assert_allclose(agreement.of_image[place], mean, rtol=1e-6)
    assert len(ious) == NUM
    assert len(set(priorities)) > NUM / 2
    ordered = agreement.order[~index.failed[agreement.order]]
    assert np.all(np.diff(agreement.priority[ordered]) <= 0)
    assert sorted(agreement.order) == list(range(len(index)))
    assert agreement.order.tolist() != index.by_priority.tolist()


def test_plain_orders(compared):
    run, _ = compared
    index = ReviewIndex(run)
    orders = SortOrders(index)
    by_path = [index.image(row) for row in orders.rows("path").tolist()]
    fine = [image["path"] for image in by_path if image["status"] == "ok"]
    assert [image["path"] for image in by_path] == [*sorted(fine), "broken.png"]
    scores = [
        min(index.segments.score[index.segments.of(row)], default=2.0)
        for row in orders.rows("score").tolist()
    ]
    assert scores[-2:] == [2.0, 2.0], "no masks, then failed"
    assert scores == sorted(scores)
    np.testing.assert_array_equal(orders.rows("priority"), index.by_priority)


@pytest.mark.parametrize("name", ["", "compare:", "compare:../../run", "newest"])
def test_unknown_order_is_refused(compared, name):
    with pytest.raises(UserError):
        SortOrders(ReviewIndex(compared[0])).rows(name)


def test_compared_runs_are_named_by_their_folders_as_far_as_these_tell_them_apart(tmp_path):
    def other(place: str, method: str) -> RunFolder:
        made = make_run(tmp_path / place, scenes(9), RunSpec(job={"method": method}))
        return RunFolder.open(str(Path(made.folder.uri).rename(tmp_path / place / "pets é #1")))

    first = make_run(tmp_path / "one", scenes(0))
    orders = SortOrders(ReviewIndex(first))
    file = compare(first, other("two", "naclip")).file
    assert re.fullmatch(FILES, file.removeprefix(f"{FOLDER}/"))
    assert list(orders.compared().values()) == ["pets_é_1"]
    compare(first, other("three", "sclip"))
    named = ["pets_é_1 (naclip)", "pets_é_1 (sclip)"]
    assert list(orders.compared().values()) == named

    old = f"{FOLDER}/maskclip-b9d5f5a59c9e.parquet"
    run_of_one_name = f"{FOLDER}/run-clip_diy-b9d5f5a59c9e.parquet"
    for name in (old, run_of_one_name, f"{FOLDER}/mine.parquet"):
        first.folder.atomic_write(name, first.folder.read_bytes(file))
    found = orders.compared()
    assert sorted(found.values()) == [
        "maskclip", "mine", *named, "run-clip_diy-b9d5f5a59c9e"
    ]  # fmt: skip
    first.folder.atomic_write(old.replace("9c9e", "aaaa"), first.folder.read_bytes(file))
    assert "maskclip-b9d5f5a5aaaa" in orders.compared().values()


def test_changed_comparison_is_read_again_and_a_damaged_one_is_named(compared):
    run, name = compared
    orders = SortOrders(ReviewIndex(run))
    before = orders.agreement(name)
    assert orders.compared() == {name: name.removeprefix("compare:")}, "the same method twice"
    assert orders.agreement(name) is before
    (file,) = comparison_files(run)
    run.folder.atomic_write(file, run.folder.read_bytes(file)[:-5])
    assert orders.agreement(name) is before, "until the comparisons are listed again"
    orders.compared()
    with pytest.raises(UserError, match="is not a comparison of the run"):
        orders.agreement(name)
    run.folder.delete(file)
    assert orders.compared() == {}
    with pytest.raises(UserError, match="make it with `ovseg compare`"):
        orders.agreement(name)


def test_combined_by_image_equals_combined_of_each_image():
    rng = np.random.default_rng(4)
    image = np.sort(rng.integers(0, 40, 200)).astype(np.int32)
    of_masks = rng.random(200)
    found = combined_by_image(of_masks, image, 41)
    each = [combined(of_masks[image == n].tolist()) for n in range(41)]
    np.testing.assert_allclose(found, each, rtol=1e-12)
    assert found[40] == 0.0
