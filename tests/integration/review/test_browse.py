"""The review server: lists, filters, orders and pictures, over a real socket."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.corrections.log import ReviewLog
from pipeline.evaluation.compare import compare, read_comparison
from pipeline.run.folder import RunFolder
from schemas.records import ImageRef, ShardRows
from schemas.tables import to_records, to_table
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run, odd_scenes
from tests.helpers.review_server import read_picture, serving

OTHER_SCENES = [Scene(f"{n}.png", label_map(n if n == 0 else n + 20)) for n in range(3)]
"""The scenes of `run` but for the last image; the first has the same masks."""


def test_list_shows_every_annotated_image_worst_first(client, read_run):
    items = client.shown()
    priority = [item["review_priority"] for item in items]
    assert priority == sorted(priority, reverse=True)
    paths = [item["path"] for item in items]
    assert sorted(paths) == sorted(s.path for s in odd_scenes() if s.label_map is not None)
    facts = client.get("/api/run").json
    assert facts["progress"] == {"total": len(paths), "done": 0, "begun": 0, "skipped": 0}
    assert [label["name"] for label in facts["labels"]] == list(LABELS)
    assert facts["errors"] == {"truncated": 1}


def test_filter_by_label_score_error_code_and_path(client, read_run):
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


def test_pictures_show_image_and_masks_to_the_pixel(client, read_run):
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
        assert read_picture(answers["photo"].body).shape == (*expected.shape, 3)
        tint = read_picture(answers["tint"].body)
        np.testing.assert_array_equal(tint[..., 3] > 0, expected > 0)
        numbers = read_picture(answers["segments"].body).astype(int) @ [1, 256, 0]
        segments = client.get("/api/image", id=item["image_id"]).json["segments"]
        labels = np.array([0, *(one["category_id"] for one in segments)])
        np.testing.assert_array_equal(labels[numbers], expected)
    (failed,) = client.shown(failed="any")
    assert client.get("/segments", id=failed["image_id"]).json["code"] == "truncated"


def test_photo_has_the_frame_of_its_masks(tmp_path):
    run = make_run(tmp_path, [Scene("turned.png", label_map(1)), Scene("b.png", label_map(2))])
    file = tmp_path / "photos" / "turned.png"
    with Image.open(file) as upright:
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera lay on its side; viewers turn it clockwise
        expected = np.array(upright)
        upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    with serving(run) as client:
        photo = read_picture(client.get("/photo", id="id-turned.png", size="large").body)
    assert photo.shape == expected.shape
    assert np.abs(photo.astype(int) - expected).mean() < 8


def test_missing_image_is_reported(run):
    (Path(run.folder.uri).parent / "photos" / "1.png").unlink()
    with serving(run) as client:
        gone = client.get("/photo", id="id-1.png")
        assert (gone.status, gone.json["code"]) == (422, "not_found")
        assert client.get("/tint", id="id-1.png").status == 200


def test_replaced_image_is_not_shown_under_old_masks(run):
    file = Path(run.folder.uri).parent / "photos" / "1.png"
    Image.new("RGB", (80, 50)).save(file)
    with serving(run) as client:
        replaced = client.get("/photo", id="id-1.png", size="large")
        assert replaced.status == 422
        assert "is 80 x 50 pixels now and was 56 x 40" in replaced.json["error"]


def test_order_by_comparison(run, tmp_path):
    other = make_run(tmp_path / "other", OTHER_SCENES, RunSpec(shard_size=2))
    file = compare(run, other).file
    with serving(run) as client:
        (order,) = client.get("/api/run").json["compared"]
        items = client.shown(order=order)
        priority = [item["review_priority"] for item in items]
        assert priority == sorted(priority, reverse=True)
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


def test_list_stays_the_same_while_images_are_decided(run):
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


def test_unfinished_run_is_shown(tmp_path):
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(0, 1, 2, 3)))
    with serving(run) as client:
        assert client.get("/api/run").json["num_left"] == len(odd_scenes())
        assert client.shown() == []


def test_run_and_images_in_a_bucket(tmp_path, s3_folder):
    import s3fs

    scenes = [Scene("a#1.png", label_map(1)), Scene("sub/ü b.png", label_map(2))]
    local = make_run(tmp_path, scenes)
    s3fs.S3FileSystem().put(str(tmp_path / "photos"), f"{s3_folder}/photos", recursive=True)
    run = copied_to(f"{s3_folder}/run", local, f"{s3_folder}/photos")
    with serving(RunFolder.open(f"{s3_folder}/run")) as client:
        for item in client.shown():
            photo = client.get("/photo", id=item["image_id"])
            assert (photo.status, read_picture(photo.body).shape) == (200, (40, 56, 3))
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
