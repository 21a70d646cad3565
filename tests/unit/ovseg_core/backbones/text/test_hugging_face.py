"""Files of tokenizers: those that are known, from the cache where the hub cannot be reached."""

import socket
from pathlib import Path

import pytest

from ovseg_core.backbones.text.hugging_face import fetch_files, files_in

COMMIT = "0" * 40


def test_files_in_knows_files_that_say_how_to_tokenize(tmp_path: Path) -> None:
    for name in (
        "tokenizer.json",
        "vocab.txt",
        "harm.py",
        "model.safetensors",
        "chat_template.jinja",
    ):
        (tmp_path / name).write_text("{}")
    (tmp_path / "config.json").mkdir()
    assert files_in(tmp_path).keys() == {"tokenizer.json", "vocab.txt"}


def test_cached_tokenizer_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache must know of each file whether there is one: else it may be half a tokenizer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--tok"
    snapshot, missing = repository / "snapshots" / COMMIT, repository / ".no_exist" / COMMIT
    for folder in (snapshot, missing, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "tokenizer.json").write_text("{}")
    with pytest.raises(OSError, match="cannot be reached"):
        fetch_files("org/tok")
    for name in (
        *("vocab.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "vocab.json"),
        *("merges.txt", "added_tokens.json", "special_tokens_map.json", "config.json"),
    ):
        (missing / name).touch()
    (snapshot / "tokenizer_config.json").write_text("{}")
    found = fetch_files("org/tok")
    assert found.keys() == {"tokenizer.json", "tokenizer_config.json"}
    assert found["tokenizer.json"] == snapshot / "tokenizer.json"
