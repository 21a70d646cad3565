"""Ray that does not come up is tried once more, then said in one line; bugs are not swallowed."""

import pytest
import ray

from pipeline import cluster
from schemas.errors import ResourceError


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, times: int) -> list[dict]:
    """Let the next `times` starts of Ray fail; return the arguments of each start."""
    starts: list[dict] = []

    def init(**arguments: object) -> None:
        starts.append(arguments)
        if len(starts) <= times:
            raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return starts


SLOW = Exception("The current node timed out during startup.")  # Ray raises the bare class


def test_a_slow_start_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = failing(monkeypatch, SLOW, times=1)
    with cluster.connected():
        assert len(starts) == 2
    assert all(arguments["address"] == "local" for arguments in starts)


def test_two_slow_starts_are_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, SLOW, times=2)
    with pytest.raises(ResourceError, match=r"run\.local=true"), cluster.connected():
        pass


def test_no_cluster_at_the_address_is_not_replaced_by_one_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts = failing(monkeypatch, SLOW, times=1)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ResourceError, match=r"RAY_ADDRESS=127\.0\.0\.1:9"), cluster.connected():
        pass
    assert len(starts) == 1


def test_bugs_stay_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = failing(monkeypatch, TypeError("unexpected argument"), times=1)
    with pytest.raises(TypeError), cluster.connected():
        pass
    assert len(starts) == 1
