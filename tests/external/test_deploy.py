"""SkyPilot and Kubernetes' own schemas read the files of `deploy/`.

Opt-in, `make test-deploy`: they have their own environment, whose Python is OVSEG_DEPLOY.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

WANTED = os.environ.get("OVSEG_DEPLOY", "")
SCRIPT = Path(__file__).with_name("validate_deploy.py")
DEPLOY = Path(__file__).parents[2] / "deploy"
pytestmark = [
    pytest.mark.skipif(not WANTED, reason="opt-in, takes 0.6 GB: make test-deploy"),
    pytest.mark.timeout(300),
]


def validate(folder: Path, home: Path) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    command = [WANTED, str(SCRIPT), str(folder)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_the_files_fit_the_schemas(tmp_path: Path) -> None:
    done = validate(DEPLOY, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    [sky, kubernetes] = done.stdout.splitlines()[-2:]
    assert sky.endswith("ovseg, 2 kinds of machine")
    assert kubernetes.endswith("PersistentVolumeClaim, ConfigMap, Pod, Pod")


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("sky/annotate.yaml", "use_spot:", "use_spott:"),
        ("kubernetes/rayjob.yaml", "mountPath: /job", "mountpath: /job"),
    ],
)
def test_a_wrong_field_is_found(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    folder = tmp_path / "deploy"
    shutil.copytree(DEPLOY, folder)
    text = (folder / file).read_text(encoding="utf-8")
    assert right in text
    (folder / file).write_text(text.replace(right, wrong), encoding="utf-8")
    done = validate(folder, tmp_path)
    assert done.returncode != 0
    assert wrong.partition(":")[0] in done.stderr
