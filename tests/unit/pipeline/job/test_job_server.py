"""Calls of Ray's job server: they have a limit, and what is secret is not shown."""

import threading

import pytest

from pipeline.job.job_server import answer_of, connect_to_server, joined_lines
from schemas.errors import ConfigError


def test_a_call_that_does_not_return_ends_with_its_limit() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        answer_of(never.wait, limit_s=0.1)
    never.set()
    assert answer_of(int, "7") == 7
    with pytest.raises(ValueError, match="seven"):
        answer_of(int, "seven")


@pytest.mark.parametrize("text", ["SECRET", '["SECRET"]', '{"SECRET'])
def test_headers_that_are_no_object_are_named_without_their_text(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_JOB_HEADERS", text)
    with pytest.raises(ConfigError, match="RAY_JOB_HEADERS") as caught:
        connect_to_server("http://127.0.0.1:9")
    assert "SECRET" not in str(caught.value)


def test_all_lines_of_an_error_are_kept() -> None:
    assert (
        joined_lines(RuntimeError("denied\n\n  set RAY_AUTH_TOKEN\n"))
        == "denied set RAY_AUTH_TOKEN"
    )
    assert joined_lines(TimeoutError()) == "TimeoutError"
