"""Tokenizers of CLIPs: the same tokens as open_clip's, and no code of a folder is run."""

import gzip
import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TextEncoder
from ovseg_core.backbones.text.tokenizer import embed_in_parts
from schemas.config import ClipConfig
from schemas.errors import WeightsError
from schemas.vocabulary import Vocabulary
from tests.helpers.hugging_face_files import write_clipa, write_metaclip2
from tests.helpers.tiny_models import TINY_CLIP, load_clip_of_job, random_image, write_clip

PROMPTS = ["a cat", "Dogs", "a photo of cats and dogs and a zebra"]
FAMILIES = {"CLIPA": write_clipa, "MetaCLIP 2": write_metaclip2}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is all that is needed."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_clip_with_a_tokenizer_of_hugging_face_equals_open_clip(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = FAMILIES[family](tmp_path / "clip")
    clip = Backbones(ClipConfig(model=f"local-dir:{folder}"), "").clip
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(PROMPTS)
    assert torch.equal(clip.tokenizer.ids(PROMPTS), ids)
    torch.testing.assert_close(clip.encode_text(PROMPTS), model.encode_text(ids))
    assert "a zebra' (" in caplog.text
    pixels = torch.stack([random_image(seed, 48, 48) for seed in range(2)])
    expected = model.encode_image(clip.normalise(pixels))
    torch.testing.assert_close(clip.encode_images(pixels), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_label_over_the_context_is_said(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten tokens: exactly ten are not cut off, eleven are, whatever fills up the short ones."""
    folder = FAMILIES[family](tmp_path / "clip")
    encoder = TextEncoder(load_clip_of_job(f"local-dir:{folder}"), ("{}",))
    fits = "cat dog " * 4
    encoder.matrix(Vocabulary.model_validate({"labels": ["cat", fits.strip()], "background": []}))
    assert not caplog.messages
    encoder.matrix(Vocabulary.model_validate({"labels": ["dog", f"{fits}cat"], "background": []}))
    [line] = caplog.messages
    assert "reads 10 tokens" in line
    assert line.count("' (11)") == 1


def test_tokenizer_is_part_of_what_a_run_records(tmp_path: Path) -> None:
    def settings(folder: Path) -> dict[str, str]:
        backbones = Backbones(ClipConfig(model=f"local-dir:{folder}"), "")
        assert backbones.clip.width
        return backbones.settings()

    bert = write_clipa(tmp_path / "bert")
    before = settings(bert)
    assert settings(bert) == before
    write_clipa(tmp_path / "other")
    assert settings(tmp_path / "other") == before  # whatever the folder's name
    file = bert / "tokenizer.json"
    file.write_text(file.read_text().replace('"dog"', '"dot"'))
    assert settings(bert)["clip.tokenizer"] != before["clip.tokenizer"]
    own = write_clip(tmp_path / "own", TINY_CLIP)
    first = settings(own)["clip.tokenizer"]
    (own / "bpe.txt.gz").write_bytes(gzip.compress(b"#version: 0.2\nc a"))
    assert settings(own)["clip.tokenizer"] != first


MARKER = "from pathlib import Path\nPath({!r}).write_text('ran')\nclass Harm:\n    pass\n"


def change_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["harm.Harm", None]}, "tokenizer_class": "Harm"},
            r"tokenizer_config\.json names code of its own \(auto_map\), which is never run",
        ),
        (
            "config.json",
            {"auto_map": {"AutoConfig": "harm.Harm"}, "model_type": "harm"},
            r"config\.json names code of its own \(auto_map\)",
        ),
        ("tokenizer_config.json", {"trust_remote_code": True}, r"\(trust_remote_code\)"),
        ("tokenizer_config.json", {"tokenizer_class": "Harm"}, r"tokenizer_class is 'Harm', expec"),
        ("config.json", {"tokenizer_class": "Pipeline"}, r"tokenizer_class is 'Pipeline'"),
        ("tokenizer_config.json", {"tokenizer_class": ["a"]}, r"tokenizer_class is \['a'\]"),
        ("tokenizer_config.json", {"extra_ids": 10**12}, r"extra_ids is 1000000000000, expected 0"),
    ],
)
def test_code_of_a_folder_is_never_run(
    file: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_clipa(tmp_path / "clip")
    (folder / "harm.py").write_text(MARKER.format(str(tmp_path / "marker")))
    settings = folder / "tokenizer_config.json"
    if file == "config.json":
        change_json(settings, lambda content: content.pop("tokenizer_class"))
    change_json(folder / file, lambda content: content.update(change))
    # What open_clip would hand on to transformers; refused before the files are looked at.
    for options in ({}, {"trust_remote_code": True}):
        change_json(
            folder / "open_clip_config.json",
            lambda content, options=options: content["model_cfg"]["text_cfg"].update(
                tokenizer_kwargs=options
            ),
        )
        refused = r"tokenizer_kwargs\.trust_remote_code: unknown key"
        with pytest.raises(WeightsError, match=refused if options else message) as caught:
            load_clip_of_job(f"local-dir:{folder}")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "marker").exists()


def test_settings_that_name_other_files_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`tokenizer_file` and `special_tokens_map.json` become arguments in transformers."""
    folder = write_clipa(tmp_path / "clip")
    expected = load_clip_of_job(f"local-dir:{folder}").tokenizer.ids(PROMPTS)
    other = tmp_path / "other.json"
    other.write_text("{}")
    places = {key: str(other) for key in ("tokenizer_file", "vocab_file", "name_or_path")}
    change_json(folder / "tokenizer_config.json", lambda it: it.update(places, shape="round"))
    change_json(folder / "special_tokens_map.json", lambda it: it.update(places))
    found = load_clip_of_job(f"local-dir:{folder}").tokenizer.ids(PROMPTS)
    assert torch.equal(found, expected)
    assert caplog.messages == ["tokenizer_config.json: not used here: shape"]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "text_cfg",
            {"tokenizer_kwargs": {"reduction_mask": "syntax"}},
            r"reduction_mask: unk",
        ),
        ("text_cfg", {"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}, r"bpe_path: unknown key"),
        ("text_cfg", {"tokenizer_kwargs": {"clean": "no"}}, r"clean: expected 'lower', 'whites"),
        ("text_cfg", {"tokenizer_kwargs": ["clean"]}, r"expected `key: value` pairs"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, r"has Hugging Face's roberta-base as its"),
        ("text_cfg", {"hf_tokenizer": "x"}, r"unknown key; did you mean .*hf_tokenizer_name"),
        (
            "text_cfg",
            {"context_length": 10**9},
            r"context_length: expected .* 4096, got 10000",
        ),
        ("text_cfg", {"vocab_size": 10**12}, r"vocab_size: expected .* 4000000"),
        ("text_cfg", {"norm_kwargs": {"device": "cuda"}}, r"norm_kwargs\.device: unknown key"),
        ("vision_cfg", {"width": 10**6}, r"vision_cfg\.width: expected .* 8192"),
        ("vision_cfg", {"layers": "3"}, r"vision_cfg\.layers: expected a valid integer, got '3'"),
        ("vision_cfg", {"timm_model_name": "vit_tiny"}, r"has timm's vit_tiny as its image"),
    ],
)
def test_unknown_keys_and_sizes_of_an_architecture_are_refused(
    part: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_clipa(tmp_path / "clip")
    file = folder / "open_clip_config.json"
    change_json(file, lambda content: content["model_cfg"][part].update(change))
    with pytest.raises(WeightsError, match=message) as caught:
        load_clip_of_job(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)


def test_sizes_are_compared_before_memory_is_taken(tmp_path: Path) -> None:
    """The largest that are allowed: 600 GB of weights."""
    folder = write_clip(tmp_path / "clip", TINY_CLIP)
    large = {"width": 8192, "layers": 256}
    change_json(
        folder / "open_clip_config.json",
        lambda content: content["model_cfg"]["vision_cfg"].update(large),
    )
    with pytest.raises(WeightsError, match=r"tensors (are missing|have another shape)"):
        load_clip_of_job(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, r"there is no vocabulary: expected tokenizer\.json, vocab\.txt"),
        ("tokenizer.json", b"", r"cannot be loaded: "),
        ("tokenizer.json", b"\x93\x00random\xff" * 40, r"cannot be loaded: "),
        ("tokenizer.json", b"[" * 100_000, r"cannot be loaded: "),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}', r"cannot be loaded: "),
        ("tokenizer_config.json", None, r"pad_token|cannot be loaded: "),
        ("tokenizer_config.json", b"", r"cannot be loaded: "),
        ("tokenizer_config.json", b"[1]", r"holds a list, expected `key: value` pairs"),
        ("tokenizer_config.json", b"[" * 100_000, r"cannot be loaded: "),
        ("tokenizer_config.json", b'{"pad_token": 3}', r"cannot be loaded: "),
        ("open_clip_config.json", b"{}", r"open_clip_config\.json has no model_cfg"),
        ("open_clip_config.json", b"\xff\xfe", r"cannot be loaded: "),
        ("open_clip_config.json", b" " * 2_000_000, r"has more than 1,000,000 bytes"),
    ],
)
def test_damaged_files_of_a_tokenizer_give_one_line(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    folder = write_clipa(tmp_path / "clip")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_clip_of_job(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"bpe\.txt\.gz is empty"),
        (b"random", r"cannot be loaded"),
        (gzip.compress(b"#version: 0.2\nt h")[:-9], r"bpe\.txt\.gz is damaged"),
        (gzip.compress(bytes(65_000_000)), r"bpe\.txt\.gz unpacks to more than 64,000,000 bytes"),
        (gzip.compress(b"\xff\xfe\xfd"), r"cannot be loaded"),
    ],
    ids=["empty", "no gzip", "cut off", "too large", "no text"],
)
def test_damaged_vocabulary_gives_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip", TINY_CLIP)
    (folder / "bpe.txt.gz").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_clip_of_job(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)


