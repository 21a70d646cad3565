"""Weights that a run folder names are loaded only if they are embedded, known here, or given."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg_core import methods
from ovseg_core.backbones.registry import clip_names
from pipeline.annotate.build import build
from pipeline.review.session import ReviewSession
from pipeline.review.try_page import TryPage
from pipeline.run.folder import RunFolder
from pipeline.run.identity import RunIdentity
from pipeline.run.trust.named_weights import NamedWeights, check_local_weights, check_named_clip
from pipeline.storage.weights import CACHE_ENV
from schemas import plugins
from schemas.config import JobConfig, NamesWeights
from schemas.errors import WeightsError
from schemas.records import ImageRef
from schemas.tables import to_table
from tests.helpers.tiny_models import tiny_folder


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine has used no weights so far."""
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))
    return tmp_path / "cache"


def run_of(folder: Path, weights: dict[str, str] | None = None, **fields: Any) -> RunFolder:
    """A run of no shards whose job names these networks."""
    words = {"images": "photos", "out": str(folder / "run"), "labels": ["cat", "dog"]}
    job = JobConfig.model_validate(words | {"run": {"device": "cpu"}} | fields)
    refs = [ImageRef(image_id=name, path=name, uri=f"/no/{name}") for name in ("a.png", "b.png")]
    identity = RunIdentity(job, weights or {})
    return RunFolder.create_or_resume(job.out, identity, to_table("manifest", refs))


