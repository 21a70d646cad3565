"""The parts behind the review page, without a socket."""

import threading
import time

import numpy as np
import pytest

from pipeline.collection.decode import DecodedImage
from pipeline.corrections.layer import ReviewedLayer, store
from pipeline.corrections.log import ReviewLog
from pipeline.review.cache import BoundedCache
from pipeline.review.decisions import DONE, REJECTED, RELABELLED, SKIPPED, Decisions
from pipeline.review.desk import Desk
from pipeline.review.index import ReviewIndex
from pipeline.review.pictures import fit
from pipeline.review.try_session import TryImage, Workbench
from pipeline.review.views import Filter
from schemas.config import JobConfig
from schemas.errors import UserError, WeightsError
from schemas.review import ReviewDecision, ReviewedImage
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run, odd_scenes


def test_a_cache_keeps_to_its_bound_and_drops_the_oldest():
    cache: BoundedCache[bytes] = BoundedCache(10, len)
    for name in "abc":
        assert cache.get(name, lambda: b"1234") == b"1234"
    assert cache.used == 8
    assert cache.find("a") is None
    cache.find("b")
    cache.keep("d", b"1234")
    assert (cache.find("b"), cache.find("c")) == (b"1234", None)
    cache.keep("b", b"12")
    assert cache.used == 6
    assert cache.get("large", lambda: b"x" * 11) == b"x" * 11
    assert cache.find("large") is None
    assert cache.used == 6


