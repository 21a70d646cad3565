"""Decisions of the review page: stored in the log, undone by message, marked by image."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from pipeline.corrections.layer import ReviewedLayer, decision_on
from pipeline.corrections.log import ReviewLog
from pipeline.review.decisions import Decisions, Mark
from pipeline.review.index import ReviewIndex
from schemas.review import Action, ReviewDecision, ReviewKey
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run


def rejected_by_label(decisions: Decisions, image_id: str, row: int) -> Counter[int]:
    return Counter(-look for look in decisions.looks(image_id, row) if look < 0)


@pytest.mark.parametrize("seed", range(4))
def test_done_images_are_those_of_the_reviewed_layer(tmp_path, seed):
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
        action: Any = str(rng.choice(actions[: 5 if label is None else 6]))
        new_label = LABELS[rng.integers(3)] if action == "relabel" else ""
        decision = ReviewDecision(
            image_id=row["image_id"], label=label, segment_index=place, action=action,
            new_label=new_label, at_s=float(step), source=str(rng.choice(["one", "other"])),
        )  # fmt: skip
        if rng.integers(5):
            decisions.add([decision])
        else:
            decisions.undo(float(step), decision.source)
    done = {
        index.image(row)["image_id"] for row in np.flatnonzero(decisions.marks & Mark.DONE).tolist()
    }
    layer = ReviewedLayer(run, log)
    assert done == set(layer.images)
    for number in range(len(index)):
        image_id = index.image(number)["image_id"]
        outcomes = (layer.outcomes(image_id) or {}).values()
        num_rejected = sum(one is None for one in outcomes)
        assert rejected_by_label(decisions, image_id, number).total() == num_rejected
        assert (num_rejected > 0) == bool(decisions.marks[number] & Mark.REJECTED)
        new = [one.label for one in outcomes if one is not None and one.verdict == "changed"]
        if new:
            assert decisions.marks[number] & Mark.RELABELLED
    assert 0 < len(done) < len(index)
    again = Decisions(ReviewLog(run), index)
    np.testing.assert_array_equal(again.marks, decisions.marks)
    for image_id in done:
        assert again.current(image_id) == decisions.current(image_id)
    marked = np.flatnonzero(decisions.marks & Mark.SKIPPED)
    current = log.current()
    skips = {key for key, one in current.items() if one.action == "skip"}
    undecided = {
        row["image_id"]
        for row in rows
        if decision_on(row, current) is None
        and ReviewKey(row["image_id"], row["label"], row["segment_index"]) not in skips
    }
    skipped = {key.image_id for key in skips if not key.label or key.image_id not in undecided}
    assert {index.image(row)["image_id"] for row in marked.tolist()} == skipped


def test_an_image_is_skipped_when_no_other_mask_of_it_is_undecided(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(2)])
    index = ReviewIndex(run)
    decisions = Decisions(ReviewLog(run), index)

    def decide(action: Action, place: int | None) -> Mark:
        mask = {} if place is None else {"label": LABELS[place], "segment_index": place}
        decisions.add([ReviewDecision(image_id="id-1.png", action=action, at_s=1.0, **mask)])
        return Mark(int(decisions.marks[index.row("id-1.png")]))

    assert decide("skip", 0) == Mark.BEGUN, "two masks are to do"
    assert decide("accept", 1) == Mark.BEGUN
    assert decide("skip", 2) == Mark.BEGUN | Mark.SKIPPED
    assert decide("undo", 2) == Mark.BEGUN
    assert decide("skip", None) == Mark.BEGUN | Mark.SKIPPED


def test_what_every_mask_overrules_is_not_marked(tmp_path):
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(2)]
    run = make_run(tmp_path, [*scenes, Scene("empty.png", np.zeros((9, 12), np.uint16))])
    index = ReviewIndex(run)
    decisions = Decisions(ReviewLog(run), index)

    def decide(name: str, action: Action, place: int | None = None, **more) -> Mark:
        mask = {} if place is None else {"label": LABELS[place], "segment_index": place}
        one = ReviewDecision(image_id=name, action=action, at_s=1.0, **mask, **more)
        decisions.add([one])
        return Mark(int(decisions.marks[index.row(name)]))

    assert decide("id-1.png", "reject") == Mark.DONE | Mark.REJECTED | Mark.BEGUN
    for place, is_last in ((0, False), (1, False), (2, True)):
        marks = decide("id-1.png", "accept", place)
        assert marks == Mark.DONE | Mark.BEGUN | (Mark(0) if is_last else Mark.REJECTED)
    assert rejected_by_label(decisions, "id-1.png", 1).total() == 0
    marks = decide("id-1.png", "relabel", 2, new_label="cat")
    assert marks == Mark.DONE | Mark.BEGUN | Mark.RELABELLED
    assert decide("id-1.png", "reject", 1) == marks | Mark.REJECTED
    assert rejected_by_label(decisions, "id-1.png", 1) == {2: 1}
    assert decide("id-empty.png", "reject") == Mark.DONE | Mark.REJECTED | Mark.BEGUN
    assert not decisions.marks[0]


def test_undo_reaches_the_first_decision_over_several_images(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    decisions = Decisions(ReviewLog(run), ReviewIndex(run))
    image_ids = ["id-0.png", "id-2.png", "id-0.png", "id-1.png"]
    for step, image_id in enumerate(image_ids):
        action = "accept" if step % 2 else "reject"
        decisions.add([ReviewDecision(image_id=image_id, action=action, at_s=step)])
    taken = [undone.keys[0].image_id for _ in image_ids if (undone := decisions.undo(9.0, ""))]
    assert taken == image_ids[::-1]
    assert decisions.undo(9.0, "") is None
    assert not decisions.marks.any()


def test_undo_takes_back_a_whole_message(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(2)])
    log = ReviewLog(run)
    decisions = Decisions(log, ReviewIndex(run))

    def decision(place: int | None, action: Action, source: str = "me", **more) -> ReviewDecision:
        label = None if place is None else LABELS[place]
        return ReviewDecision(
            image_id="id-0.png", label=label, segment_index=place, action=action, at_s=1.0,
            source=source, **more,
        )  # fmt: skip

    decisions.add([decision(0, "reject", "other")])
    decisions.add([decision(1, "relabel", new_label=LABELS[0])])
    decisions.add([decision(2, "skip")])
    before = log.current()
    decisions.add([decision(None, "accept")])
    actions = {key.segment_index: one.action for key, one in log.current().items()}
    assert actions == {0: "accept", 1: "relabel", 2: "accept", None: "accept"}, (
        "stored for each mask with another decision, and for the image; a new label stays"
    )
    undone = decisions.undo(2.0, "me")
    assert undone is not None
    assert (undone.keys[0], undone.overruled) == (decision(None, "accept").key, False)
    assert log.current() == before == ReviewLog(run).current()

    decisions.add([decision(None, "accept")])
    decisions.add([decision(0, "reject", "other")])
    undone = decisions.undo(3.0, "me")
    assert undone is not None
    assert undone.overruled
    log.refresh()
    assert {key: one.action for key, one in log.current().items()} == {
        key: one.action for key, one in before.items()
    }
    again = Decisions(ReviewLog(run), ReviewIndex(run))
    actions = [undone.keys[0].segment_index for _ in range(3) if (undone := again.undo(4.0, "me"))]
    assert actions == [2, 1], "one by one, until none is left"


def test_undo_of_a_message_that_was_partly_undone(tmp_path):
    run = make_run(tmp_path, [Scene("0.png", label_map(0)), Scene("1.png", label_map(1))])
    log = ReviewLog(run)

    def decision(image: str, action: Action) -> ReviewDecision:
        return ReviewDecision(image_id=image, action=action, at_s=1.0, source="me")

    log.append([decision("id-0.png", "reject")])
    log.append(
        [
            decision("id-0.png", "accept"),
            decision("id-1.png", "accept"),
            decision("id-0.png", "skip"),
        ]
    )
    log.append([decision("id-0.png", "undo")])
    decisions = Decisions(ReviewLog(run), ReviewIndex(run))
    undone = decisions.undo(2.0, "me")
    assert undone is not None
    assert [key.image_id for key in undone.keys] == ["id-1.png", "id-0.png"]
    assert [one.action for one in ReviewLog(run).current().values()] == ["reject"]
    assert decisions.undo(3.0, "me") is not None
    assert decisions.undo(3.0, "me") is None
