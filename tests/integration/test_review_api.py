"""The review server as a browser's requests see it, over a real socket."""

import io
import socket
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from ovseg_core.rle.encode import decode
from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.log import ReviewLog
from pipeline.evaluation.compare import compare, read_comparison
from pipeline.review.server import Address, listen
from pipeline.review.try_page import MAX_UPLOAD_BYTES
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from schemas.errors import ErrorCode
from schemas.records import ImageRef, ShardRows
from schemas.review import ReviewDecision
from schemas.tables import to_records, to_table
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run, odd_scenes
from tests.helpers.review_server import Client, serving


@pytest.fixture(scope="module")
def read_run(tmp_path_factory) -> RunFolder:
    """Odd names, an image without masks and one that failed; nothing is decided on it."""
    return make_run(tmp_path_factory.mktemp("read"), odd_scenes())


@pytest.fixture(scope="module")
def client(read_run):
    with serving(read_run) as client:
        yield client


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, [Scene(f"{n}.png", label_map(n), 0.4 + n / 10) for n in range(4)])


OTHER_SCENES = [Scene(f"{n}.png", label_map(n if n == 0 else n + 20)) for n in range(3)]
"""The run's own but for the last image; one of them with the same masks."""


def picture(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def test_worst_first_and_every_annotated_image_once(client, read_run):
    items = client.shown()
    doubt = [item["review_priority"] for item in items]
    assert doubt == sorted(doubt, reverse=True)
    paths = [item["path"] for item in items]
    assert sorted(paths) == sorted(s.path for s in odd_scenes() if s.label_map is not None)
    facts = client.get("/api/run").json
    assert facts["progress"] == {"total": len(paths), "done": 0, "begun": 0, "skipped": 0}
    assert [label["name"] for label in facts["labels"]] == list(LABELS)
    assert facts["errors"] == {"truncated": 1}


def test_filters_by_label_score_error_code_and_path(client, read_run):
    rows = [row for batch in read_run.read_table("annotations") for row in batch.to_pylist()]
    for label in LABELS:
        wanted = {row["image_id"] for row in rows if row["label"] == label}
        assert {item["image_id"] for item in client.shown(label=label)} == wanted
    wanted = {r["image_id"] for r in rows if r["label"] == "dog" and 0.6 <= r["mean_prob"] <= 0.7}
    assert 0 < len(wanted) < len(odd_scenes())
    found = client.shown(label="dog", mean_prob_low=0.6, mean_prob_high=0.7)
    assert {item["image_id"] for item in found} == wanted
    assert client.shown(label="no such label") == []
    (failed,) = client.shown(failed="truncated")
    assert failed["path"] == "broken #1.jpg"
    assert client.shown(failed="any") == [failed]
    assert client.shown(failed="not_found") == []
    assert {item["path"] for item in client.shown(text="SUB FOLDER")} == {
        "sub folder/ünï çødé 猫.png",
        "sub folder/plain.jpg",
    }
    refused = client.get("/api/view", mean_prob_low=2)
    assert refused.status == 400
    assert "mean_prob_low" in refused.json["error"]


def test_pictures_show_the_image_and_its_masks_to_the_pixel(client, read_run):
    scenes = {scene.path: scene for scene in odd_scenes()}
    for item in client.shown():
        expected = scenes[item["path"]].label_map
        answers = {
            name: client.get(f"/{name}", id=item["image_id"])
            for name in ("photo", "tint", "segments")
        }
        assert [answer.headers["content-type"] for answer in answers.values()] == [
            "image/jpeg", "image/png", "image/png",
        ]  # fmt: skip
        assert picture(answers["photo"].body).shape == (*expected.shape, 3)
        tint = picture(answers["tint"].body)
        np.testing.assert_array_equal(tint[..., 3] > 0, expected > 0)
        numbers = picture(answers["segments"].body).astype(int) @ [1, 256, 0]
        segments = client.get("/api/image", id=item["image_id"]).json["segments"]
        labels = np.array([0, *(one["category_id"] for one in segments)])
        np.testing.assert_array_equal(labels[numbers], expected)
    (failed,) = client.shown(failed="any")
    assert client.get("/segments", id=failed["image_id"]).json["code"] == "truncated"


def test_a_photograph_is_shown_in_the_frame_of_its_masks(tmp_path):
    run = make_run(tmp_path, [Scene("turned.png", label_map(1)), Scene("b.png", label_map(2))])
    file = tmp_path / "photos" / "turned.png"
    with Image.open(file) as upright:
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera lay on its side; viewers turn it clockwise
        expected = np.array(upright)
        upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    with serving(run) as client:
        photo = picture(client.get("/photo", id="id-turned.png", size="large").body)
    assert photo.shape == expected.shape
    assert np.abs(photo.astype(int) - expected).mean() < 8


def test_an_image_that_is_gone_is_said_to_be(run):
    (Path(run.folder.uri).parent / "photos" / "1.png").unlink()
    with serving(run) as client:
        gone = client.get("/photo", id="id-1.png")
        assert (gone.status, gone.json["code"]) == (422, "not_found")
        assert client.get("/tint", id="id-1.png").status == 200


def test_an_image_that_was_replaced_is_not_shown_under_the_masks_of_the_old_one(run):
    file = Path(run.folder.uri).parent / "photos" / "1.png"
    Image.new("RGB", (80, 50)).save(file)
    with serving(run) as client:
        replaced = client.get("/photo", id="id-1.png", size="large")
        assert replaced.status == 422
        assert "is 80 x 50 pixels now and was 56 x 40" in replaced.json["error"]


def test_nothing_is_stored_where_the_run_has_gone(run):
    place = Path(run.folder.uri)
    with serving(run) as client:
        moved = place.rename(place.with_name("moved"))
        gone = client.decide(image_id="id-1.png", action="accept")
        assert gone.status == 503
        assert "moved or deleted" in gone.json["error"]
        assert not place.exists()
        moved.rename(place)
        assert client.decide(image_id="id-1.png", action="accept").status == 200


def test_decisions_are_in_the_log_when_they_are_answered(run):
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


ONE, OTHER = "0123456789abcdef", "fedcba9876543210"


def decided(client: Client, reviewer: str, image: str, action: str = "accept") -> None:
    decision = {"image_id": image, "action": action}
    answer = client.post("/api/decisions", {"decisions": [decision], "reviewer": reviewer})
    assert answer.status == 200


def undone(client: Client, reviewer: str) -> tuple[str, bool] | None:
    answer = client.post("/api/undo", {"reviewer": reviewer}).json
    return answer["undone"] and (answer["undone"]["image_id"], answer["overruled"])


def test_undo_takes_back_what_the_same_reviewer_decided_and_nothing_else(run):
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
        decided(client, "", "id-3.png")  # told by no reviewer, as every decision once was
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


def test_the_whole_image_counts_over_its_masks_and_is_undone_as_one(run):
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


def test_undo_on_one_server_leaves_what_another_server_was_told_since(run):
    with serving(run) as one, serving(run) as other:
        decided(one, ONE, "id-0.png")
        decided(other, OTHER, "id-0.png", "reject")
        undone(one, ONE)
    assert [said.action for said in ReviewLog(run).current().values()] == ["reject"]


@pytest.mark.parametrize(
    "name", ["Mia Reviewer", ONE[1:], ONE.upper(), f"{ONE}\n", "../../0123456", 7]
)
def test_a_reviewer_is_a_random_number_and_no_text(run, name):
    said = {"decisions": [{"image_id": "id-0.png", "action": "accept"}], "reviewer": name}
    with serving(run) as client:
        refused = client.post("/api/decisions", said)
        assert (refused.status, "reviewer" in refused.json["error"]) == (400, True)
        assert client.post("/api/undo", {"reviewer": name}).status == 400
    assert ReviewLog(run).decisions() == []


def test_what_was_decided_stands_after_a_restart_and_is_the_reviewed_layer(run):
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


def test_decisions_of_another_reviewer_show_on_the_next_load(run):
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
def test_what_makes_no_sense_is_refused_and_nothing_is_stored(run, decision):
    good = {"image_id": "id-1.png", "action": "accept"}
    with serving(run) as client:
        answer = client.post("/api/decisions", {"decisions": [good, decision]})
        assert answer.status in (400, 422)
        assert answer.json["error"]
    assert ReviewLog(run).decisions() == []


def test_a_message_whose_answer_was_lost_is_not_done_twice(run):
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
def test_what_is_no_sound_json_is_refused(client, body):
    for path in ("/api/decisions", "/api/undo", "/api/try/segment"):
        refused = client.post(path, body)
        assert refused.status == 400
        assert refused.json["error"]


def test_a_page_of_another_run_gets_and_changes_nothing(run, tmp_path):
    other = make_run(tmp_path / "other", OTHER_SCENES)
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


def test_what_cannot_be_stored_is_worth_another_try(run):
    with serving(run) as client:
        place = Path(run.folder.uri, "reviewed")
        place.write_text("in the way of the folder")
        refused = client.decide(image_id="id-0.png", action="accept")
        assert refused.status == 503
        assert "reviewed" in refused.json["error"]
        assert client.get("/api/image", id="id-0.png").json["decisions"] == []
        place.unlink()
        assert client.decide(image_id="id-0.png", action="accept").status == 200


def test_the_order_may_come_from_a_comparison(run, tmp_path):
    other = make_run(tmp_path / "other", OTHER_SCENES, RunSpec(shard_size=2))
    file = compare(run, other).file
    with serving(run) as client:
        (order,) = client.get("/api/run").json["compared"]
        items = client.shown(order=order)
        doubt = [item["review_priority"] for item in items]
        assert doubt == sorted(doubt, reverse=True)
        agreed = {item["path"]: item["agreement"] for item in items}
        assert agreed["0.png"] == 1.0
        assert 0 < agreed["1.png"] < 1
        assert agreed["3.png"] is None, "the other run has not got it"
        assert "agreement" not in client.shown()[0]
        image = client.get("/api/image", id="id-1.png", order=order).json
        ious = read_comparison(run, file)["id-1.png"]
        assert {one["label"]: one["agreement"] for one in image["segments"]} == pytest.approx(ious)
        (card,) = (item for item in items if item["path"] == "1.png")
        for name in ("agreement", "review_priority"):
            assert image[name] == card[name]
        alone = client.get("/api/image", id="id-3.png", order=order).json
        assert {one["agreement"] for one in alone["segments"]} == {None}
        found = client.shown(order=order, label="dog", state="todo")
        dogs = {item["image_id"] for item in client.shown(label="dog")}
        assert [one["image_id"] for one in found] == [
            item["image_id"] for item in items if item["image_id"] in dogs
        ]
        assert [one["path"] for one in client.shown(order="path")] == sorted(agreed)
        for wrong in ("compare:../../../etc/passwd", "compare:nothing", "size", "x" * 201):
            refused = client.get("/api/view", order=wrong)
            assert refused.status in (400, 422)
            assert "order" in refused.json["error"] or "comparison" in refused.json["error"]
        Path(run.folder.uri, file).write_bytes(b"PAR1")
        client.get("/api/run")
        assert file in client.get("/api/view", order=order).json["error"]
        assert client.get("/api/view").status == 200


def test_lists_stand_while_one_decides_and_are_told_to_be_forgotten(run):
    with serving(run) as client:
        view = client.get("/api/view", state="todo").json
        before = client.get("/api/items", view=view["view"], start=0, limit=9).json["items"]
        client.decide(image_id=before[0]["image_id"], action="accept")
        after = client.get("/api/items", view=view["view"], start=0, limit=9).json["items"]
        assert [item["image_id"] for item in after] == [item["image_id"] for item in before]
        assert after[0]["marks"] == ["done", "begun"]
        assert client.get("/api/view", state="todo").json["total"] == view["total"] - 1
        assert client.get("/api/items", view="unknown", start=0, limit=9).status == 410
        assert client.get("/api/items", view=view["view"], start=-1, limit=9).status == 400


def test_an_unfinished_run_shows_what_there_is(tmp_path):
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(0, 1, 2, 3)))
    with serving(run) as client:
        assert client.get("/api/run").json["num_left"] == len(odd_scenes())
        assert client.shown() == []


