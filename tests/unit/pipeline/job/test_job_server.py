"""Calls of Ray's job server: they have a limit, and what is secret is not shown."""

import threading
from collections.abc import AsyncIterator

import pytest

from pipeline.job.job_server import JobLog, answer_of, connect_to_server, joined_lines
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


class _Parts:
    """A job server whose log comes in parts, and which breaks off after the last of them once."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for part in self.parts:
            yield part


def test_a_log_is_read_by_whole_lines_so_that_secrets_are_seen_whole() -> None:
    log = JobLog(_Parts("a\n\ntoken=hun", "ter2\r\n10 %\r", "20 %\r100 %\nend"), "job")  # type: ignore[arg-type]
    lines: list[str] = []
    while not log.has_ended:
        lines += log.read_lines(5.0)
    assert lines == ["a", "", "token=hunter2", "10 %", "20 %", "100 %"]
    assert (log.take_begun_line(), log.take_begun_line()) == ("end", "")
