"""A review session without a server."""

import pytest

from pipeline.corrections.imports import store_import
from pipeline.corrections.layer import ReviewedLayer
from pipeline.review.filter import Filter
from pipeline.review.session import ForgottenViewError, ReviewSession
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from schemas.records import ShardRows
from schemas.review import ReviewDecision, ReviewedImage
from schemas.tables import to_records
from tests.helpers.drawn_runs import RunSpec, Scene, grow_run, label_map, make_run


def test_refresh_shows_images_annotated_later(tmp_path):
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(6)]
    whole = make_run(tmp_path / "whole", scenes)
    run = make_run(tmp_path, scenes, RunSpec(unfinished=(1,)))
    session = ReviewSession(run, refresh_s=0.0)
    assert session.facts()["num_left"] == 3
    rows = {
        name: whole.shard_table(whole.done()[1], name)
        for name in ("images", "scores", "annotations")
    }
    made = ShardRows.model_validate(
        {name: tuple(to_records(name, table)) for name, table in rows.items()}
    )
    run.commit(1, "late", made, whole.done()[1].tally)
    before = session.snapshot
    view = session.open_view(Filter(order="path"))["view"]
    session.refresh()
    assert len(before.view(view).rows) == 3, "a request that had begun ends on its snapshot"
    with pytest.raises(ForgottenViewError):
        session.items(view, 0, 9)
    decision = ReviewDecision(image_id="id-0.png", action="accept", at_s=1.0)
    before.decisions.add([decision])  # by a request that had begun
    session.refresh()
    assert session.facts()["progress"]["done"] == 1
    assert (session.facts()["num_left"], len(session.snapshot.index)) == (0, 6)


def test_cards_of_relabelled_images_read_no_table(tmp_path):
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(4)]
    run = make_run(tmp_path, scenes, RunSpec(shard_size=1))
    session = ReviewSession(run)
    for number in (1, 3):
        image_id = f"id-{number}.png"
        first = session.image(image_id)["segments"][0]
        mask = {name: first[name] for name in ("label", "segment_index")}
        new = "dog" if first["label"] == "cat" else "cat"
        decision = {"image_id": image_id, "action": "relabel", "new_label": new, "at_s": 1.0}
        session.decide([ReviewDecision(**mask, **decision)])
    session = ReviewSession(run)  # has no segments of single images yet
    for name in run.folder.sizes("annotations"):
        run.folder.delete(name)
    items = session.items(session.open_view(Filter(state="relabelled"))["view"], 0, 9)
    assert [item["path"] for item in items] == ["1.png", "3.png"]
    for item in items:
        assert sum(label != was for label, _, _, was, _ in item["labels"]) == 1
        assert item["tint"]


def test_images_reviewed_in_another_tool_are_done(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    image = ReviewedImage(image_id="id-1.png", path="1.png", source="cvat.zip")
    session = ReviewSession(run)
    session.decide([ReviewDecision(image_id="id-1.png", action="reject", at_s=1.0)])
    store_import(run, "cvat.zip", [image], [])
    session.refresh()  # as when a page is loaded
    facts = session.image("id-1.png")
    assert (facts["decisions"], facts["marks"]) == ([], ["done", "imported"])
    assert ReviewedLayer(run).images["id-1.png"].source == "cvat.zip"
    (item,) = session.items(session.open_view(Filter(state="done"))["view"], 0, 9)
    assert (item["path"], item["marks"]) == ("1.png", ["done", "imported"])
    session.decide([ReviewDecision(image_id="id-1.png", action="accept", at_s=9e9)])
    session.undo(9e9, "")
    done = session.facts()["progress"]["done"]
    assert done == len(ReviewedLayer(run).images) == 1


def test_nobody_decides_on_masks_of_an_image_that_has_changed_since(tmp_path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    session = ReviewSession(run)
    accepted = ReviewDecision(image_id="id-1.png", action="accept", at_s=1.0)
    session.decide([accepted])
    assert session.image("id-1.png")["marks"] == ["done", "begun"]
    grown = grow_run(run, [Scene("new.png", label_map(9))], [Scene("1.png", label_map(8))])
    with pytest.raises(UserError, match="load the page again"):
        session.decide([accepted])
    session.refresh()
    assert session.facts()["progress"]["total"] == 4
    assert session.image("id-1.png")["marks"] == []
    session.decide([accepted])  # by a browser whose clock is behind
    assert session.image("id-1.png")["marks"] == ["done", "begun"]
    assert set(ReviewedLayer(grown).images) == {"id-1.png"}
    old = ReviewSession(RunFolder.open(f"{run.folder.uri}@1"))
    old.refresh()
    assert old.facts()["progress"]["total"] == 3
    with pytest.raises(UserError, match="generation 1 of the run"):
        old.decide([accepted])
