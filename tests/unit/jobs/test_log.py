"""Secrets never reach a terminal or a log file, and whatever is printed can be."""

import io
import logging
import sys

import pytest

from jobs.log import redact, set_up


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("s3://AKIAEXAMPLE:hunter2@bucket/x", "hunter2"),
        ("https://u:p%40ss@host/x: no such file", "p%40ss"),
        ("https://a.blob/x?sv=2024&sig=abc%2Bdef%3D&se=2026", "abc%2Bdef"),
        ("https://b/x?X-Amz-Signature=deadbeef&X-Amz-Credential=AKIA1", "deadbeef"),
        ("aws_secret_access_key = wJalrXUtn", "wJalrXUtn"),
        ("{'account_key': 'Zm9vYmFy'}", "Zm9vYmFy"),
        ("Authorization: Bearer eyJhbGciOi", "eyJhbGciOi"),
        ("RAY_AUTH_TOKEN=0123456789", "0123456789"),
    ],
)
def test_secrets_are_taken_out(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/photos/cat.jpg: not_found",
        "expected 2 labels, got 3: give `labels` or `vocabulary`",
        "method.name: unknown method 'clip_dyi'. Did you mean 'clip_diy'?",
        "https://example.org/a@b.png",
        "speed 12 images/s: se 3.2",
        "/data/horse: no such file",
        "/data/wasp=2/house: no such file",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redact(text) == text


def test_log_lines_and_tracebacks_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    set_up()
    logger = logging.getLogger("pipeline.storage.folder")
    try:
        raise OSError("https://me:hunter2@store/x")
    except OSError:
        logger.exception("reading %s failed", "s3://k:topsecret@bucket/x")
    err = capsys.readouterr().err
    assert "pipeline.storage.folder" in err
    assert "hunter2" not in err
    assert "topsecret" not in err
    set_up()


def test_names_of_any_bytes_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii", "strict"))
    set_up()
    sys.stdout.write("caf\udce9 café")
    sys.stdout.flush()
    assert shown.getvalue() == b"caf\\udce9 caf\\xe9"