def test_a_cache_makes_a_thing_once_for_all_who_wait():
    cache: BoundedCache[bytes] = BoundedCache(10, len)
    made = []

    def make() -> bytes:
        made.append(1)
        time.sleep(0.05)
        return b"x"

    threads = [threading.Thread(target=cache.get, args=("key", make)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    with pytest.raises(ZeroDivisionError):
        cache.get("other", lambda: bytes(1 // 0))
    assert cache.get("other", lambda: b"y") == b"y"


@pytest.mark.parametrize("segments", ["class", "components"])
def test_the_index_has_what_the_tables_have(tmp_path, segments):
    run = make_run(tmp_path, odd_scenes(), RunSpec(masks={"segments": segments}))
    index = ReviewIndex(run)
    images = [row for batch in run.read_table("images") for row in batch.to_pylist()]
    rows = [row for batch in run.read_table("annotations") for row in batch.to_pylist()]
    assert len(index) == len(images) == run.info.num_images
    for place, image in enumerate(images):
        assert index.row(image["image_id"]) == place
        assert index.image(place)["path"] == image["path"]
        part = index.segments.of(place)
        own = [row for row in rows if row["image_id"] == image["image_id"]]
        assert index.segments.label[part].tolist() == [row["category_id"] for row in own]
        np.testing.assert_allclose(
            index.segments.score[part], [row["mean_prob"] for row in own], rtol=1e-6
        )
        assert index.marker(place).shard == place // 3
    assert index.row("nobody") is None
    assert index.rows(["nobody", images[2]["image_id"]]) == [None, 2]
    expected = [len({row["image_id"] for row in rows if row["label"] == label}) for label in LABELS]
    assert index.segments.images_by_label(len(LABELS)) == expected


@pytest.mark.parametrize("seed", range(4))
def test_what_counts_as_done_is_what_the_reviewed_layer_says(tmp_path, seed):
    spec = RunSpec(masks={"segments": "components"} if seed % 2 else {})
    scenes = [Scene(f"{n}.png", label_map(n, 12, 21)) for n in range(6)]
    scenes.append(Scene("empty.png", np.zeros((9, 12), np.uint16)))
    run = make_run(tmp_path, scenes, spec)
    index = ReviewIndex(run)
    log = ReviewLog(run)
    decisions = Decisions(log, index)
    rng = np.random.default_rng(seed)
    rows = [row for batch in run.read_table("annotations") for row in batch.to_pylist()]
    for step in range(150):
        row = rows[rng.integers(len(rows))]
        kind = rng.integers(8)
        label = None if kind == 0 else row["label"]
        place = None if kind < 2 else row["segment_index"]
        actions = ("accept", "reject", "skip", "undo", "accept", "relabel")
        action = str(rng.choice(actions[: 5 if label is None else 6]))
        new_label = LABELS[rng.integers(3)] if action == "relabel" else ""
        said = ReviewDecision(
            image_id=row["image_id"], label=label, segment_index=place, action=action,
            new_label=new_label, at_s=float(step), source=str(rng.choice(["one", "other"])),
        )  # fmt: skip
        if rng.integers(5):
            decisions.add([said])
        else:
            decisions.undo(float(step), said.source)
    done = {index.image(row)["image_id"] for row in np.flatnonzero(decisions.marks & DONE)}
    assert done == set(ReviewedLayer(run, log).images)
    assert 0 < len(done) < len(index)
    again = Decisions(ReviewLog(run), index)
    np.testing.assert_array_equal(again.marks, decisions.marks)
    for image_id in done:
        assert again.standing(image_id) == decisions.standing(image_id)
    state = log.state()
    for bit, action in ((REJECTED, "reject"), (RELABELLED, "relabel"), (SKIPPED, "skip")):
        marked = {index.image(row)["image_id"] for row in np.flatnonzero(decisions.marks & bit)}
        assert marked == {key.image_id for key, one in state.items() if one.action == action}


def test_undo_goes_back_through_all_images_to_the_first_decision(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    decisions = Decisions(ReviewLog(run), ReviewIndex(run))
    told = ["id-0.png", "id-2.png", "id-0.png", "id-1.png"]
    for step, image_id in enumerate(told):
        action = "accept" if step % 2 else "reject"
        decisions.add([ReviewDecision(image_id=image_id, action=action, at_s=step)])
    taken = [undone.keys[0].image_id for _ in told if (undone := decisions.undo(9.0, ""))]
    assert taken == told[::-1]
    assert decisions.undo(9.0, "") is None
    assert not decisions.marks.any()


def test_what_one_message_told_is_one_undo(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(2)])
    log = ReviewLog(run)
    decisions = Decisions(log, ReviewIndex(run))

    def said(place: int | None, action: str, source: str = "me", **more) -> ReviewDecision:
        label = None if place is None else LABELS[place]
        return ReviewDecision(
            image_id="id-0.png", label=label, segment_index=place, action=action, at_s=1.0,
            source=source, **more,
        )  # fmt: skip

    decisions.add([said(0, "reject", "other")])
    decisions.add([said(1, "relabel", new_label=LABELS[0])])
    decisions.add([said(2, "skip")])
    before = log.state()
    decisions.add([said(None, "accept")])
    actions = {key.segment_index: one.action for key, one in log.state().items()}
    assert actions == {0: "accept", 1: "relabel", 2: "accept", None: "accept"}, (
        "said of each mask that was decided otherwise, and of the image; a new label stays"
    )
    undone = decisions.undo(2.0, "me")
    assert undone is not None
    assert (undone.keys[0], undone.overruled) == (said(None, "accept").key, False)
    assert log.state() == before == ReviewLog(run).state()

    decisions.add([said(None, "accept")])
    decisions.add([said(0, "reject", "other")])
    undone = decisions.undo(3.0, "me")
    assert undone is not None
    assert undone.overruled
    log.refresh()
    assert {key: one.action for key, one in log.state().items()} == {
        key: one.action for key, one in before.items()
    }
    again = Decisions(ReviewLog(run), ReviewIndex(run))
    actions = [undone.keys[0].segment_index for _ in range(3) if (undone := again.undo(4.0, "me"))]
    assert actions == [2, 1], "one by one, and then nothing is left"


def test_a_message_that_an_older_page_undid_in_part_is_undone_to_its_end(tmp_path):
    run = make_run(tmp_path, [Scene("0.png", label_map(0)), Scene("1.png", label_map(1))])
    log = ReviewLog(run)

    def said(image: str, action: str) -> ReviewDecision:
        return ReviewDecision(image_id=image, action=action, at_s=1.0, source="me")

    log.append([said("id-0.png", "reject")])
    log.append([said("id-0.png", "accept"), said("id-1.png", "accept"), said("id-0.png", "skip")])
    log.append([said("id-0.png", "undo")])
    decisions = Decisions(ReviewLog(run), ReviewIndex(run))
    undone = decisions.undo(2.0, "me")
    assert undone is not None
    assert [key.image_id for key in undone.keys] == ["id-1.png", "id-0.png"]
    assert [one.action for one in ReviewLog(run).state().values()] == ["reject"]
    assert decisions.undo(3.0, "me") is not None
    assert decisions.undo(3.0, "me") is None


def test_images_that_are_annotated_later_appear(tmp_path, monkeypatch):
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(6)]
    whole = make_run(tmp_path / "whole", scenes)
    run = make_run(tmp_path, scenes, RunSpec(unfinished=(1,)))
    desk = Desk(run)
    assert desk.table.facts()["num_left"] == 3
    rows = {
        name: whole.shard_table(whole.done()[1], name)
        for name in ("images", "scores", "annotations")
    }
    from schemas.records import ShardRows
    from schemas.tables import to_records

    made = ShardRows(**{name: tuple(to_records(name, table)) for name, table in rows.items()})
    run.commit(1, "late", made, whole.done()[1].tally)
    monkeypatch.setattr("pipeline.review.session._REFRESH_S", 0.0)
    before = desk.table
    named = before.open_view(Filter(order="path"))["view"]
    desk.refresh()
    assert len(before.items(named, 0, 9) or []) == 3, "a request that had begun ends as it began"
    assert desk.table.items(named, 0, 9) is None
    before.decide([ReviewDecision(image_id="id-0.png", action="accept", at_s=1.0)])
    desk.refresh()
    assert desk.table.facts()["progress"]["done"] == 1
    assert (desk.table.facts()["num_left"], len(desk.table.index)) == (0, 6)


def test_images_reviewed_in_another_tool_are_done(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    image = ReviewedImage(image_id="id-1.png", path="1.png", source="cvat.zip")
    desk = Desk(run)
    before = ReviewDecision(image_id="id-1.png", action="reject", at_s=1.0)
    desk.table.decide([before])
    store(run, "cvat.zip", [image], [])
    desk.refresh()  # as a page does that is loaded anew
    said = desk.table.look(1)
    assert (said["decisions"], said["marks"]) == ([], ["done", "imported"])
    assert ReviewedLayer(run).images["id-1.png"].source == "cvat.zip"
    (item,) = desk.table.items(desk.table.open_view(Filter(state="done"))["view"], 0, 9) or []
    assert (item["path"], item["marks"]) == ("1.png", ["done", "imported"])
    desk.table.decide([ReviewDecision(image_id="id-1.png", action="accept", at_s=9e9)])
    desk.table.undo(9e9, "")
    done = desk.table.facts()["progress"]["done"]
    assert done == len(ReviewedLayer(run).images) == 1


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [
        ((100, 50), (100, 50)),
        ((4000, 2000), (360, 180)),
        ((1, 9000), (1, 360)),
        ((360, 1), (360, 1)),
    ],
)
def test_pictures_are_reduced_and_never_enlarged(size_hw, expected):
    assert fit(size_hw, 360) == expected


EMBEDDED = {"images": "x", "out": "y", "labels": ["red circle"], "clip": {"model": "embedded"}}


def test_every_method_runs_on_the_networks_of_the_run_and_no_other_is_fetched():
    bench = Workbench(JobConfig.model_validate(EMBEDDED | {"run": {"device": "cpu"}}))
    assert bench.own().name == "clip_diy"
    others = bench.others()
    assert [one for one in others if one.reason] == []
    assert {"maskclip", "proxyclip"} <= {one.name for one in others}
    networks = bench._networks()
    networks.strict = True
    with pytest.raises(WeightsError, match="the run has embedded"):
        networks.network("vit_small_patch8_224.dino")


def test_words_are_scored_on_kept_features():
    bench = Workbench(JobConfig.model_validate(EMBEDDED | {"run": {"device": "cpu"}}))
    decoded = []

    def image(key: str) -> TryImage:
        def decode(side_px: int) -> DecodedImage:
            decoded.append(key)
            rgb = np.random.default_rng(len(key)).integers(0, 255, (60, 90, 3), dtype=np.uint8)
            return DecodedImage(rgb, 60, 90, 1)

        return TryImage(key, f"{key}.png", decode)

    first = bench.segment(image("a"), ["red circle", "Blue Star"], "maskclip")
    again = bench.segment(image("a"), ["green ring"], "maskclip")
    other = bench.segment(image("bb"), ["green ring"], "maskclip")
    assert (first.encoded, again.encoded, other.encoded) == (True, False, True)
    assert (first.seconds["encode"] > 0, again.seconds["encode"]) == (True, 0.0)
    assert decoded == ["a", "bb"]
    assert bench.num_encoded == 2
    assert [score.label for score in first.masks.label_scores] == ["red circle", "Blue Star"]
    for words in ([], ["star"] * 65, ["star", "Star"], ["x" * 300]):
        with pytest.raises(UserError):
            bench.segment(image("a"), words, "maskclip")
    with pytest.raises(UserError, match="no 'nothing' among"):
        bench.segment(image("a"), ["star"], "nothing")


def test_methods_are_used_ahead_of_people_and_nothing_of_it_is_kept():
    bench = Workbench(JobConfig.model_validate(EMBEDDED | {"run": {"device": "cpu"}}))
    ahead = threading.Thread(target=bench.warm)
    ahead.start()
    rgb = np.random.default_rng(1).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    image = TryImage("a", "a.png", lambda _: DecodedImage(rgb, 60, 90, 1))
    meanwhile = bench.segment(image, ["red circle"], "naclip")
    ahead.join(60)
    assert not ahead.is_alive()
    assert (bench.num_encoded, bench._encoded.used) == (1, 1)
    assert bench._warm == {one.name for one in bench.others() if not one.reason}
    again = bench.segment(image, ["red circle"], "naclip")
    assert not again.encoded
    assert [vars(one) for one in again.masks.segments] == [
        vars(one) for one in meanwhile.masks.segments
    ]


def test_nothing_is_done_ahead_once_the_server_ends():
    bench = Workbench(JobConfig.model_validate(EMBEDDED | {"run": {"device": "cpu"}}))
    bench.end()
    bench.warm()
    assert set(bench._segmenters) == set()
