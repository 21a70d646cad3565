"""What is printed and logged has no secrets, and names in it are text that no terminal obeys."""

import io
import json
import logging
import re
import sys
import warnings

import pytest

from jobs import console
from jobs.console import set_up_logging
from schemas.errors import ConfigError
from schemas.untrusted import LOG_FORMAT_ENV


def test_log_lines_and_tracebacks_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    logger = logging.getLogger("pipeline.storage.folder")
    try:
        raise OSError("https://me:hunter2@store/x")
    except OSError:
        logger.exception("reading %s failed", "s3://k:topsecret@bucket/x")
    err = capsys.readouterr().err
    assert "ERROR reading s3://***@bucket/x failed" in err
    assert "hunter2" not in err
    assert "topsecret" not in err
    set_up_logging()


def test_all_of_stderr_is_json_objects_without_secrets_where_that_is_wished(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOG_FORMAT_ENV, "text")  # is put back after the test
    set_up_logging(log_format="json")
    console.mistakes(ConfigError("images: s3://k:hunter2@bucket/x is empty", "out: not given"))
    logging.getLogger("pipeline.job").info("two\nlines")
    console.error_line("job 7 runs")
    try:
        raise ValueError("\x1b[2J")
    except ValueError as error:
        console.bug(error)
    lines = capsys.readouterr().err.splitlines()
    found = [(entry["level"], entry["message"]) for entry in map(json.loads, lines)]
    assert found == [
        ("ERROR", "images: s3://***@bucket/x is empty"),
        ("ERROR", "out: not given"),
        ("INFO", "two\nlines"),
        ("INFO", "job 7 runs"),
        ("CRITICAL", "a bug of ovseg: \x1b[2J"),
    ]
    assert "ValueError" in json.loads(lines[-1])["exception"]
    set_up_logging()


def test_undecodable_names_are_printed_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii", "strict"))
    set_up_logging()
    sys.stdout.write("caf\udce9 café")
    sys.stdout.flush()
    assert shown.getvalue() == b"caf\\udce9 caf\\xe9"


HOSTILE = "cat\x1b[2J\x1b]0;t\x07.png\nerror: all is lost\r\x9b31m\u202egpj\u200b\udce9"
SHOWN = r"cat\x1b[2J\x1b]0;t\x07.png\nerror: all is lost\r\x9b31m\u202egpj\u200b\udce9"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_names_are_escaped_wherever_a_command_prints_them(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    console.table(HOSTILE, [HOSTILE], [[HOSTILE], [HOSTILE]])
    console.facts([(HOSTILE, HOSTILE)])
    console.line(HOSTILE)
    console.line_with_token(HOSTILE)
    console.foreign_line(HOSTILE)
    console.error_line(HOSTILE)
    console.mistakes(ConfigError(HOSTILE, HOSTILE))
    out, err = capsys.readouterr()
    assert (out + err).count(SHOWN) == 12
    assert [line for line in (out + err).splitlines() if line.startswith("error: all")] == []
    assert [line.startswith("error: cat") for line in err.splitlines()] == [False, True, True]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_names_are_escaped_in_log_warnings_and_tracebacks(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    set_up_logging()
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        logging.getLogger("pipeline.run").exception("%s", HOSTILE)
        console.bug(error)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("py.warnings").warning(
            "%s", warnings.formatwarning(HOSTILE, UserWarning, "a.py", 1)
        )
    err = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)  # the terminal's colours
    first = SHOWN.split(r"\n", maxsplit=1)[0]
    assert err.count(SHOWN) == 2  # the log's message and the warning; a traceback has lines
    assert err.count(first) == 4
    assert not set(err) & set("\x1b\x07\r\x9b\u202e\u200b")
    set_up_logging()


def test_a_terminal_shows_cells_in_bold_and_a_file_does_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    rows = [("naclip", "64.1"), ("sc_clip", console.Bold("64.6"))]
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda is_terminal=is_terminal: is_terminal)
        console.table("Figures", ("name", "VOC21"), rows)
        out = capsys.readouterr().out
        assert "64.1" in out
        assert ("\x1b[1m64.6" in out) == is_terminal


def test_a_secret_on_the_command_line_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging()
    console.warn_of_secrets(["annotate", "--images", "https://h/list.php?id=3", "--out", "run"])
    assert capsys.readouterr().err == ""
    console.warn_of_secrets(["annotate", "--images", "https://h/list.csv?sig=SECRET"])
    err = capsys.readouterr().err
    assert "job file that only you may read" in err
    assert "SECRET" not in err


def test_json_keeps_names_exactly_and_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({HOSTILE: [HOSTILE]})
    out = capsys.readouterr().out
    assert json.loads(out) == {HOSTILE: [HOSTILE]}
    assert not set(out) & set("\x1b\x07\r\x9b\u202e\u200b\udce9")


def test_colours_of_another_program_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    console.foreign_line("\x1b[36m(pid=7)\x1b[0m token=hunter2hunter2 \x1b]0;t\x07")
    assert capsys.readouterr().out == "(pid=7) token=*** \\x1b]0;t\\x07\n"