def test_components_are_decided_one_by_one(tmp_path):
    spec = RunSpec(masks={"segments": "components"})
    run = make_run(tmp_path, [Scene("a.png", label_map(1)), Scene("b.png", label_map(2))], spec)
    with serving(run) as client:
        image = client.get("/api/image", id="id-a.png").json
        segments = image["segments"]
        assert len(segments) > len({one["label"] for one in segments})
        numbers = picture(client.get("/segments", id="id-a.png").body).astype(int) @ [1, 256, 0]
        (rows,) = [
            [row for row in shard.segments() if row["image_id"] == "id-a.png"]
            for shard in RunReader(run).shards()
        ]
        for place, row in enumerate(rows, start=1):
            mask = decode(row["rle_counts"], (row["height"], row["width"])) > 0
            np.testing.assert_array_equal(numbers == place, mask)
        for segment in segments:
            key = {name: segment[name] for name in ("label", "segment_index")}
            answer = client.decide(image_id="id-a.png", **key, action="accept").json
        assert "done" in answer["images"][0]["marks"]


def test_a_run_and_its_images_in_a_bucket(tmp_path, s3_folder):
    import s3fs

    scenes = [Scene("a#1.png", label_map(1)), Scene("sub/ü b.png", label_map(2))]
    local = make_run(tmp_path, scenes)
    s3fs.S3FileSystem().put(str(tmp_path / "photos"), f"{s3_folder}/photos", recursive=True)
    run = copied_to(f"{s3_folder}/run", local, f"{s3_folder}/photos")
    with serving(RunFolder.open(f"{s3_folder}/run")) as client:
        for item in client.shown():
            photo = client.get("/photo", id=item["image_id"])
            assert (photo.status, picture(photo.body).shape) == (200, (40, 56, 3))
            assert client.decide(image_id=item["image_id"], action="accept").status == 200
    assert len(ReviewLog(run).current()) == 2


