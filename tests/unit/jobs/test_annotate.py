"""What `ovseg annotate` prints of a plan and of a report."""

import importlib.abc
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from jobs.annotate import annotate, show_plan, show_report
from pipeline.job.job import JobPlan
from pipeline.job.report import RunReport
from pipeline.run.trust.named_weights import checked_files
from pipeline.storage import waiting
from schemas.config import ArrayTask, JobConfig
from schemas.errors import RunFolderError
from schemas.vocabulary import Vocabulary


def config(**fields: object) -> JobConfig:
    labels = [f"word {number}" for number in range(1, 15)]
    return JobConfig.model_validate({"images": "in", "out": "o", "labels": labels, **fields})


def job_on_photographs(folder: Path) -> JobConfig:
    for name in "ab":
        Image.new("RGB", (40, 30), "red").save(folder / f"{name}.png")
    return config(
        images=str(folder), out=str(folder / "run"), clip={"model": "embedded"},
        run={"local": True}, method="maskclip",
    )  # fmt: skip


class _Listener(importlib.abc.MetaPathFinder):
    """Keeps what the process says that it waits for when the job's module is looked for."""

    heard = ""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        del path, target
        if fullname == "pipeline.job.job":
            self.heard = waiting.current_line()
            raise ImportError("heard enough")


def test_libraries_that_take_long_to_load_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = _Listener()
    monkeypatch.setattr(waiting, "_IMPORTS_S", 0.0)
    monkeypatch.delattr("pipeline.job.job")
    monkeypatch.delitem(sys.modules, "pipeline.job.job")
    monkeypatch.setattr(sys, "meta_path", [listener, *sys.meta_path])
    with pytest.raises(ImportError, match="heard enough"):
        annotate(config(), dry_run=True)
    assert "waiting: load the libraries since" in listener.heard


def test_plan_names_labels_weights_and_workers(capsys: pytest.CaptureFixture[str]) -> None:
    clip = {"model": "ViT-B-16", "pretrained": "openai"}
    job = config(clip=clip, run={"workers": 3})
    words = job.vocabulary.model_copy(update={"background": ("wall", "grass")})
    job = job.model_copy(update={"vocabulary": words})
    plan = JobPlan(job, {}, num_images=1000, num_shards=63)
    show_plan(plan, checked_files(plan.config))
    shown = capsys.readouterr().out
    assert "1,000 in in" in shown
    assert "14: word 1, word 2" in shown
    assert re.search(r"background +wall, grass\n", shown)
    assert "word 12 and 2 more" in shown
    clip, vit, head = [it.split(maxsplit=1)[1] for it in shown.splitlines() if "weights " in it]
    assert clip.startswith("CLIP ViT-B-16 openai: timm/vit_base_patch16_clip_224.openai")
    assert vit.startswith("ViT vit_small_patch8_224.dino: timm/vit_small_patch8_224.dino")
    assert head.startswith("FOUND's head: https://")
    assert "63 of up to 16 images" in shown
    assert "at most 3, 1 CPU each, device auto" in shown


@pytest.mark.parametrize(
    ("fields", "is_said"),
    [
        ({"method": "naclip"}, True),
        ({"method": "clip_diy"}, False),
        ({"method": "clip_dinoiser"}, False),
        ({"method": {"name": "clip_dinoiser", "options": {"background": "none"}}}, True),
        ({"method": {"name": "clip_diy", "options": {"objectness": "none"}}}, True),
        ({"method": {"name": "naclip", "options": {"objectness": "found"}}}, False),
        ({"method": {"name": "naclip", "options": {"probability_threshold": 0.3}}}, False),
        ({"method": "naclip", "vocabulary": {"labels": "cat", "background": ["wall"]}}, False),
        ({"method": "naclip", "vocabulary": {"labels": "cat", "background": []}}, True),
    ],
)
def test_plan_says_where_nothing_keeps_a_method_from_labelling_every_pixel(
    capsys: pytest.CaptureFixture[str], fields: dict[str, object], is_said: bool
) -> None:
    fields = {"images": "in", "out": "o", "labels": ["cat"], **fields}
    if "vocabulary" in fields:
        del fields["labels"]
    show_plan(JobPlan(JobConfig.model_validate(fields), {}, num_images=2, num_shards=1))
    shown = capsys.readouterr().out
    assert ("most pixels or all get a label" in shown) == is_said


