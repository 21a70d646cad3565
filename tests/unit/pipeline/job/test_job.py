"""job.plan and job.run in one process: what is done, what is left, what is refused."""

import io
import json
import os
import shutil
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.annotate.build import Built
from pipeline.job import job
from pipeline.job.progress import LineProgress, Progress
from pipeline.run.folder import RunFolder
from pipeline.storage import waiting
from schemas.config import ClipConfig, ImageConfig, NamedOptions
from schemas.errors import (
    CollectionError,
    ConfigError,
    ErrorCode,
    ResourceError,
    RunFolderError,
    UnreachableHubError,
    WeightsError,
)
from schemas.vocabulary import Vocabulary
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    ColourSegmenter,
    SegmenterFaults,
    colour_config,
    paint,
    paint_collection,
    table_rows,
)


@dataclass(frozen=True)
class BuildNothing:
    """Fails if it is called: proof that a job did not load a model."""

    error: type[Exception] = AssertionError

    def __call__(self, config, device):
        raise self.error("a model was wanted")


@dataclass(frozen=True)
class BuildWithOtherWeights(BuildColourSegmenter):
    def __call__(self, config, device):
        return Built(super().__call__(config, device).segmenter, {"colours": "1" * 64})


@dataclass(frozen=True)
class BuildAndLoseImages(BuildColourSegmenter):
    def __call__(self, config, device):
        shutil.rmtree(config.images)
        return super().__call__(config, device)


@dataclass(frozen=True)
class BuildAndListen(BuildColourSegmenter):
    """Keeps what the process says that it waits for, in a file."""

    heard: str = ""

    def __call__(self, config, device):
        Path(self.heard).write_text(waiting.current_line())
        return super().__call__(config, device)


class ListeningSegmenter(ColourSegmenter):
    """Keeps what the process says that it waits for while words are embedded, in a file."""

    heard = ""

    def text_matrix(self, vocabulary):
        Path(self.heard).write_text(waiting.current_line())
        return super().text_matrix(vocabulary)


@dataclass(frozen=True)
class BuildListening(BuildColourSegmenter):
    heard: str = ""

    def __call__(self, config, device):
        segmenter = ListeningSegmenter(self.faults)
        segmenter.heard = self.heard
        return replace(super().__call__(config, device), segmenter=segmenter)


@pytest.fixture
def config(tmp_path):
    return colour_config(paint_collection(tmp_path / "images", 10), tmp_path / "run")


def run(config, build=BuildColourSegmenter(), retry=()):  # noqa: B008 - frozen
    stream = io.StringIO()
    return job.run(config, LineProgress(stream), build, retry), stream.getvalue()


def test_run_writes_every_image_and_reports_it(config):
    report, shown = run(config)
    assert report.exit_code == 0
    assert (report.num_images, report.num_done, report.num_new) == (10, 10, 10)
    assert report.num_segments == len(table_rows(config.out)["annotations"]) > 0
    assert report.images_per_s > 0
    assert shown.splitlines()[0] == "0/10 images"
    assert shown.splitlines()[-1].startswith("10/10 images")
    assert report.summary().startswith(f"10 of 10 images done, {report.num_segments} masks; ")
    assert [row["path"] for row in table_rows(config.out)["images"]] == [
        f"{index:03d}.png" for index in range(10)
    ]


class _Watched(Progress):
    """Keeps the number of done images after each change."""

    def start(self, total, resumed, batch_size=1):
        super().start(total, resumed)
        self.seen = []

    def tick(self):
        self.seen.append(self.done)


def test_images_of_a_job_in_this_process_count_one_by_one(config):
    progress = _Watched()
    job.run(config, progress, BuildColourSegmenter())
    assert sorted(set(progress.seen)) == list(range(1, 11))
    assert progress.seen == sorted(progress.seen)