def copied_to(uri: str, local: RunFolder, photos: str) -> RunFolder:
    """Commit a run's rows to another place, as if its images had been there."""
    from pipeline.run.identity import RunIdentity

    def moved(record):
        return record.model_copy(update={"uri": f"{photos}/{record.path}"})

    refs: list[ImageRef] = [moved(ref) for ref in to_records("manifest", local.manifest())]
    config = local.info.job().model_copy(update={"out": uri, "images": photos})
    manifest = to_table("manifest", refs)
    run = RunFolder.create_or_resume(uri, RunIdentity(config, {}), manifest)
    for marker in local.done().values():
        tables = {
            name: tuple(to_records(name, local.shard_table(marker, name)))
            for name in ("images", "scores", "annotations")
        }
        tables["images"] = tuple(moved(image) for image in tables["images"])
        run.commit(marker.shard, "test", ShardRows(**tables), marker.tally)
    return run


def test_answers_do_not_wait_for_the_browser_to_acknowledge_their_headers(run):
    """asyncio sets TCP_NODELAY on sockets that say that they are TCP, and accepted ones inherit it.

    Without it every answer took 40 ms longer.
    """
    listening = listen(run, Address(port=0))
    with listening.socket as waiting:
        assert waiting.proto == socket.IPPROTO_TCP


