import hashlib
import json
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ovseg_core as ov
from ovseg_core.embedded import CLIP_FOLDER, FOUND_HEAD, VISION_FOLDER
from pipeline.annotate.annotator import Annotator
from pipeline.annotate.build import build
from schemas.config import JobConfig
from schemas.errors import ConfigError, ImageError, UserError, WeightsError
from schemas.records import ImageRef, Shard


def test_masks_and_scores_are_those_of_a_job(segmenter, scenes):
    paths, labels = scenes
    job = JobConfig.model_validate(
        {"images": ".", "out": ".", "labels": labels, "clip": "embedded", "run": {"batch_size": 2}}
    )
    built = build(job, "cpu").segmenter
    annotator = Annotator(built, built.text_matrix(job.vocabulary), job)
    refs = [ImageRef(image_id=path.name, path=path.name, uri=str(path)) for path in paths]
    rows, _ = annotator.annotate(Shard(index=0, refs=tuple(refs)))
    annotator.close()
    results = segmenter(paths, labels)
    assert [result.size_hw for result in results] == [(r.height, r.width) for r in rows.images]
    assert rows.annotations
    for path, result in zip(paths, results, strict=True):
        expected = [row for row in rows.annotations if row.image_id == path.name]
        found = result.image_masks.segments
        assert [row.model_copy(update={"image_id": path.name}) for row in found] == expected


def test_one_image_in_every_form_gives_the_same_masks(segmenter, scenes):
    paths, labels = scenes
    with Image.open(paths[1]) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    forms = [str(paths[1]), paths[1], picture, pixels, tensor]
    first, *others = segmenter(forms, labels)
    assert first.segments
    for other in (*others, segmenter(paths[1], labels)):
        assert [one.rle for one in other.segments] == [one.rle for one in first.segments]
        # The last digits depend on what else is in a batch.
        assert other.scores == pytest.approx(first.scores, abs=1e-5)


def test_other_words_are_scored_on_the_features_that_are_known(segmenter, scenes, tmp_path):
    path = tmp_path / "scene.png"
    path.write_bytes(scenes[0][0].read_bytes())
    [label, *_] = segmenter(path, scenes[1]).segments
    only = segmenter(path, [label.label])
    assert only.labels == (label.label,)
    path.unlink()
    path.write_bytes(scenes[0][1].read_bytes())
    assert segmenter(path, scenes[1]).size_hw != only.size_hw, "another image by the same name"