def test_names_that_are_not_utf8_have_rows(config, tmp_path):
    good, gone = (
        Path(os.fsdecode(bytes(tmp_path) + b"/images/" + name))
        for name in (b"\xe9.png", b"\xe8.png")
    )
    shutil.copy(tmp_path / "images" / "000.png", good)
    gone.symlink_to(good)
    job.plan(config).begin({"colours": "0" * 64})
    gone.unlink()
    gone.symlink_to(tmp_path)  # a folder now; the message names it
    report, _ = run(config)
    assert report.exit_code == 3
    assert report.errors == {"not_an_image": 1}
    rows = {row["path"]: row for row in table_rows(config.out)["images"]}
    assert len(rows) == 12
    assert rows["%E9.png"]["status"] == "ok"
    assert rows["%E8.png"]["error_message"].isprintable()


@pytest.mark.parametrize(
    ("name", "option", "key"),
    [
        (
            "clip_diy",
            {"objectness": {"name": "external", "options": {"folder": "{}"}}},
            "objectness.options.folder",
        ),
        (
            "sclip",
            {"proposals": {"name": "folder", "options": {"folder": "{}"}}},
            "proposals.options.folder",
        ),
    ],
)
def test_changed_files_of_an_option_are_another_run(config, tmp_path, name, option, key):
    maps = tmp_path / "maps"
    method = {"name": name, "options": json.loads(json.dumps(option).replace("{}", str(maps)))}
    config = config.model_copy(update={"method": NamedOptions.model_validate(method)})
    with pytest.raises(ConfigError, match=rf"method\.options\.{key}: no folder at {maps}"):
        job.plan(config)
    paint_collection(maps / "sub", 2)
    run(config)
    assert run(config)[0].num_new == 0
    status = (maps / "sub" / "001.png").stat()
    (maps / "sub" / "001.png").write_bytes(b"x" * status.st_size)
    with pytest.raises(RunFolderError, match=rf'{key}\.files was "2 files, .*", now "2 files, '):
        job.plan(config)


def test_plan_writes_nothing(config, tmp_path):
    planned = job.plan(config)
    assert (planned.num_images, planned.num_shards, planned.num_shards_left) == (10, 3, 3)
    assert planned.num_images_done == 0
    assert not (tmp_path / "run").exists()


def test_run_of_a_finished_job_does_nothing(config):
    first, _ = run(config)
    report, shown = run(config, BuildNothing())
    assert report.exit_code == 0
    assert (report.num_done, report.num_new) == (10, 0)
    assert report.num_segments == first.num_segments
    assert "nothing was left to do" in report.summary()
    assert shown == ""


def test_resume_does_only_what_is_left(config, tmp_path):
    run(config)
    whole = table_rows(config.out)
    (tmp_path / "run" / "done" / "00001.json").unlink()
    planned = job.plan(config)
    assert (planned.num_shards_left, planned.num_images_done) == (1, 6)
    report, shown = run(config)
    assert (report.num_new, report.num_done, report.exit_code) == (4, 10, 0)
    assert shown.startswith("6/10 images\n")
    assert table_rows(config.out) == whole


def test_a_run_keeps_its_images_and_says_what_became_of_the_collection(config, tmp_path):
    run(config)
    images = tmp_path / "images"
    (images / "000.png").rename(images / "new.png")
    (images / "001.png").write_bytes((images / "001.png").read_bytes() + b"0")
    planned = job.plan(config)
    assert (planned.num_images, planned.num_shards_left, planned.images) == (10, 0, None)
    report, _ = run(config, BuildNothing())
    assert report.exit_code == 0
    assert (
        "the collection has changed since the run listed it: 1 new (for example new.png), 1 "
        "changed (for example 001.png), 1 vanished (for example 000.png)"
    ) in report.summary()


BROKEN = [ErrorCode.NOT_AN_IMAGE, ErrorCode.TRUNCATED]


