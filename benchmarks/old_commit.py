"""A checkout of the commit that today's code is compared with."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OLD_COMMIT = "e384e9e"
ROOT = Path(__file__).parents[1]


@contextmanager
def old_checkout() -> Iterator[Path]:
    """Check the old commit out beside this one, and remove it at the end.

    Raises:
        RuntimeError: this is not a clone with the history down to that commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "old"
        added = _git("worktree", "add", "--detach", str(place), OLD_COMMIT)
        if added.returncode:
            raise RuntimeError(
                f"cannot check out {OLD_COMMIT}, with which this is compared; it needs a whole "
                f"clone: {added.stderr.strip()}"
            )
        try:
            yield place
        finally:
            _git("worktree", "remove", "--force", str(place))


def environment(checkout: Path) -> dict[str, str]:
    """Return the environment of a Python process on the code of a checkout, with one thread.

    Ray starts a cluster of its own in it, whatever runs on this machine.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}


def _git(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