# ---- who may talk to it


HOSTILE_PATHS = [
    "/static/../app.py",
    "/static/..%2Fapp.py",
    "/static/%2e%2e/%2e%2e/app.py",
    "/static/....//app.py",
    "/static//etc/passwd",
    "/static/%00",
    "/../../../../etc/passwd",
    "/etc/passwd",
    "/photo?id=../../../etc/passwd",
    "/photo?id=/etc/passwd",
    "/photo?id=file:///etc/passwd",
    "/photo?id=%00",
    "/photo",
    "/api/image?id=" + quote("photos/plain.jpg"),
    "/api/try/photo?upload=../../etc/passwd",
    "/run.yaml",
    "/static/",
    "/static",
    "/photo/",
]


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_no_path_leads_to_a_file(client, path):
    answer = client.request("GET", path)
    assert answer.status in (307, 404, 422), answer.body[:200]
    assert b"root:" not in answer.body
    assert b"import" not in answer.body


def test_every_answer_tells_the_browser_to_trust_nothing_else(client):
    paths = ["/", "/try", "/static/app.css", "/static/review.js", "/api/run", "/nothing"]
    for path in paths:
        headers = client.request("GET", path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    pages = [client.request("GET", path).body for path in ("/", "/try")]
    for page in pages:
        assert page.count(b"<script") == page.count(b'src="/static/') == 1
        assert b"style=" not in page
        assert b"http" not in page


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "0.0.0.0", "1.2.3.4"],
)
def test_a_foreign_host_name_is_refused(client, host):
    answer = client.request("GET", "/api/run", headers={"Host": host})
    assert answer.status in (400, 421)
    assert b"labels" not in answer.body