def reason(run: RunFolder, *given: str) -> str:
    """What the try page says of the run's own method; empty: it was loaded."""
    return TryPage(ReviewSession(run), given).own_method()["method"]["reason"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"clip": {"model": "local-dir:/their/clip"}}, ["local-dir:/their/clip"]),
        ({"clip": {"model": "hf-hub:their/clip"}}, ["hf-hub:their/clip"]),
        ({"clip": {"model": "ViT-B-32", "pretrained": "openai"}}, ["ViT-B-32", "openai"]),
        (
            {"clip": {"model": "ViT-B-32", "pretrained": "http://169.254.169.254/w.pt"}},
            ["ViT-B-32", "http://169.254.169.254/w.pt"],
        ),
        (
            {"clip": {"model": "embedded"}, "vision": {"model": "local-dir:/their/vit"}},
            ["local-dir:/their/vit"],
        ),
        (
            {
                "clip": {"model": "embedded"},
                "method": {"name": "proxyclip", "options": {"proxy": "diffusers:/their/unet"}},
            },
            ["diffusers:/their/unet"],
        ),
        (
            {
                "clip": {"model": "embedded"},
                "method": {"name": "clip_dinoiser", "options": {"heads": "/their/heads.pt"}},
            },
            ["/their/heads.pt"],
        ),
        (
            {
                "clip": {"model": "embedded"},
                "method": {
                    "name": "maskclip",
                    "options": {"objectness": {"name": "external", "options": {"folder": "/maps"}}},
                },
            },
            ["/maps"],
        ),
    ],
)  # fmt: skip
def test_whatever_names_weights_is_refused_with_what_to_type(
    fields: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    if "vision" in fields:
        objectness = {"name": "found", "options": {}}
        fields = fields | {"method": {"name": "clip_diy", "options": {"objectness": objectness}}}
    run = run_of(tmp_path, {"clip": "0" * 64, "vision": "1" * 64}, **fields)
    said = reason(run)
    for name in named:
        assert f"--weights {name}" in said
    assert f"ovseg review {run.folder.uri} --weights" in said


def test_no_option_that_names_weights_goes_unmarked() -> None:
    """Every text of a plug-in is marked, unless it can hold a few given words only."""
    for method in plugins.names(methods.PACKAGE):
        for where, plug_in, model in plugins.option_models(methods.PACKAGE, method, "method"):
            for name, field in model.model_fields.items():
                marked = any(isinstance(mark, NamesWeights) for mark in field.metadata)
                assert field.annotation is not str or field.metadata, (where, plug_in, name)
                assert not marked or field.annotation is str


def test_nothing_is_fetched_before_the_user_says_so(tmp_path: Path) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/weights.pt"
        run = run_of(tmp_path, clip={"model": "ViT-B-32", "pretrained": url})
        page = TryPage(ReviewSession(run))
        assert url in page.own_method()["method"]["reason"]
        assert page.other_methods()["methods"] == []
        assert page.warm_up() == {"used": []}
        assert asked == []
        assert "cannot fetch weights" in reason(run, "ViT-B-32", url)
        server.shutdown()
    assert asked[:1] == ["/weights.pt"]


def test_weights_given_on_the_command_line_are_loaded(tmp_path: Path) -> None:
    names = [f"local-dir:{tiny_folder() / part}" for part in ("clip", "vision")]
    clip, vision = ({"model": name} for name in names)
    run = run_of(tmp_path, clip=clip, vision=vision, method={"name": "maskclip"})
    assert "--weights" in reason(run)
    assert reason(run, names[0]) == ""


def test_weights_of_a_job_of_this_machine_are_loaded_while_they_are_the_same(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(tiny_folder() / "clip", folder)
    fields = {"clip": {"model": f"local-dir:{folder}"}, "method": {"name": "maskclip"}}
    words = {"images": "photos", "out": "run", "labels": ["cat", "dog"]}
    weights = build(JobConfig.model_validate(words | fields), "cpu").weights
    run = run_of(tmp_path / "same", weights, **fields)
    assert reason(run) == ""
    stranger = run_of(tmp_path / "stranger", {"clip": "0" * 64}, **fields)
    assert "--weights" in reason(stranger), "the name is known, but not with this content"
    tensors = load_file(folder / "open_clip_model.safetensors")
    save_file(tensors | {"logit_scale": torch.tensor(3.0)}, folder / "open_clip_model.safetensors")
    assert "--weights" in reason(run), "the file was changed since"


def test_a_page_takes_no_newer_revision_of_a_known_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    def cached(commit: str, tensors: dict[str, torch.Tensor]) -> None:
        folder = tmp_path / "hub/models--our--clip" / "snapshots" / commit
        shutil.copytree(tiny_folder() / "clip", folder)
        save_file(tensors, folder / "open_clip_model.safetensors")
        (folder.parents[1] / "refs").mkdir(exist_ok=True)
        (folder.parents[1] / "refs/main").write_text(commit)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    tensors = load_file(tiny_folder() / "clip/open_clip_model.safetensors")
    cached("0" * 40, tensors)
    fields = {"clip": {"model": "hf-hub:our/clip"}, "method": {"name": "maskclip"}}
    words = {"images": "photos", "out": "run", "labels": ["cat", "dog"]}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    run = run_of(tmp_path, build(JobConfig.model_validate(words | fields), "cpu").weights, **fields)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        assert reason(run) == "", "known, and in the cache"
        cached("1" * 40, tensors | {"logit_scale": torch.tensor(3.0)})
        assert "not those that the run was made with" in reason(run)
        server.shutdown()
    assert asked == []


def test_a_name_with_joined_emoji_is_printed_with_what_to_type() -> None:
    name = "/models/\U0001f469\u200d\U0001f52c/clip.pt"
    with pytest.raises(WeightsError, match=name):
        NamedWeights(()).check(name)


def test_a_note_that_others_can_have_written_is_not_believed(
    tmp_path: Path, empty_cache: Path
) -> None:
    fields = {"clip": {"model": f"local-dir:{tiny_folder() / 'clip'}"}, "method": "maskclip"}
    words = {"images": "photos", "out": "run", "labels": ["cat", "dog"]}
    run = run_of(tmp_path, build(JobConfig.model_validate(words | fields), "cpu").weights, **fields)
    (note,) = empty_cache.glob("names/*.json")
    assert note.stat().st_mode & 0o077 == 0
    note.chmod(0o666)
    assert "--weights" in reason(run)
    note.chmod(0o600)
    assert reason(run) == ""
    note.rename(tmp_path / "elsewhere.json")
    note.symlink_to(tmp_path / "elsewhere.json")
    assert "--weights" in reason(run)


@pytest.mark.parametrize(
    ("clip", "settings"),
    [
        ({"model": "hf-hub:their/clip"}, "--set clip.model=hf-hub:their/clip"),
        (
            {"model": "ViT-B-32", "pretrained": "openai"},
            "--set clip.model=ViT-B-32 --set clip.pretrained=openai",
        ),
    ],
)
def test_a_job_that_is_made_from_a_run_says_how_to_allow_its_clip(
    tmp_path: Path, clip: dict[str, str], settings: str
) -> None:
    run = run_of(tmp_path, {"clip": "0" * 64}, clip=clip)
    named = run.info.job().clip
    with pytest.raises(WeightsError) as caught:
        check_named_clip(run, named, clip_names(named))
    assert str(caught.value).endswith(f"If you trust it: {settings}")
    check_named_clip(run, named, clip_names(named), given=clip_names(named))


@pytest.mark.parametrize("name", ["local-dir:/\x1b]0;x\x07\u202e", "\udc80", "s3://a:b@c/d", "\0"])
def test_odd_names_are_refused_without_a_command_to_paste(name: str) -> None:
    with pytest.raises(WeightsError, match="not used in a job of its own") as caught:
        NamedWeights(()).check(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"clip": {"model": "ViT-B-32", "pretrained": "empty.pt"}}, "it is empty"),
        ({"clip": {"model": "ViT-B-32", "pretrained": "text.pt"}}, "not a weights file"),
        ({"clip": {"model": "ViT-B-32", "pretrained": "gone.pt"}}, "no weights file at"),
        ({"clip": {"model": "local-dir:folder"}}, "the folder folder has no weights file"),
        ({"clip": {"model": "local-dir:nowhere"}}, "there is no folder nowhere"),
        ({"vision": {"model": "vit_small_patch8_224", "weights": "empty.pt"}}, "it is empty"),
        (
            {"method": {"name": "clip_diy", "options": {"objectness": {"name": "found",
             "options": {"head": "text.pt"}}}}},
            "not a weights file",
        ),
        ({"clip": {"model": "ViT-B-32", "pretrained": "openai"}}, ""),
        ({"clip": {"model": "ViT-B-32", "pretrained": "https://host/w.pt"}}, ""),
        ({"clip": {"model": "hf-hub:a/b"}}, ""),
        ({"clip": {"model": "embedded"}}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_local_weights_files_are_checked_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.pt").touch()
    Path("text.pt").write_text("nothing of the kind, but long enough")
    Path("folder").mkdir()
    job = methods.with_published_clip(
        JobConfig.model_validate({"images": "in", "out": "out", "labels": ["cat"], **fields})
    )
    if not expected:
        check_local_weights(job)
        return
    with pytest.raises(WeightsError, match=expected):
        check_local_weights(job)
