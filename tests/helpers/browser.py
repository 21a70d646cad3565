"""The browser that drives the pages: the system's Chromium, not one that Playwright downloads."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
_TOLD = os.environ.get("OVSEG_CHROMIUM", "")
CHROMIUM = next(filter(None, map(shutil.which, [_TOLD] if _TOLD else NAMES)), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason=(f"OVSEG_CHROMIUM={_TOLD} is no executable" if _TOLD else "no Chromium on the PATH")
    + "; `apt-get install chromium`, or name one in OVSEG_CHROMIUM",
)
