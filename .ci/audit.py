"""Check the locked versions against known advisories: `make audit`, also in CI.

    python .ci/audit.py PIP_AUDIT CONSTRAINTS

pip-audit asks the package index about each version, and OSV where the index has no advisories.
Exits with 1 if a version has a known advisory; where no source can be reached this is said, and the
exit code is 0: a machine without a network builds and tests all the same.
"""
# ruff: noqa: T201 - a script that prints

import json
import subprocess
import sys
from typing import Any

LIMIT_S = 120
SOURCES = ("pypi", "osv")


def main(pip_audit: str, constraints: str) -> int:
    """Print what was found; return the exit code."""
    vulnerable, checked, reasons = [], 0, []
    for source in SOURCES:
        found, why = ask(pip_audit, constraints, source)
        known = [package for package in found if "skip_reason" not in package]
        if known:
            checked = len(known)
            vulnerable = [package for package in known if package["vulns"]]
            break
        reasons.append(f"{source}: {why}")
    if not checked:
        print(f"audit: NOT CHECKED, no source of advisories answers ({'; '.join(reasons)})")
        return 0
    for package in vulnerable:
        for advisory in package["vulns"]:
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
    skipped = len(found) - checked
    missing = f", {skipped} not known to the source" if skipped else ""
    print(f"audit: {checked} locked versions checked{missing}; {len(vulnerable)} with an advisory")
    return 1 if vulnerable else 0


def ask(pip_audit: str, constraints: str, source: str) -> tuple[list[dict[str, Any]], str]:
    """Return what a source says of each package, and why it says nothing."""
    command = [pip_audit, "-r", constraints, "--no-deps", "--disable-pip", "--timeout", "10"]
    command += ["--vulnerability-service", source, "--progress-spinner", "off", "--format", "json"]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except FileNotFoundError:
        return [], "pip-audit could not be installed"
    except subprocess.TimeoutExpired:
        return [], f"no answer within {LIMIT_S} s"
    try:
        return json.loads(ended.stdout)["dependencies"], "it knows none of the packages"
    except (ValueError, KeyError):
        lines = ended.stderr.strip().splitlines() or ["no answer"]
        return [], lines[-1][:120]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
