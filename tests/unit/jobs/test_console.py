"""Log lines without secrets; names of any bytes can be printed."""

import io
import logging
import sys

import pytest

from jobs.console import set_up_logging


def test_log_lines_and_tracebacks_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    logger = logging.getLogger("pipeline.storage.folder")
    try:
        raise OSError("https://me:hunter2@store/x")
    except OSError:
        logger.exception("reading %s failed", "s3://k:topsecret@bucket/x")
    err = capsys.readouterr().err
    assert "pipeline.storage.folder" in err
    assert "hunter2" not in err
    assert "topsecret" not in err
    set_up_logging()


def test_undecodable_names_are_printed_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii", "strict"))
    set_up_logging()
    sys.stdout.write("caf\udce9 café")
    sys.stdout.flush()
    assert shown.getvalue() == b"caf\\udce9 caf\\xe9"
