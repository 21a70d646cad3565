"""A call at a job's end or failure: one POST with a small JSON to an address of the user's.

The end of a run is told once, also where several commands meet it: a record in the run folder says
so. It is written before the call and again after it, so that an end whose call failed is told by
the next command, with the same `id`. A failure is told by each command that fails. Nothing here
holds a job up for more than 5 s, or makes it fail.
"""

import base64
import hashlib
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from pipeline.job.report import RunReport
from pipeline.run.folder import RunFolder
from pipeline.storage.places import WEB
from schemas.base import Frozen
from schemas.config import RunConfig
from schemas.errors import ConfigError, ExitCode, OutageError, OvsegError
from schemas.redact import redact
from schemas.untrusted import shown_text

logger = logging.getLogger(__name__)

WEBHOOK_ENV = "OVSEG_WEBHOOK"
"""Environment variable: the address, where the job names none."""
LIMIT_S = 5.0
"""Of one call, from the look-up of the name to the answer."""
_CLAIMED_S = 60.0
"""A record that is older and says of no answer was left by a command that was killed."""
_MAX_RECORD_BYTES = 1 << 16


class JobEnd(Frozen):
    """What is told. Counts are of the whole run folder."""

    id: str
    """The same where the same end is told again."""
    status: Literal["done", "incomplete", "failed"]
    """`done`; `incomplete`: the run has ended, but too many images failed (exit code 3); `failed`:
    this command ended before the run, and the same command goes on."""
    text: str
    """One line for people; chats such as Slack and Mattermost show this field."""
    run: str
    """The run folder, without secrets."""
    exit_code: int
    num_images: int = 0
    num_done: int = 0
    """Images with a row, failed ones included."""
    num_segments: int = 0
    errors: dict[str, int] = {}
    """Failed images by code."""
    failed_shards: int = 0
    seconds: float = 0.0
    """How long this command took."""
    images_per_s: float = 0.0
    time: str
    """UTC, ISO 8601."""
    version: str
    """Of ovseg."""


class _Record(Frozen):
    """Of one end, in the run folder; it holds no address."""

    begun: float
    """Seconds since 1970."""
    is_told: bool = False


def webhook_url(run: RunConfig) -> str:
    """Return the address to call: the job's, else that of the environment; empty: none.

    Raises:
        ConfigError: it cannot be called. It is not repeated: most such addresses are secrets.
    """
    url = run.webhook or os.environ.get(WEBHOOK_ENV, "")
    try:
        parts = urlsplit(url)
        is_right = not url or (parts.scheme in WEB and parts.hostname and parts.port != 0)
    except ValueError:  # a port or an address in brackets that is none
        is_right = False
    if not is_right or any(letter.isspace() or not letter.isprintable() for letter in url):
        source = "run.webhook" if run.webhook else WEBHOOK_ENV
        raise ConfigError(
            f"{source}: expected an address such as https://host/path (http or https)"
        )
    return url


def tell_end(url: str, report: RunReport) -> None:
    """Tell how a job ended, where the whole run has ended or this job failed.

    Args:
        url: see `webhook_url`; empty: nobody is told.
        report: of the job. An interrupted one is no end, nor that of a task that leaves work to
            others.
    """
    whole = report.whole or report
    is_end = whole.num_done == whole.num_images and not report.stop_reason
    if not url or report.interrupted or (not is_end and not report.exit_code):
        return
    counts = {
        "num_images": whole.num_images,
        "num_done": whole.num_done,
        "num_segments": whole.num_segments,
        "errors": whole.errors,
    }
    status = ("incomplete" if whole.exit_code else "done") if is_end else "failed"
    end = _job_end(
        report.out,
        status,
        report.summary().partition("\n")[0],
        failed_shards=len(report.failed_shards),
        exit_code=int(whole.exit_code if is_end else report.exit_code),
        seconds=round(report.seconds, 3),
        images_per_s=round(report.images_per_s, 3),
        **counts,
    )
    if not is_end:
        _call(url, end)
        return
    try:
        _tell_once(url, end, RunFolder.open(report.out), counts)
    except OvsegError as error:
        logger.warning("the call of %s is not noted in the run folder: %s", _shown(url), error)


