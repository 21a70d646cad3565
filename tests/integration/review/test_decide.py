"""The review server: decisions and undo, over a real socket."""

from pathlib import Path

import numpy as np
import pytest

from ovseg_core.rle.encode import decode_rle
from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.log import ReviewLog
from pipeline.run.reader import RunReader
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run
from tests.helpers.review_server import Client, read_picture, serving

ONE, OTHER = "0123456789abcdef", "fedcba9876543210"
"""Names of two reviewers."""


def undone(client: Client, reviewer: str) -> tuple[str, bool] | None:
    answer = client.post("/api/undo", {"reviewer": reviewer}).json
    return answer["undone"] and (answer["undone"]["image_id"], answer["overruled"])


def decided(client: Client, reviewer: str, image: str, action: str = "accept") -> None:
    decision = {"image_id": image, "action": action}
    answer = client.post("/api/decisions", {"decisions": [decision], "reviewer": reviewer})
    assert answer.status == 200


def test_decision_is_refused_when_the_run_folder_is_gone(run):
    place = Path(run.folder.uri)
    with serving(run) as client:
        moved = place.rename(place.with_name("moved"))
        gone = client.decide(image_id="id-1.png", action="accept")
        assert gone.status == 503
        assert "moved or deleted" in gone.json["error"]
        assert not place.exists()
        moved.rename(place)
        assert client.decide(image_id="id-1.png", action="accept").status == 200


def test_answered_decisions_are_in_the_log(run):
    with serving(run) as client:
        item = client.shown()[0]
        segments = client.get("/api/image", id=item["image_id"]).json["segments"]
        first = {
            "image_id": item["image_id"],
            "label": segments[0]["label"],
            "segment_index": segments[0]["segment_index"],
        }
        other = next(name for name in LABELS if name != first["label"])
        assert client.decide(**first, action="accept").status == 200
        (stored,) = ReviewLog(run).decisions()
        assert (stored.action, stored.key) == ("accept", tuple(first.values()))
        client.decide(**first, action="relabel", new_label=other)
        answer = client.decide(image_id="id-2.png", action="reject").json
        assert answer["progress"]["done"] == 1
        assert [item["image_id"] for item in client.shown(state="relabelled")] == [
            first["image_id"]
        ]
        assert {item["image_id"] for item in client.shown(state="done")} == {"id-2.png"}
        assert "id-2.png" not in {item["image_id"] for item in client.shown(state="todo")}
        for expected in (("id-2.png", None), (first["image_id"], first["label"])):
            undone = client.post("/api/undo", {}).json["undone"]
            assert (undone["image_id"], undone["label"]) == expected
        (left,) = client.get("/api/image", id=first["image_id"]).json["decisions"]
        assert left["action"] == "accept"
        client.post("/api/undo", {})
        assert client.post("/api/undo", {}).json == {"undone": None}
    assert ReviewLog(run).current() == {}


def test_undo_takes_back_only_decisions_of_the_reviewer(run):
    log = ReviewLog(run)
    of_a_tool = ReviewDecision(image_id="id-3.png", action="reject", at_s=1.0, source="cvat")
    log.append([of_a_tool])
    with serving(run) as client:
        decided(client, ONE, "id-0.png")
        decided(client, OTHER, "id-1.png")
        decided(client, ONE, "id-2.png")
        decided(client, OTHER, "id-0.png", "reject")
        assert undone(client, ONE) == ("id-2.png", False)
    with serving(run) as client:  # the log knows who decided what
        decided(client, "", "id-3.png")  # without a reviewer, as decisions of earlier versions are
        assert undone(client, ONE) == ("id-0.png", True)
        (stands,) = client.get("/api/image", id="id-0.png").json["decisions"]
        assert stands["action"] == "reject"
        assert undone(client, ONE) is None
        assert undone(client, "") == ("id-3.png", False)
        assert undone(client, "") is None
        left = {item["image_id"] for item in client.shown(state="done")}
        assert left == {"id-0.png", "id-1.png", "id-3.png"}
        assert undone(client, OTHER) == ("id-0.png", False)
        assert client.get("/api/image", id="id-0.png").json["decisions"] == []
        assert undone(client, OTHER) == ("id-1.png", False)
        assert undone(client, OTHER) is None
    assert list(ReviewLog(run).current().values()) == [of_a_tool]


