"""Code that runs in a Python process of its own."""

import os
import subprocess
import sys


def run_python(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code to its end; `env` is added to the environment."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env=os.environ | env, capture_output=True, text=True, check=False
    )