@pytest.mark.parametrize(("model", "loads"), [("ViT-B-16", True), ("embedded", False)])
def test_plan_without_background_says_what_objectness_loads_and_that_stored_features_have_none(
    capsys: pytest.CaptureFixture[str], model: str, loads: bool
) -> None:
    found, words = "method.options.objectness=found", "vocabulary.background=["
    for of_stored, names in (({}, (True, True)), ({"features_of": "kept"}, (False, True))):
        fields = config(method="naclip", clip={"model": model}, **of_stored)
        show_plan(JobPlan(fields, {}, num_images=2, num_shards=1))
        shown = capsys.readouterr().out
        assert (found in shown, words in shown) == names
        assert ("loads DINO and FOUND's head" in shown) == (loads and not of_stored)


def test_a_missing_background_is_said_before_the_run_and_shortly_after_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    job = job_on_photographs(tmp_path)
    with caplog.at_level("INFO"):
        assert annotate(job, dry_run=False) == 0
    said = [("method.options.objectness=found" in text) for text in caplog.messages]
    assert said[0]
    assert sum(said) == 1
    shown = capsys.readouterr().out
    assert "no surroundings are named, as was said at the start" in shown
    assert "objectness=found" not in shown
    caplog.clear()
    other = Vocabulary.model_validate({"labels": ["cat"]})
    with pytest.raises(RunFolderError, match="word 1"):
        annotate(job.model_copy(update={"vocabulary": other}), dry_run=False)
    assert "objectness=found" not in caplog.text, "nothing is annotated"


def test_a_protocol_whose_background_does_not_count_is_not_cautioned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"labels": "cat", "background": []}
    fields = {"images": "in", "out": "o", "method": "naclip", "vocabulary": words}
    plan = JobPlan(JobConfig.model_validate(fields), {}, num_images=2, num_shards=1)
    show_plan(plan, under_protocol=True)
    shown = capsys.readouterr().out
    assert "caution" not in shown
    assert " 0 shards (0 images)\n" in shown
    assert " 1 shard\n" in shown


def test_plan_without_ray_or_weights(capsys: pytest.CaptureFixture[str]) -> None:
    local = config(clip={"model": "embedded", "pretrained": "unused"}, run={"local": True})
    show_plan(JobPlan(local, {}, num_images=1, num_shards=1), checked_files(local))
    shown = capsys.readouterr().out
    assert "CLIP embedded: part of ovseg, here" in shown
    assert "none: in this process (--local)" in shown


def test_report_suggests_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    done = RunReport("a b", num_images=1, max_error_share=0, num_done=1, num_segments=2)
    show_report(done)
    shown = capsys.readouterr().out
    places = [shown.index(f"ovseg {name} 'a b'") for name in ("review", "inspect", "export")]
    assert places == sorted(places)
    assert "what failed" not in shown


def test_report_of_a_stopped_job_suggests_the_same_command_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_report(RunReport("run", 2, 0, num_done=1, num_segments=2, interrupted=True))
    shown = capsys.readouterr().out
    assert shown.splitlines()[1:] == ["the same command goes on from here", "run folder   run"]
    show_report(RunReport("run", 2, 0, interrupted=True, has_begun=False))
    shown = capsys.readouterr().out
    assert shown.splitlines()[1:] == [
        "the run had not begun, and has no folder: the same command starts it"
    ]


def test_report_of_failed_images_suggests_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    show_report(RunReport("run", 1, max_error_share=1, num_done=1, errors={"truncated": 1}))
    shown = capsys.readouterr().out
    assert "ovseg inspect run" in shown
    assert "ovseg export" not in shown


def test_embedded_models_on_photographs_are_said_before_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_on_photographs(tmp_path)
    assert annotate(job, dry_run=False) == 0
    shown = capsys.readouterr().out
    assert "caution      embedded models: the masks mean something on drawn scenes only" in shown
    assert "next" not in shown.partition("caution")[0]
    assert annotate(job, dry_run=True) == 0
    assert re.search("caution +embedded models", capsys.readouterr().out)


def test_plan_of_a_task_names_its_shards(capsys: pytest.CaptureFixture[str]) -> None:
    plan = JobPlan(config(run={"shards": "3/8"}), {}, num_images=1000, num_shards=63)
    show_plan(plan)
    shown = capsys.readouterr().out
    assert "8 shards (128 images), task 3 of 8" in shown
    assert "none: in this process (--shards)" in shown


@pytest.mark.parametrize("num_done", [10, 20])
def test_report_of_a_task_suggests_the_review_once_all_is_done(
    capsys: pytest.CaptureFixture[str], num_done: int
) -> None:
    whole = RunReport("o", num_images=20, max_error_share=0, num_done=num_done, num_segments=9)
    task = ArrayTask(1, 2)
    show_report(
        RunReport("o", 10, max_error_share=0, num_done=10, num_segments=4, task=task, whole=whole)
    )
    shown = capsys.readouterr().out
    assert ("review o" in shown) == (num_done == 20)
    assert ("without --shards" in shown) == (num_done == 10)
