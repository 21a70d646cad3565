"""Peak memory of every window method: 171 labels on one image of 2000 x 1500 pixels.

Each method runs in a process of its own, on random networks of ViT-B/16's size (and of DINO
ViT-B/8's for the second one). `peak` is the process at its highest, `loaded` what it held once
networks and words were there; the difference is what the image costs. Prompts are the bare words,
because eighty templates of 171 words take minutes on a CPU and no memory that stays.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.dense import random_heads, window_methods
from benchmarks.proxyclip import random_vit_b16
from jobs.demo.scenes import draw_scene
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide_one
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import encode_images
from schemas.config import ClipConfig, NamedOptions
from schemas.vocabulary import Vocabulary

NUM_LABELS = 171
SIZE_HW = (1500, 2000)


def status_mb(field: str) -> float:
    """Return a size of this process: `VmRSS` now, `VmHWM` its highest."""
    # Not getrusage: its peak is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def reset_peak() -> None:
    """Forget the highest size so far: reading a weights file holds it twice for a moment."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(folder: str, name: str) -> dict[str, float]:
    """Annotate one image in this process and return its memory."""
    torch.set_num_threads(2)
    method, options = window_methods()[name]
    given: dict[str, Any] = {**options, "templates": "plain"}
    if method == "clip_dinoiser":
        given["heads"] = f"{folder}/heads.safetensors"
    backbones = Backbones(
        ClipConfig(model=f"local-dir:{folder}/clip"), f"local-dir:{folder}/vision"
    )
    segmenter = build_segmenter(NamedOptions(name=method, options=given), backbones)
    labels = [f"thing {number}" for number in range(NUM_LABELS)]
    text = segmenter.text_matrix(Vocabulary.model_validate(labels))
    image = torch.from_numpy(draw_scene(0, SIZE_HW).image).permute(2, 0, 1).contiguous()
    loading, loaded = status_mb("VmHWM"), status_mb("VmRSS")
    reset_peak()
    with torch.inference_mode():
        decide_one(segmenter.score(encode_images(segmenter, [image]), text), 0, SIZE_HW)
    peak = status_mb("VmHWM")
    return {"loading": loading, "loaded": loaded, "peak": peak, "image": peak - loaded}


def main() -> dict[str, Any]:
    """Start a process for each method."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        random_heads(random_vit_b16(Path(folder)).clip, Path(folder))
        for name in window_methods():
            command = [sys.executable, "-m", "benchmarks.dense_memory", folder, name]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found = json.loads(output.splitlines()[-1])
            figures[name] = {part: round(megabytes) for part, megabytes in found.items()}
    return {"ratios": {}, "figures": {"dense_171_labels_2000x1500_mb": figures}}


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:]) if sys.argv[1:] else main()))