def tell_failure(url: str, out: str, error: Exception, seconds: float) -> None:
    """Tell that a job failed with an error.

    Args:
        url: see `webhook_url`; empty: nobody is told.
        out: the run folder, which may not be there.
        error: what ended the job.
        seconds: how long it took.
    """
    if url:
        why = str(error).partition("\n")[0] or type(error).__name__
        exit_code = ExitCode.OUTAGE if isinstance(error, OutageError) else ExitCode.USER_ERROR
        _call(url, _job_end(out, "failed", why, seconds=round(seconds, 3), exit_code=exit_code))


def _job_end(
    out: str, status: Literal["done", "incomplete", "failed"], what: str, **rest: Any
) -> JobEnd:
    return JobEnd(
        id=os.urandom(8).hex(),
        status=status,
        text=shown_text(f"ovseg: {out}: {status}: {what}"),
        run=redact(out),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("ovseg"),
        **rest,
    )


def _tell_once(url: str, end: JobEnd, run: RunFolder, counts: dict[str, Any]) -> None:
    """Tell the end of a run, unless somebody has told this one: the same counts are the same."""
    state = {**counts, "generation": run.generations.number, "fingerprint": run.info.fingerprint}
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
    name = f"webhook/{digest}.json"
    record = _Record(begun=time.time())
    if not run.folder.create_once(name, _content(record)):
        earlier = _earlier(run, name)
        is_going_on = earlier is not None and time.time() - earlier.begun < _CLAIMED_S
        if earlier is not None and (earlier.is_told or is_going_on):
            return
        run.folder.atomic_write(name, _content(record))
    is_told = _call(url, end.model_copy(update={"id": digest}))
    # Not told: the next command does not have to wait until the claim is old.
    after = record.model_copy(update={"is_told": is_told, "begun": record.begun if is_told else 0})
    run.folder.atomic_write(name, _content(after))


def _content(record: _Record) -> bytes:
    return record.model_dump_json().encode()


def _earlier(run: RunFolder, name: str) -> _Record | None:
    """Return what another command has noted; None: it cannot be read."""
    try:
        data = run.folder.read_bytes(name, _MAX_RECORD_BYTES)
        return _Record.model_validate_json(data)
    except (ValidationError, OSError):
        return None


def _shown(url: str) -> str:
    """Return who is called; the path of such an address is often its secret."""
    return f"the webhook at {urlsplit(url).hostname}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Calls nobody whom the user has not named; the answer 3xx becomes an error."""

    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect."""


def _call(url: str, end: JobEnd) -> bool:
    """Make the call, and log in one line how it went; return whether the address took it."""
    problem = ["no answer within 5 s"]

    def work() -> None:
        try:
            with urllib.request.build_opener(_NoRedirect).open(_request(url, end), timeout=LIMIT_S):
                problem[0] = ""
        except urllib.error.HTTPError as error:
            problem[0] = f"it answered {error.code}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the run has its end
            reason = getattr(error, "reason", error)
            is_late = isinstance(reason, TimeoutError)
            problem[0] = problem[0] if is_late else f"{type(reason).__name__}: {reason}"

    # A thread: the limit of a connection counts anew for each byte, and not for the look-up.
    thread = threading.Thread(target=work, daemon=True, name="webhook")
    thread.start()
    thread.join(LIMIT_S)
    if problem[0]:
        logger.warning("%s was not told of this end: %s", _shown(url), problem[0].replace(url, ""))
    else:
        logger.info("%s was told: %s", _shown(url), end.status)
    return not problem[0]


def _request(url: str, end: JobEnd) -> urllib.request.Request:
    parts = urlsplit(url)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"ovseg/{end.version}",
        "Idempotency-Key": end.id,
    }
    user, at, host = parts.netloc.rpartition("@")
    if at:
        name, _, password = user.partition(":")
        pair = f"{unquote(name)}:{unquote(password)}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    address = parts._replace(netloc=host, fragment="").geturl()
    body = end.model_dump_json().encode()
    return urllib.request.Request(address, body, headers, method="POST")