def test_names_of_this_machine_are_let_in(client):
    for host in (f"127.0.0.1:{client.port}", f"localhost:{client.port}", f"[::1]:{client.port}"):
        assert client.request("GET", "/api/run", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Ovseg": "0"},
        {"X-Ovseg": "1", "Origin": "http://evil.example"},
        {"X-Ovseg": "1", "Origin": "null"},
        {"X-Ovseg": "1", "Origin": "http://127.0.0.1:1"},
        {"X-Ovseg": "1", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_only_the_own_page_may_change_something(run, headers):
    with serving(run) as client:
        body = b'{"decisions": [{"image_id": "id-0.png", "action": "accept"}]}'
        assert client.request("POST", "/api/decisions", body, headers).status == 403
        own = {"X-Ovseg": "1", "Origin": client.base, "Sec-Fetch-Site": "same-origin"}
        for method, path in (("PUT", "/api/decisions"), ("DELETE", "/"), ("POST", "/")):
            assert client.request(method, path, b"", own).status == 405
        assert ReviewLog(run).decisions() == []
        assert client.request("POST", "/api/decisions", body, own).status == 200
        behind_a_proxy = own | {"Origin": client.base.replace("http:", "https:")}
        assert client.request("POST", "/api/undo", b"{}", behind_a_proxy).status == 200


def test_elsewhere_a_token_is_asked_for_and_becomes_a_cookie(run):
    with serving(run, Address("0.0.0.0", 0)) as client:
        token = client.url.partition("token=")[2]
        assert len(token) >= 43
        for path in ("/", "/api/run", "/photo?id=id-0.png", "/static/app.css"):
            assert client.get(path).status == 403
        for wrong in ("", token[:-1], token[::-1], token + "A", "%ff", "ü"):
            assert client.request("GET", f"/?token={quote(wrong, safe='%')}").status == 403
            headers = {"Cookie": f"ovseg-{client.port}={quote(wrong)}"}
            assert client.request("GET", "/", headers=headers).status == 403
        entered = client.request("GET", f"/?token={token}&x=1")
        assert (entered.status, entered.headers["location"]) == (303, "/?x=1")
        away = client.request("GET", f"//evil.example/?token={token}")
        assert (away.status, away.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        known = Client(client.url, {"Cookie": cookie.partition(";")[0]})
        assert known.get("/api/run").status == 200
        assert known.decide(image_id="id-0.png", action="accept").status == 200
        assert client.decide(image_id="id-1.png", action="accept").status == 403
        assert known.request("GET", "/", headers={"Host": "evil.example"}).status == 421
        assert known.request("GET", "/", headers={"Host": "10.0.0.7:1"}).status == 403


def test_what_is_sent_is_capped_before_it_is_read(client):
    def sent(path, size):
        headers = {"X-Ovseg": "1", "Content-Length": str(size)}
        return client.request("POST", path, b"", headers)

    assert sent("/api/try/upload", MAX_UPLOAD_BYTES + 1).status == 413
    assert sent("/api/decisions", (1 << 20) + 1).status == 413
    endless = (b"x" * (1 << 20) for _ in range(3))
    assert client.request("POST", "/api/decisions", endless, {"X-Ovseg": "1"}).status == 413
    assert client.post("/api/decisions", b"{").status == 400


def test_a_browser_that_leaves_in_the_middle_is_no_error_of_the_server(run, caplog):
    with serving(run) as client:
        head = f"POST /api/try/upload HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nX-Ovseg: 1\r\n"
        with socket.create_connection(("127.0.0.1", client.port)) as leaving:
            leaving.sendall(f"{head}Content-Length: 1000\r\n\r\nsome of it".encode())
            leaving.shutdown(socket.SHUT_WR)
            assert leaving.recv(1000) == b""
        assert client.get("/api/run").status == 200
    assert caplog.text == ""


def test_an_upload_must_be_an_image_of_a_sensible_size(client):
    def file(size, kind="PNG"):
        buffer = io.BytesIO()
        Image.new("1", size).save(buffer, kind)
        return buffer.getvalue()

    bomb = client.post("/api/try/upload", file((9000, 9000)))
    assert (bomb.status, bomb.json["code"]) == (422, "too_large")
    assert client.post("/api/try/upload", b"#!/bin/sh").json["code"] == "not_an_image"
    assert client.post("/api/try/upload", b"").json["code"] == "empty_file"
    noise = io.BytesIO()
    Image.effect_noise((90, 60), 50).save(noise, "PNG")
    assert client.post("/api/try/upload", noise.getvalue()[:900]).json["code"] == "truncated"
    taken = client.post("/api/try/upload", file((90, 60))).json
    assert (taken["height"], taken["width"]) == (60, 90)
    shown = client.get("/api/try/photo", upload=taken["upload"])
    assert picture(shown.body).shape[:2] == (60, 90)


def test_places_are_shown_without_credentials(tmp_path, run):
    uri = "https://user:secret@host/photo.jpg?X-Amz-Signature=secret"
    rows = [Scene("a.png", label_map(1))]
    made = make_run(tmp_path / "signed", rows, RunSpec(unfinished=(0,)))
    (shard,) = made.shards()
    (marker,) = (one for one in run.done().values() if one.shard == 0)
    image = next(iter(to_records("images", run.shard_table(marker, "images"))))
    image = image.model_copy(
        update={
            "image_id": shard.refs[0].image_id,
            "status": "error",
            "error_code": ErrorCode.STORAGE_ERROR,
            "error_message": f"cannot read {uri}",
            "uri": uri,
        }
    )
    failed = ShardRows(images=(image,), scores=(), annotations=())
    made.commit(0, "test", failed, marker.tally.model_copy(update={"num_images": 1}))
    with serving(made) as client:
        for answer in (
            client.get("/api/image", id=image.image_id),
            client.get("/segments", id=image.image_id),
            client.get("/photo", id=image.image_id),
        ):
            assert b"secret" not in answer.body
