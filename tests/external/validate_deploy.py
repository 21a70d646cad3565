"""Check files of `deploy/` by SkyPilot's and Kubernetes' own schemas; prints what was checked.

Run by the Python of `make test-deploy`: python validate_deploy.py FOLDER
"""

import sys
from pathlib import Path

import kubernetes_validate
import sky
import yaml


def check_sky(file: Path) -> str:
    """Read a task as `sky jobs launch` does, with its schema of tasks and resources."""
    task = sky.Task.from_yaml(str(file))
    assert all(one.use_spot and one.accelerators for one in task.resources)
    return f"sky {sky.__version__}: {task.name}, {len(task.resources)} kinds of machine"


def check_kubernetes(file: Path) -> str:
    """Check every object, and the pods inside the RayJob; no unknown field passes."""
    version = kubernetes_validate.latest_version()
    kinds = []
    for part in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        objects = [part]
        if part["kind"] == "RayJob":
            cluster = part["spec"]["rayClusterSpec"]
            about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
            groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
            objects = [about | group["template"] for group in groups]
        for one in objects:
            kubernetes_validate.validate(one, version, strict=True)
            kinds.append(one["kind"])
    return f"kubernetes {version}: {', '.join(kinds)}"


folder = Path(sys.argv[1])
said = (
    check_sky(folder / "sky" / "annotate.yaml"),
    check_kubernetes(folder / "kubernetes" / "rayjob.yaml"),
)
sys.stdout.write("\n".join(said) + "\n")