def test_decision_on_a_whole_image_replaces_those_on_masks(run):
    with serving(run) as client:
        masks = client.get("/api/image", id="id-0.png").json["segments"]
        keys = [{name: one[name] for name in ("label", "segment_index")} for one in masks]
        for key, action in zip(keys, ("reject", "skip", "accept"), strict=True):
            client.decide(image_id="id-0.png", **key, action=action)
        before = client.get("/api/image", id="id-0.png").json["decisions"]
        answer = client.decide(image_id="id-0.png", action="accept").json
        assert answer["images"][0]["marks"] == ["done", "begun"]
        assert [len(ReviewedLayer(run).masks("id-0.png"))] == [len(masks)]
        undone = client.post("/api/undo", {}).json
        assert (undone["undone"]["label"], undone["overruled"]) == (None, False)
        assert undone["images"][0]["decisions"] == before
        two = [{"image_id": f"id-{n}.png", "action": "reject"} for n in (2, 3)]
        client.post("/api/decisions", {"decisions": two})
        undone = client.post("/api/undo", {}).json
        assert [one["image_id"] for one in undone["images"]] == ["id-3.png", "id-2.png"]
        assert undone["progress"]["done"] == 0


def test_undo_keeps_later_decisions_on_another_server(run):
    with serving(run) as one, serving(run) as other:
        decided(one, ONE, "id-0.png")
        decided(other, OTHER, "id-0.png", "reject")
        undone(one, ONE)
    assert [said.action for said in ReviewLog(run).current().values()] == ["reject"]


@pytest.mark.parametrize(
    "name", ["Mia Reviewer", ONE[1:], ONE.upper(), f"{ONE}\n", "../../0123456", 7]
)
def test_reviewer_must_be_sixteen_hex_digits(run, name):
    said = {"decisions": [{"image_id": "id-0.png", "action": "accept"}], "reviewer": name}
    with serving(run) as client:
        refused = client.post("/api/decisions", said)
        assert (refused.status, "reviewer" in refused.json["error"]) == (400, True)
        assert client.post("/api/undo", {"reviewer": name}).status == 400
    assert ReviewLog(run).decisions() == []


def test_decisions_survive_a_restart_and_make_the_reviewed_layer(run):
    with serving(run) as client:
        for item in client.shown()[:2]:
            for segment in client.get("/api/image", id=item["image_id"]).json["segments"]:
                client.decide(
                    image_id=item["image_id"],
                    label=segment["label"],
                    segment_index=segment["segment_index"],
                    action="reject" if segment["label"] == "cat" else "accept",
                )
        done = {item["image_id"] for item in client.shown(state="done")}
        assert len(done) == 2
    with serving(run) as client:
        assert {item["image_id"] for item in client.shown(state="done")} == done
        assert client.post("/api/undo", {}).json["undone"] is not None
        assert len(client.shown(state="done")) == 1
        client.decide(image_id="id-0.png", action="accept")
        assert client.get("/api/run").json["progress"]["done"] == len(ReviewedLayer(run).images)


def test_decisions_of_another_server_show_on_the_next_load(run):
    with serving(run) as one, serving(run) as other:
        one.decide(image_id="id-3.png", action="accept")
        assert other.get("/api/run").json["progress"]["done"] == 1


@pytest.mark.parametrize(
    "decision",
    [
        {"image_id": "id-9.png", "action": "accept"},
        {"image_id": "../../etc/passwd", "action": "accept"},
        {"image_id": "id-0.png", "label": "zebra", "segment_index": 0, "action": "accept"},
        {"image_id": "id-0.png", "label": LABELS[0], "segment_index": 77, "action": "accept"},
        {"image_id": "id-0.png", "label": LABELS[0], "action": "relabel", "new_label": "zebra"},
        {"image_id": "id-0.png", "label": LABELS[0], "action": "relabel"},
        {"image_id": "id-0.png", "segment_index": 0, "action": "accept"},
        {"image_id": "id-0.png", "action": "delete"},
        {"image_id": "id-0.png", "action": "accept", "at_s": 1},
        {"action": "accept"},
        [],
        "accept",
    ],
)
def test_wrong_decision_is_refused_with_its_whole_message(run, decision):
    good = {"image_id": "id-1.png", "action": "accept"}
    with serving(run) as client:
        answer = client.post("/api/decisions", {"decisions": [good, decision]})
        assert answer.status in (400, 422)
        assert answer.json["error"]
    assert ReviewLog(run).decisions() == []


def test_message_sent_twice_is_stored_once(run):
    with serving(run) as client:
        decisions = [{"image_id": "id-0.png", "action": "accept"}]
        first = {"decisions": decisions, "nonce": "one"}
        answers = [client.post("/api/decisions", first).json for _ in range(2)]
        assert answers[0] == answers[1]
        client.post("/api/decisions", {"decisions": decisions, "nonce": "two"})
        assert len(ReviewLog(run).decisions()) == 2
        for _ in range(2):
            client.post("/api/undo", {"nonce": "three"})
        assert [one.action for one in ReviewLog(run).current().values()] == ["accept"]
    for _ in range(2):  # the server was killed before it could answer: the next one knows it too
        with serving(run) as client:
            undone = client.post("/api/undo", {"nonce": "three"}).json["undone"]
            assert undone["image_id"] == "id-0.png"
            client.post("/api/decisions", {"decisions": decisions, "nonce": "two"})
            client.decide(image_id="id-1.png", action="accept")
    assert len(ReviewLog(run).decisions()) == 5


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"decisions":' * 50_000,
        b'{"decisions": [{"image_id": "\\ud800", "action": "accept"}]}',
        b'{"\\ud800": 1}',
        b'{"decisions": NaN}',
        b'{"decisions": "\xff"}',
        b"null",
        b"",
    ],
)
def test_malformed_json_is_refused(client, body):
    for path in ("/api/decisions", "/api/undo", "/api/try/segment"):
        refused = client.post(path, body)
        assert refused.status == 400
        assert refused.json["error"]