def test_a_mended_image_counts_although_another_of_its_shard_is_gone(tmp_path):
    images = paint_collection(tmp_path / "images", 4)
    whole = (images / "001.png").read_bytes()
    (images / "001.png").write_bytes(whole[: len(whole) // 2])
    (images / "002.png").write_text("no image")
    config = colour_config(images, tmp_path / "run")
    assert run(config)[0].errors == {"not_an_image": 1, "truncated": 1}
    (images / "001.png").write_bytes(whole)
    (images / "002.png").unlink()
    report, shown = run(config, retry=BROKEN)
    assert report.errors == {"not_found": 1}
    assert "not_found 1" in shown
    lines = report.summary().splitlines()
    assert (
        "the collection has changed since the run listed it: 1 vanished (for example 002.png); "
        "the same command with --update annotates what is new or changed"
    ) in lines
    assert lines[-1] == (
        "to be tried again by the same command: 1 image (not_found 1); what is gone for good "
        "leaves the run with --update"
    )
    fine = [row["path"] for row in table_rows(config.out)["images"] if row["status"] == "ok"]
    assert fine == ["000.png", "001.png", "003.png"]
    fresh = colour_config(images, tmp_path / "fresh")
    run(fresh)
    assert run(updated(config), BuildColourSegmenter())[0].errors == {}
    assert by_path(config.out)["annotations"] == by_path(fresh.out)["annotations"]


def test_an_image_tried_again_after_it_was_mended_has_not_changed_since(tmp_path):
    images = paint_collection(tmp_path / "images", 4)
    whole = (images / "001.png").read_bytes()
    (images / "001.png").write_bytes(whole[: len(whole) // 2])
    config = colour_config(images, tmp_path / "run")
    run(config)
    (images / "001.png").write_bytes(whole)
    assert "1 changed (for example 001.png)" in run(config)[0].summary()
    assert "has changed" not in run(config, retry=BROKEN)[0].summary()
    assert "has changed" not in run(config)[0].summary()
    report, _ = run(updated(config), BuildNothing())
    assert "the run was updated: no image is new, changed or vanished" in report.summary()

    Image.open(images / "003.png").rotate(90, expand=True).save(images / "001.png")
    assert "1 changed (for example 001.png)" in run(config)[0].summary()
    run(updated(config), BuildColourSegmenter())
    assert "has changed" not in run(config)[0].summary()
    (images / "001.png").write_bytes(whole)
    assert "1 changed (for example 001.png)" in run(config)[0].summary()


def test_images_that_fail_as_before_are_not_written_again(tmp_path):
    images = paint_collection(tmp_path / "images", 4)
    whole = (images / "001.png").read_bytes()
    for name in ("001.png", "002.png"):
        (images / name).write_bytes(whole[: len(whole) // 2])
    config = colour_config(images, tmp_path / "run")
    run(config)
    before = job.plan(config).done
    report, _ = run(config, retry=BROKEN)
    assert report.errors == {"truncated": 2}
    assert job.plan(config).done == before


def test_a_changed_image_that_stayed_as_it_was_in_the_run_is_still_named(tmp_path):
    images = paint_collection(tmp_path / "images", 4)
    whole = (images / "001.png").read_bytes()
    (images / "001.png").write_bytes(whole[: len(whole) // 2])
    config = colour_config(images, tmp_path / "run")
    run(config)
    (images / "001.png").write_bytes(whole)
    paint(images / "002.png", 78)
    report, _ = run(config, retry=BROKEN)
    assert "1 changed (for example 002.png)" in report.summary()


def test_what_a_limit_leaves_out_is_not_new(config, tmp_path):
    limited = config.model_copy(update={"image": ImageConfig(limit=4)})
    run(limited)
    assert job.plan(limited).changes.describe() == ""
    (tmp_path / "images" / "0000.png").write_bytes((tmp_path / "images" / "001.png").read_bytes())
    (tmp_path / "images" / "003.png").unlink()
    assert job.plan(limited).changes.describe() == (
        "1 new (for example 0000.png), 1 vanished (for example 003.png)"
    )


def test_a_collection_that_cannot_be_listed_again_stops_no_run(config, tmp_path, caplog):
    run(config)
    shutil.rmtree(config.images)
    report, _ = run(config, BuildNothing())
    assert report.exit_code == 0
    assert report.summary().endswith("nothing was left to do")
    assert "cannot be listed again, so new and changed images go unnoticed" in caplog.text


def test_resume_on_another_machine_is_the_same_run(config, tmp_path):
    run(config)
    (tmp_path / "run" / "done" / "00002.json").unlink()
    other = config.model_copy(update={"run": config.run.model_copy(update={"batch_size": 3})})
    assert run(other)[0].exit_code == 0


@pytest.mark.parametrize("out", ["images", "images/000.png"])
def test_output_folder_with_other_files_is_refused_by_the_plan(config, tmp_path, out):
    other = config.model_copy(update={"out": str(tmp_path / out)})
    with pytest.raises(RunFolderError, match="another output folder"):
        job.plan(other)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": ["red", "green"]}, "the words were: red"),
        ({"masks": {"min_area_px": 9}}, "masks.min_area_px"),
        ({"shard_size": 5}, "shard_size"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(config, change, named):
    run(config)
    other = colour_config(config.images, config.out, **change)
    with pytest.raises(RunFolderError, match=named):
        run(other, BuildNothing())


def test_other_weights_in_the_same_folder_are_refused(config, tmp_path):
    run(config)
    (tmp_path / "run" / "done" / "00001.json").unlink()
    with pytest.raises(RunFolderError, match="weights"):
        run(config, BuildWithOtherWeights())


@pytest.mark.parametrize(("share", "exit_code"), [(0.0, 3), (0.19, 3), (0.2, 0)])
def test_max_error_share_decides_the_exit_code(tmp_path, share, exit_code):
    images = paint_collection(tmp_path / "images", 10)
    for index in (2, 7):
        (images / f"{index:03d}.png").write_bytes(b"no image")
    config = colour_config(images, tmp_path / "run", run={"max_error_share": share})
    report, _ = run(config)
    assert (report.exit_code, report.num_done) == (exit_code, 10)
    assert report.errors == {"not_an_image": 2}
    assert "2 images failed (20 %" in report.summary()
    # A run that finds all done comes to the same verdict.
    assert run(config, BuildNothing())[0].exit_code == exit_code


def test_missing_weights_end_the_job_before_it_writes(config, tmp_path):
    with pytest.raises(WeightsError, match="wanted"):
        run(config, BuildNothing(WeightsError))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"method": "clip_diy_"}, ConfigError),
        ({"method": {"name": "clip_diy", "options": {"no_such": 1}}}, ConfigError),
        ({"image": {"suffixes": [".none"]}}, CollectionError),
    ],
)
def test_wrong_config_is_refused_by_the_plan(config, change, error):
    with pytest.raises(error):
        job.plan(colour_config(config.images, config.out, **change))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_refused(config):
    wanting = colour_config(config.images, config.out, run={"device": "cuda"})
    with pytest.raises(ResourceError, match=r"run\.device"):
        run(wanting, BuildNothing())


def test_interrupted_job_is_resumed_later(config, tmp_path, caplog):
    caplog.set_level("INFO")
    one_by_one = config.model_copy(update={"run": config.run.model_copy(update={"batch_size": 1})})
    report, _ = run(one_by_one, BuildColourSegmenter(SegmenterFaults(interrupt_on="006")))
    assert "of shards that are not finished will be done again" in caplog.text
    assert (report.exit_code, report.num_done, report.interrupted) == (130, 4, True)
    assert "the same command" in report.summary()
    again, _ = run(config)
    assert (again.exit_code, again.num_new) == (0, 6)
    plain = colour_config(config.images, tmp_path / "plain")
    run(plain)
    assert table_rows(config.out) == table_rows(plain.out)


def test_a_second_driver_goes_against_the_direction_of_the_first(config, monkeypatch):
    config = config.model_copy(update={"shard_size": 2})
    planned = job.plan(config)
    planned.begin(BuildColourSegmenter()(config, torch.device("cpu")).weights)
    monkeypatch.setattr("random.randrange", lambda stop: stop // 2)
    run(config)
    markers = Path(config.out, "done").glob("*.json")
    order = [int(marker.stem) for marker in sorted(markers, key=lambda one: one.stat().st_mtime_ns)]
    assert order == [2, 1, 0, 4, 3]


def test_a_job_that_can_read_no_image_says_why(config):
    report, _ = run(config, BuildAndLoseImages())
    assert report.exit_code == 3
    assert "not_found" in report.stop_reason
    assert f"for example: cannot read {config.images}" in report.stop_reason


def test_networks_that_take_long_to_load_are_said(config, tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "FIRST_S", 0.0)
    run(config, BuildAndListen(heard=str(tmp_path / "heard")))
    assert "waiting: load the networks since" in (tmp_path / "heard").read_text()


def test_words_that_take_long_to_embed_are_said_apart_from_the_networks(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(waiting, "FIRST_S", 0.0)
    labels = [{"name": "red", "synonyms": ["crimson"]}, "green"]
    words = Vocabulary.model_validate({"labels": labels, "background": ["wall", "sky"]})
    run(
        config.model_copy(update={"vocabulary": words}),
        BuildListening(heard=str(tmp_path / "heard")),
    )
    heard = (tmp_path / "heard").read_text()
    assert heard.startswith("waiting: embed the 5 phrases of the vocabulary since ")
    assert "networks" not in heard


@pytest.mark.parametrize("local", [True, False])
def test_a_hub_that_is_away_is_said_before_anything_is_started(
    config, tmp_path, monkeypatch, local
):
    def no_name(*_):
        raise OSError("Name or service not known")

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # an earlier test may have left it so
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run_config = config.run.model_copy(update={"local": local})
    published = config.model_copy(
        update={"run": run_config, "clip": ClipConfig(), "method": NamedOptions(name="clip_diy")}
    )
    with pytest.raises(UnreachableHubError, match=r"huggingface\.co cannot be reached") as caught:
        job.run(published)
    message = str(caught.value)
    networks = ("CLIP ViT-B-32 laion2b_s34b_b79k", "ViT vit_small_patch8_224.dino", "FOUND's head")
    assert all(network in message for network in networks)
    assert "--dry-run" in message
    assert "docs/weights.md#without-a-network" in message
    assert len(message) < 400
    assert not Path(config.out).exists()


def updated(config, **image):
    run = config.run.model_copy(update={"update": True})
    return config.model_copy(update={"run": run, "image": config.image.model_copy(update=image)})


def test_an_update_annotates_what_is_new_or_changed_and_nothing_else(config, tmp_path):
    run(config)
    images = tmp_path / "images"
    paint(images / "new.png", 77)
    paint(images / "001.png", 78)
    (images / "000.png").unlink()
    planned = job.plan(updated(config))
    assert (planned.num_images, planned.num_shards, planned.num_shards_left) == (10, 4, 1)
    assert planned.num_images_done == 8
    assert job.plan(config).num_shards_left == 0, "a plan writes nothing"
    report, shown = run(updated(config))
    assert (report.exit_code, report.num_new, report.num_done, report.num_images) == (0, 2, 10, 10)
    assert shown.startswith("8/10 images\n")
    assert (
        "the run was updated: 1 new (for example new.png), 1 changed (for example 001.png), "
        "1 vanished (for example 000.png)"
    ) in report.summary()
    fresh = colour_config(images, tmp_path / "fresh")
    run(fresh)
    assert by_path(config.out) == by_path(fresh.out)
    again, _ = run(updated(config), BuildNothing())
    assert "the run was updated: no image is new, changed or vanished" in again.summary()
    assert RunFolder.open(config.out).generations.number == 2
    assert "has changed" not in run(config, BuildNothing())[0].summary()


def by_path(out):
    """Return every committed row of a run, images in the order of their paths."""
    rows = table_rows(out)
    path_of = {row["image_id"]: row["path"] for row in rows["images"]}
    return {name: sorted(rows[name], key=lambda row: path_of[row["image_id"]]) for name in rows}


def test_an_update_that_only_loses_images_loads_no_model(config, tmp_path):
    run(config)
    (tmp_path / "images" / "003.png").unlink()
    report, _ = run(updated(config), BuildNothing())
    assert (report.exit_code, report.num_done, report.num_images) == (0, 9, 9)
    assert "the run was updated: 1 vanished" in report.summary()
    assert len(table_rows(config.out)["images"]) == 9
    assert len(table_rows(f"{config.out}@1")["images"]) == 10


def test_a_pilot_grows_into_the_whole_collection(config, tmp_path):
    pilot = config.model_copy(update={"image": ImageConfig(limit=3)})
    run(pilot)
    with pytest.raises(RunFolderError, match=r"the first 3 images .*now all images.*--update this"):
        run(config, BuildNothing())
    report, _ = run(updated(config, limit=0))
    assert (report.exit_code, report.num_new, report.num_done) == (0, 7, 10)
    assert run(config, BuildNothing())[0].exit_code == 0
    for limit in (3, 9):
        with pytest.raises(RunFolderError, match=f"takes all images .*first {limit} images"):
            run(updated(config, limit=limit), BuildNothing())
    fresh = colour_config(config.images, tmp_path / "fresh")
    run(fresh)
    assert by_path(config.out) == by_path(fresh.out)


def test_a_limit_that_no_image_was_beyond_can_be_lifted(config):
    run(config.model_copy(update={"image": ImageConfig(limit=99)}))
    run(updated(config), BuildNothing())
    assert run(config, BuildNothing())[0].exit_code == 0


def test_an_update_goes_on_with_what_was_not_finished(config, tmp_path):
    run(config, BuildColourSegmenter(SegmenterFaults(interrupt_on="006")))
    (tmp_path / "images" / "005.png").unlink()
    paint(tmp_path / "images" / "009.png", 79)
    paint(tmp_path / "images" / "010.png", 80)
    report, _ = run(updated(config))
    assert (report.exit_code, report.num_images, report.errors) == (0, 10, {})
    fresh = colour_config(config.images, tmp_path / "fresh")
    run(fresh)
    assert by_path(config.out) == by_path(fresh.out)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": ["red", "green"]}, "the words were: red"),
        ({"method": "maskclip"}, "method.name"),
        ({"shard_size": 5}, "shard_size"),
    ],
)
def test_an_update_with_other_settings_is_refused(config, change, named):
    run(config)
    other = colour_config(config.images, config.out, run={"update": True}, **change)
    with pytest.raises(RunFolderError, match=named):
        run(other, BuildNothing())
    assert RunFolder.open(config.out).generations.number == 1


def test_an_update_with_other_weights_is_refused_before_it_is_written(config, tmp_path):
    run(config)
    paint(tmp_path / "images" / "new.png", 77)
    with pytest.raises(RunFolderError, match="weights"):
        run(updated(config), BuildWithOtherWeights())
    assert RunFolder.open(config.out).generations.number == 1


def test_an_update_of_a_collection_that_cannot_be_listed_is_an_error(config):
    run(config)
    shutil.rmtree(config.images)
    with pytest.raises(CollectionError, match="no images under"):
        run(updated(config), BuildNothing())


def test_an_update_of_nothing_begins_a_run(config):
    report, _ = run(updated(config))
    assert (report.exit_code, report.num_new) == (0, 10)
    assert "updated" not in report.summary()


def of_task(config, shards, **changes):
    values = config.run.model_dump() | {"shards": shards, **changes}
    return config.model_copy(update={"run": type(config.run).model_validate(values)})


def test_a_task_does_its_own_shards_and_says_what_is_left_to_others(config, tmp_path):
    second, shown = run(of_task(config, "2/2"))  # of three shards: the one in the middle
    assert list(RunFolder.open(config.out).done()) == [1]
    assert shown.splitlines()[-1].startswith("4/4 images")
    assert (second.exit_code, second.num_images, second.num_new) == (0, 4, 4)
    assert (second.whole.num_images, second.num_left_to_others) == (10, 6)
    planned = job.plan(of_task(config, "1/2"))
    assert (planned.num_own_shards, planned.num_own_images) == (2, 6)
    assert (planned.num_shards_left, planned.num_images_done) == (2, 0)
    first, _ = run(of_task(config, "1/2"))
    assert (first.exit_code, first.num_images, first.num_new) == (0, 6, 6)
    assert (first.whole.num_done, first.num_left_to_others) == (10, 0)
    again, _ = run(of_task(config, "1/2"), BuildNothing())
    assert (again.exit_code, again.num_new) == (0, 0)
    plain = colour_config(config.images, tmp_path / "plain")
    run(plain)
    assert table_rows(config.out) == table_rows(plain.out)


def test_the_number_of_tasks_may_change_from_one_start_to_the_next(config):
    run(of_task(config, "2/2"))
    run(of_task(config, "1/3"))
    report, _ = run(of_task(config, "2/3"), BuildNothing())  # done as 2/2
    assert (report.num_images, report.num_new, report.num_left_to_others) == (4, 0, 2)
    assert run(config)[0].num_new == 2


def test_a_task_without_shards_has_nothing_to_do(config):
    report, _ = run(of_task(config, "9/9"), BuildNothing())
    assert (report.exit_code, report.num_images, report.num_left_to_others) == (0, 0, 10)
    assert report.summary().startswith("task 9 of 9: 0 of 0 images done, 0 masks; nothing was left")


def test_a_task_restores_its_own_damaged_shards(config):
    run(config)
    folder = Path(config.out)
    for shard in (0, 1):
        next(folder.glob(f"images/{shard:05d}-*")).write_bytes(b"damaged")
    assert run(of_task(config, "2/2"))[0].num_new == 4
    assert run(of_task(config, "1/2"))[0].num_new == 4
    assert run(config)[0].num_new == 0


def test_failed_images_of_a_task_decide_its_exit_code(tmp_path):
    images = paint_collection(tmp_path / "images", 8)
    (images / "001.png").write_bytes(b"no image")
    config = colour_config(images, tmp_path / "run", run={"max_error_share": 0.2})
    first, _ = run(of_task(config, "1/2"))
    second, _ = run(of_task(config, "2/2"))
    assert (first.exit_code, second.exit_code) == (3, 0)
    assert "8 of 8 images done" in second.summary()
    assert "1 image failed" in second.summary()


def test_only_the_first_task_updates_a_run(config):
    run(config)
    for index in (77, 78):
        paint(Path(config.images) / f"{index}.png", index)
    unseen, _ = run(of_task(config, "2/2"), BuildNothing())
    assert unseen.changes is None
    with pytest.raises(ConfigError, match=r"this is task 2 of 2: give --shards 1/2 --update"):
        job.plan(of_task(config, "2/2", update=True))
    first, _ = run(of_task(config, "1/2", update=True))
    assert first.updated
    assert (first.num_new, first.num_left_to_others) == (0, 2)  # shard 3 is the second task's
    second, _ = run(of_task(config, "2/2"))
    assert (second.num_new, second.whole.num_done) == (2, 12)


def test_tasks_beside_a_cluster_are_refused(config, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS names the cluster 10.0.0.1:6379: leave"):
        job.plan(of_task(config, "1/2"))
    job.plan(config)
