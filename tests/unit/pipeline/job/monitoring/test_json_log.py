"""The log as JSON: one object a line, with what is known of run, shard and worker, no secrets."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from pipeline.job.monitoring import json_log
from pipeline.job.monitoring.json_log import JsonFormatter, log_fields
from pipeline.job.progress import LoggedProgress, make_progress
from schemas.records import ShardTally
from schemas.untrusted import LOG_FORMAT_ENV


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    monkeypatch.setattr(json_log, "_of_process", {})  # a worker of another test filled it
    stream, logger = io.StringIO(), logging.getLogger("pipeline")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)


def entries(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_object_with_what_is_known_of_its_place(log: io.StringIO) -> None:
    logger = logging.getLogger("pipeline.job.driver")
    with log_fields(run="s3://bucket/run", worker="node-1/17"):
        with log_fields(shard=3):
            logger.warning("slow: %s\nand more", "a.jpg")
        logger.error("given up", extra={"shard": 9})
    logger.info("after")
    first, second, third = entries(log)
    assert str(first.pop("time")).endswith("Z")
    assert first == {
        "level": "WARNING",
        "logger": "pipeline.job.driver",
        "message": "slow: a.jpg\nand more",
        "run": "s3://bucket/run",
        "shard": 3,
        "worker": "node-1/17",
    }
    assert (second["shard"], second["worker"]) == (9, "node-1/17")
    assert not {"shard", "worker", "progress", "exception"} & set(third)


def test_secrets_are_hidden_in_message_fields_and_traceback(log: io.StringIO) -> None:
    with log_fields(run="https://host/x?sig=hunter2hunter2"):
        try:
            raise OSError("https://me:hunter2@store/x")
        except OSError:
            logging.getLogger("pipeline.run").exception("of s3://k:hunter2@bucket/x \x1b[2J")
    (entry,) = entries(log)
    assert "hunter2" not in log.getvalue()
    assert "\x1b" not in log.getvalue()
    assert entry["run"] == "https://host/x?***"
    assert "Traceback" in str(entry["exception"])


def test_progress_is_a_record_with_its_counts(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOG_FORMAT_ENV, "json")
    progress = make_progress(io.StringIO())
    assert isinstance(progress, LoggedProgress)
    progress.start(total=1200, resumed=200)
    progress.begin()
    progress.add(ShardTally(num_images=50, num_segments=3, errors={"truncated": 2}, seconds={}))
    progress.close()
    counts = [entry["progress"] for entry in entries(log)]
    assert all(isinstance(one, dict) for one in counts)
    assert [one["done"] for one in counts if isinstance(one, dict)] == [200, 250]
    assert counts[-1] == {
        "unit": "images", "done": 250, "total": 1200, "errors": {"truncated": 2}, "given_up": 0,
    } | {"per_s": counts[-1]["per_s"] if isinstance(counts[-1], dict) else None}  # fmt: skip