def test_card_has_the_labels_as_decided_and_its_picture_a_name(run):
    with serving(run) as client:
        (before,) = client.shown(text="1.png")
        plain = client.get("/tint", id="id-1.png")
        assert before["tint"] == ""
        assert "immutable" in plain.headers["cache-control"]
        told = client.decide(image_id="id-1.png", label="cat", action="relabel", new_label="dog")
        (now,) = client.shown(text="1.png")
        assert told.json["images"][0]["labels"] == now["labels"]
        assert sorted((label, was) for label, _, _, was, _ in now["labels"]) == [
            (2, 1),
            (2, 2),
            (3, 3),
        ]
        decided = client.get("/tint", id="id-1.png", tint=now["tint"])
        assert "immutable" in decided.headers["cache-control"]
        assert decided.body != plain.body
        # A page that has not been told yet gets the same picture, and does not keep it.
        late = client.get("/tint", id="id-1.png")
        assert (late.body, late.headers["cache-control"]) == (decided.body, "no-store")
        client.post("/api/undo", b"{}")
        assert client.shown(text="1.png") == [before]
        assert client.get("/tint", id="id-1.png").body == plain.body


def test_card_has_the_outline_alone_of_a_rejected_mask(run):
    with serving(run) as client:
        plain = read_picture(client.get("/tint", id="id-1.png").body)[..., 3] > 0
        client.decide(image_id="id-1.png", label="cat", action="reject")
        (now,) = client.shown(text="1.png")
        answer = client.get("/tint", id="id-1.png", tint=now["tint"])
        assert "immutable" in answer.headers["cache-control"]
        decided = read_picture(answer.body)[..., 3] > 0
        cat = label_map(1) == 1
        assert plain[cat].all()
        assert 0.2 < decided[cat].mean() < 0.9
        np.testing.assert_array_equal(decided[~cat], plain[~cat])
        client.post("/api/undo", b"{}")
        after = read_picture(client.get("/tint", id="id-1.png").body)[..., 3] > 0
        np.testing.assert_array_equal(after, plain)


def test_page_of_another_run_is_refused(run, tmp_path):
    other = make_run(tmp_path / "other", [Scene("0.png", label_map(0))])
    with serving(other) as client:
        foreign = client.get("/api/run").json["key"]
    with serving(run) as client:
        key = client.get("/api/run").json["key"]
        assert key != foreign
        for name, status in ((foreign, 409), (key, 200)):
            page = {"X-Ovseg": "1", "X-Ovseg-Run": name}
            assert client.request("GET", "/api/view", headers=page).status == status
            assert client.request("POST", "/api/undo", b"{}", page).status == status
            assert client.get("/tint", id="id-1.png", v=name).status == status


def test_failed_write_is_answered_with_503(run):
    with serving(run) as client:
        place = Path(run.folder.uri, "reviewed")
        place.write_text("in the way of the folder")
        refused = client.decide(image_id="id-0.png", action="accept")
        assert refused.status == 503
        assert "reviewed" in refused.json["error"]
        assert client.get("/api/image", id="id-0.png").json["decisions"] == []
        place.unlink()
        assert client.decide(image_id="id-0.png", action="accept").status == 200


def test_components_are_decided_one_by_one(tmp_path):
    spec = RunSpec(masks={"segments": "components"})
    run = make_run(tmp_path, [Scene("a.png", label_map(1)), Scene("b.png", label_map(2))], spec)
    with serving(run) as client:
        image = client.get("/api/image", id="id-a.png").json
        segments = image["segments"]
        assert len(segments) > len({one["label"] for one in segments})
        numbers = read_picture(client.get("/segments", id="id-a.png").body).astype(int) @ [
            1,
            256,
            0,
        ]
        (rows,) = [
            [row for row in shard.segments() if row["image_id"] == "id-a.png"]
            for shard in RunReader(run).shards()
        ]
        for place, row in enumerate(rows, start=1):
            mask = decode_rle(row["rle_counts"], (row["height"], row["width"])) > 0
            np.testing.assert_array_equal(numbers == place, mask)
        for segment in segments:
            key = {name: segment[name] for name in ("label", "segment_index")}
            answer = client.decide(image_id="id-a.png", **key, action="accept").json
        assert "done" in answer["images"][0]["marks"]