def test_settings_are_those_of_a_job_file(scenes, tmp_path):
    paths, labels = scenes
    calibration = {"method": "sclip", "scores": [0.0], "probabilities": [0.25]}
    (tmp_path / "calibration.json").write_text(json.dumps(calibration))
    segmenter = ov.load(
        {"name": "sclip", "options": {"pamr_steps": 2, "objectness": "found"}},
        clip={"model": "embedded"},
        masks={"segments": "components", "min_area_px": 30},
        calibration=tmp_path / "calibration.json",
        device="cpu",
    )
    segments = segmenter(paths[2], {"labels": labels, "background": ["ground"]}).segments
    assert {segment.score for segment in segments} == {0.25}
    assert min(segment.area_px for segment in segments) >= 30
    assert {segment.columns["num_components"] for segment in segments} == {1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "nclip"}, "Did you mean 'naclip'"),
        ({"clp": "embedded"}, "clp: unknown key; did you mean 'clip'?"),
        ({"method": {"name": "naclip", "options": {"pamr": 3}}}, "pamr"),
        ({"clip": {"model": 3}}, "clip.model"),
        ({"batch_size": 0}, "batch_size: expected 1 or more"),
        ({"device": "tpu"}, "device: expected auto, cpu or cuda"),
        ({"calibration": "nowhere.json"}, "calibration: nowhere.json cannot be read"),
    ],
)
def test_wrong_settings_are_refused_in_words(settings, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        ov.load(**{"clip": "embedded", **settings})


def test_a_store_for_weights_that_python_does_not_read_is_refused():
    options = {"objectness": {"name": "found", "options": {"head": "s3://bucket/head.pt"}}}
    with pytest.raises(WeightsError, match="expected a path or an http"):
        ov.load({"name": "clip_diy", "options": options}, clip="embedded")


@pytest.fixture
def head_url(tmp_path: Path) -> Iterator[str]:
    """URL of the embedded FOUND head."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(FOUND_HEAD.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{FOUND_HEAD.name}"
        server.shutdown()


def test_weights_at_a_url_are_fetched_once_and_checked(head_url, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def load(head: str) -> ov.Predictor:
        options = {"objectness": {"name": "found", "options": {"head": head}}}
        method = {"name": "clip_diy", "options": options}
        return ov.load(method, clip="embedded", device="cpu")

    digest = hashlib.sha256(FOUND_HEAD.read_bytes()).hexdigest()
    load(f"{head_url}#sha256={digest}")
    [kept] = tmp_path.rglob(FOUND_HEAD.name)
    fetched = kept.stat()
    load(f"{head_url}#sha256={digest}")
    assert kept.stat().st_ino == fetched.st_ino, "not fetched again"
    with pytest.raises(WeightsError, match="invalid hash value"):
        load(f"{head_url}#sha256={digest[::-1]}")
    with pytest.raises(WeightsError, match="fetch the file elsewhere"):
        load(f"{head_url}.gone")
    assert [kept] == list(tmp_path.rglob("*.safetensors")), "nothing else is kept"


def test_what_is_no_image_is_refused_in_words(segmenter, tmp_path):
    for wrong, message in [
        ("s3://bucket/photo.jpg", "a file of this machine"),
        (tmp_path, "is a folder, expected an image"),
        (tmp_path / "none.jpg", "cannot be read: No such file"),
        (np.zeros((4, 6, 3)), "got an array (4, 6, 3) of float64"),
        (torch.zeros(4, 6, 3, dtype=torch.uint8), "got a tensor (4, 6, 3) of uint8"),
        (np.zeros((0, 6, 3), np.uint8), "got an array (0, 6, 3)"),
        (None, "got NoneType"),
    ]:
        with pytest.raises(UserError) as error:
            segmenter(wrong, ["cat"])
        assert message in str(error.value)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.png"):
        segmenter([tmp_path / "bad.png"], ["cat"])
    with pytest.raises(ConfigError, match=r"words\.labels: no labels"):
        segmenter(np.zeros((9, 7, 3), np.uint8), [])


def test_the_traceback_of_a_mistake_holds_no_second_one(segmenter, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    mistakes: list[Callable[[], object]] = [
        lambda: ov.load(clip="embedded", clp=1),
        lambda: segmenter(tmp_path, ["cat"]),
        lambda: segmenter(tmp_path / "none.jpg", ["cat"]),
        lambda: segmenter([tmp_path / "bad.png"], ["cat"]),
    ]
    for mistake in mistakes:
        with pytest.raises((UserError, ImageError)) as caught:
            mistake()
        shown = "".join(traceback.format_exception(caught.value))
        assert shown.count("Traceback") == 1, shown


def test_no_images_give_no_results(segmenter):
    assert segmenter([], ["cat"]) == []


def test_a_list_of_paths_may_be_a_tuple_of_one(segmenter, scenes):
    [only] = segmenter((Path(scenes[0][0]),), scenes[1])
    assert only.path == scenes[0][0].as_posix()


def test_embedded_models_on_photographs_are_said_once(scenes, tmp_path, caplog):
    files, labels = scenes
    segmenter = ov.load("maskclip", clip="embedded", device="cpu", batch_size=2)
    with Image.open(files[1]) as opened:
        segmenter([files[0], opened], labels)
    assert "nothing on photographs" not in caplog.text
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (60, 40), "red").save(photo)
    segmenter([files[0], photo], labels)
    segmenter([np.zeros((30, 40, 3), np.uint8), photo], ["cat", "dog"])
    assert caplog.text.count("nothing on photographs") == 1


def test_weights_that_do_not_come_name_the_python_way(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"hf download laion/CLIP\S+") as caught:
        ov.load("clip_diy", device="cpu")
    said = str(caught.value)
    assert "ov.load({'name': 'clip_diy', 'options': {...}}, clip='local-dir:FOLDER', " in said
    assert "copy FOLDER here and clip='local-dir:FOLDER' in ov.load" in said
    assert "--set" not in said
    [missing] = re.findall("not on this machine: (.*)", said)
    assert [part.split()[0] for part in missing.split(", ")] == ["CLIP", "ViT", "FOUND's"]


def test_the_pages_lines_make_a_folder_of_a_model_in_memory(monkeypatch, tmp_path):
    page = Path(ov.__file__).parents[1] / "docs" / "weights.md"
    block = page.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(block.replace("ViT-B-16", "ViT-S-32-alt"), {})  # the smallest that open_clip has
    segmenter = ov.load("maskclip", clip="local-dir:weights/my-clip", device="cpu")
    result = segmenter(np.zeros((64, 90, 3), np.uint8), ["cat", "dog"])
    assert result.label_map.shape == (64, 90)


def test_the_pages_way_without_a_network_loads_local_files(monkeypatch, tmp_path, scenes):
    page = Path(ov.__file__).parents[1] / "docs" / "python.md"
    section = page.read_text(encoding="utf-8").partition("\n## Without a network\n")[2]
    block = section.partition("```python\n")[2].partition("```")[0]
    weights = tmp_path / "weights"
    shutil.copytree(CLIP_FOLDER, weights / "clip")
    shutil.copytree(VISION_FOLDER, weights / "dino")
    torch.save(load_file(FOUND_HEAD), weights / "decoder_weights.pt")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"ov": ov}
    exec(block, names)
    assert names["segmenter"](scenes[0][0], scenes[1]).segments