def test_prompts_in_parts_equal_all_at_once_and_long_waits_are_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    ids = torch.arange(2 * 600).view(600, 2)
    assert torch.equal(embed_in_parts(ids, lambda part: part * 2), ids * 2)
    assert not caplog.text

    def slow_at_first(part: torch.Tensor) -> torch.Tensor:
        time.sleep(0.2 if part[0, 0] == 0 else 0)
        return part

    many = torch.arange(20_000).view(-1, 1)
    assert torch.equal(embed_in_parts(many, slow_at_first), many)
    assert re.search(r"embedded 256 of 20000 prompts: about 1\d s more", caplog.text)
    assert "embedded 512 of 20000 prompts" not in caplog.text, "the rest is soon done"


def test_tokenizer_of_another_clip_is_named(tmp_path: Path) -> None:
    folder = write_clipa(tmp_path / "clip", vocab_size=30)
    with pytest.raises(WeightsError, match=r"returns the token \d+, but the text encoder has 30"):
        load_clip_of_job(f"local-dir:{folder}").encode_text(["zebra", "cat"])


def test_missing_package_gives_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_clipa(tmp_path / "clip")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match=r"bert-base-uncased.*pip install 'ovseg\[hf\]'"):
        load_clip_of_job(f"local-dir:{folder}")
