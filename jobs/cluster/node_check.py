"""Runs on the cluster before the job: is this node's Python able to, and does it differ?

It is uploaded beside `job.yaml` and run by the interpreter that will annotate, so it imports
nothing of ovseg. What makes the job impossible ends it with one line; other differences are said.
"""

import json
import logging
import platform
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

SENT = "sent_from.json"
"""Versions of the machine that submitted the job, in the uploaded folder."""


def check_node(sent: dict[str, Any]) -> None:
    """Check this interpreter against the machine that submitted a job.

    Args:
        sent: its versions of `python`, `ray` and `ovseg`; `code`, a short hash of the ovseg that
            it sent along, or empty: the one that is installed here is used; then `requires_python`
            and `requires`, what that code needs, as its package's metadata writes it.

    Raises:
        SystemExit: the code cannot run here; its text says what differs and what to do.
    """
    here = {
        "python": platform.python_version(),
        "ray": installed_version("ray"),
        "ovseg": installed_version("ovseg"),
    }
    if sent["code"]:
        lacks = _what_lacks(sent, here["python"])
        if lacks:
            raise SystemExit(
                f"error: the ovseg {sent['ovseg']} that was sent along cannot run on "
                f"{socket.gethostname()}: {'; '.join(lacks)}. Start Ray there from an environment "
                "that has this, or use a container image with ovseg (deploy/docker)"
            )
        logging.info(
            "ovseg %s as it was sent (code %s) on Python %s and Ray %s",
            *(sent["ovseg"], sent["code"], here["python"], here["ray"]),
        )
    differs = [
        f"{name} {here[name] or 'unknown'} here, {sent[name]} where the job was submitted"
        for name in here
        if here[name] != sent[name]
    ]
    if differs:
        hint = "" if here["ovseg"] == sent["ovseg"] else "; `--ship` would send that ovseg along"
        logging.warning("the versions differ: %s%s", "; ".join(differs), hint)


def _what_lacks(sent: dict[str, Any], python: str) -> list[str]:
    from packaging.requirements import Requirement  # comes with Ray
    from packaging.specifiers import SpecifierSet

    if not SpecifierSet(sent["requires_python"]).contains(python, prereleases=True):
        return [f"it needs Python {sent['requires_python']}, and there is {python}"]
    lacks = []
    for text in sent["requires"]:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        found = installed_version(needed.name)
        if not found:
            lacks.append(f"{needed.name} is missing")
        elif not needed.specifier.contains(found, prereleases=True):
            lacks.append(f"it needs {needed.name}{needed.specifier}, and there is {found}")
    return lacks


def installed_version(package: str) -> str:
    """Return the version of a package as this interpreter finds it; empty: it does not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    check_node(json.loads(Path(SENT).read_text(encoding="utf-8")))
