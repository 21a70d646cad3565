"""`make audit`: an advisory fails the build; what could not be checked is only said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit.py"
GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ([GOOD, UNKNOWN], 0, "1 locked versions checked, 1 not known to the source; 0 with"),
        ([GOOD, BAD], 1, "b 2: PYSEC-1, fixed in 2.1"),
        ([UNKNOWN, UNKNOWN], 0, "NOT CHECKED, no source of advisories answers"),
        (None, 0, "NOT CHECKED, no source of advisories answers (pypi: no network; osv: no"),
    ],
)
def test_the_build_fails_only_for_an_advisory(
    answer: list | None, code: int, said: str, tmp_path: Path
) -> None:
    tool = tmp_path / "pip-audit"
    say = "echo no network >&2" if answer is None else f"cat {tmp_path}/answer.json"
    tool.write_text(f"#!/bin/sh\n{say}\nexit 1\n", encoding="utf-8")
    tool.chmod(0o755)
    (tmp_path / "answer.json").write_text(json.dumps({"dependencies": answer}), encoding="utf-8")
    result = run(tool)
    assert result.returncode == code
    assert said in result.stdout


def test_a_tool_that_could_not_be_installed_is_said(tmp_path: Path) -> None:
    result = run(tmp_path / "none")
    assert result.returncode == 0
    assert "pip-audit could not be installed" in result.stdout


def run(tool: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, AUDIT, tool, "constraints.txt"]
    return subprocess.run(command, capture_output=True, text=True, check=False)
