"""Ray's job server as `ovseg submit` uses it: every answer has a limit, the log is followed."""

import asyncio
import json
import logging
import os
import queue
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pipeline.job.worker_process import has_ray_token, send_ray_token
from schemas.errors import ClusterError, ConfigError, ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ANSWER_S = 20.0
"""Limit of one request; Ray's client has none."""
T = TypeVar("T")
_LINE_END = re.compile(r"\r\n|\n|\r(?=[^\n])")
"""A bar of progress ends its line by CR alone."""
_HEADERS_ENV = "RAY_JOB_HEADERS"
_LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")


def server_address(text: str) -> str:
    """Return the URL of a job server; `HOST:8265` is short for `http://HOST:8265`.

    Raises:
        ConfigError: it cannot be one.
    """
    address = text if "://" in text else f"http://{text}"
    if not address.startswith(("http://", "https://")) or not urlsplit(address).hostname:
        raise ConfigError(
            f"--address {text}: expected the address of the head's dashboard, such as "
            "http://head:8265 (`ray start --head` prints it)"
        )
    return address


def connect_to_server(address: str) -> "JobSubmissionClient":
    """Return a client of a cluster's job server.

    Its token is that of Ray: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH or `~/.ray/auth_token`,
    unless RAY_AUTH_MODE is `disabled`. RAY_JOB_HEADERS (JSON) are sent, too.

    Raises:
        ConfigError: RAY_JOB_HEADERS is not a JSON object.
        ClusterError: nothing answers.
        ResourceError: no job server answers, or it does not accept the token.
    """
    send_ray_token()
    headers = _headers()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in _LOGGERS:  # notes on uploads and WebSockets
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return answer_of(JobSubmissionClient, address, headers=headers)
    except AuthenticationError as error:
        raise _not_accepted(address, error) from error
    except lost_errors() as error:
        if "authentication" in str(error).lower():
            raise _not_accepted(address, error) from error
        kind = ClusterError if isinstance(error, OSError) else ResourceError
        raise kind(
            f"{address}: no Ray job server answers ({joined_lines(error)}); "
            "expected the address of the head's dashboard, such as http://head:8265"
        ) from error


def _not_accepted(address: str, error: Exception) -> ResourceError:
    given = "does not accept the token that was given" if has_ray_token() else "wants a token"
    return ResourceError(
        f"{address}: the cluster {given}. Set RAY_AUTH_TOKEN to the one that it was started with, "
        "or RAY_AUTH_TOKEN_PATH to a file that holds it (on the head's machine it is usually "
        f"~/.ray/auth_token); Ray says: {joined_lines(error)}"
    )


def _headers() -> dict[str, str] | None:
    text = os.environ.get(_HEADERS_ENV)
    if not text:
        return None
    try:
        headers = json.loads(text)
    except ValueError:
        headers = None
    if not isinstance(headers, dict):
        # The text is not shown: it may hold a token.
        raise ConfigError(f'{_HEADERS_ENV}: expected a JSON object such as {{"name": "value"}}')
    return {str(name): str(value) for name, value in headers.items()}


def lost_errors() -> tuple[type[Exception], ...]:
    """Return what the client raises where the server does not answer, or not as it should."""
    from ray.exceptions import RayError

    return (OSError, RuntimeError, ValueError, RayError)  # requests' errors are OSErrors


def is_unknown_job(error: Exception) -> bool:
    """Return whether the client's error says that the server does not know the job."""
    return isinstance(error, RuntimeError) and "status code 404" in str(error)


def answer_of(call: Callable[..., T], *args: Any, limit_s: float = ANSWER_S, **options: Any) -> T:
    """Return the result of a call of the client.

    Raises:
        TimeoutError: there was none within the limit; its thread is left behind.
    """
    results: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def work() -> None:
        try:
            results.put((call(*args, **options), None))
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            results.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = results.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {limit_s:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


class JobLog:
    """The log of a job as it grows; after `restart` it goes on where it was.

    Args:
        client: of the job server.
        job_id: of a job that it knows.
    """

    def __init__(self, client: "JobSubmissionClient", job_id: str) -> None:
        self._client = client
        self._job_id = job_id
        self._num_read = 0
        self._begun = ""
        self.restart()

    def restart(self) -> None:
        """Connect again; the server begins at the log's start, what was read is left out."""
        self.has_ended = False
        self.is_complete = False
        self._to_skip = self._num_read
        self._texts: queue.Queue[str | bool] = queue.Queue()
        threading.Thread(target=self._follow, args=(self._texts,), daemon=True).start()

    def read_lines(self, timeout_s: float) -> list[str]:
        """Return the next whole lines; none: there are none within the time, or the log has ended.

        A line is kept until its end has come: half a secret would not be recognised.
        """
        *lines, self._begun = _LINE_END.split(self._begun + self._read(timeout_s))
        return lines

    def take_begun_line(self) -> str:
        """Return the last line, whose end has not come; empty: there is none."""
        begun, self._begun = self._begun, ""
        return begun

    def _read(self, timeout_s: float) -> str:
        if self.has_ended:
            return ""
        try:
            text = self._texts.get(timeout=timeout_s)
        except queue.Empty:
            return ""
        if isinstance(text, bool):
            self.has_ended, self.is_complete = True, text
            return ""
        skipped = min(self._to_skip, len(text))
        self._to_skip -= skipped
        self._num_read += len(text) - skipped
        return text[skipped:]

    def _follow(self, texts: "queue.Queue[str | bool]") -> None:
        async def follow() -> None:
            async for text in self._client.tail_job_logs(self._job_id):
                texts.put(text)

        is_complete = False
        try:
            asyncio.run(follow())
            is_complete = True
        except Exception:
            logging.getLogger(__name__).debug("the log broke off", exc_info=True)
        finally:
            texts.put(is_complete)


def joined_lines(error: BaseException) -> str:
    """Return an error's whole text in one line: Ray's hints stand in its last lines."""
    return " ".join(str(error).split()) or type(error).__name__
