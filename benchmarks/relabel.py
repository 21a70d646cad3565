"""Other words from stored features against annotating again: `python -m benchmarks.grow relabel`.

Speed: photographs of 480 x 640 on random networks of the shape of CLIP ViT-B/16, by the worker that
both commands use, from files to committed shards. CPU seconds of the process with one thread,
without loading networks and words; of relabel the mean of several runs after one that is not
counted. A decision takes longer with more labels: `WORDS` are four, and one method is measured with
thirty as well. Also what the vector of each image costs: the same worker without it. Equality:
drawn scenes on the embedded models, other words by a direct run and from features in float16 and
int8.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.photographs import write_photographs
from benchmarks.proxyclip import random_vit_b16
from jobs.demo.draw import draw_scenes
from pipeline.annotate.build import Built, build
from pipeline.job import job
from pipeline.job.worker import Worker, WorkerSetup
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from schemas.config import JobConfig

SIZE_HW = (480, 640)
IMAGES = {"maskclip": 3, "sclip": 3, "clip_diy": 1}
"""Methods, with the number of photographs; those of CLIP-DIY take 59 crops each."""
ROUNDS = 5
"""Runs of relabel, each into a folder of its own."""
SCENES = 24
WORDS = ["thing one", "thing two", "thing three", "thing four"]
MANY_WORDS = [f"thing {number}" for number in range(30)]
OF_MANY_WORDS = "sclip"
Networks = dict[bool, Built]
"""A method with its networks, loaded once: whether it sees images."""


def measure() -> dict[str, float]:
    """Return `relabel_over_annotate_b16`, the least of the methods, and what it is made of."""
    torch.set_num_threads(1)
    return speed() | equality()


def speed() -> dict[str, float]:
    """Return CPU seconds an image of both ways, and their ratios."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="ovseg-relabel-") as place:
        networks = Path(place, "networks")
        networks.mkdir()
        random_vit_b16(networks)
        for method, count in IMAGES.items():
            images = write_photographs(Path(place, method), SIZE_HW, count, count)
            loaded: Networks = {}
            options = {"objectness": "none"} if method == "clip_diy" else {}
            common: dict[str, Any] = {
                "images": str(images),
                "vocabulary": {"labels": WORDS, "templates": "{}"},
                "method": {"name": method, "options": options},
                "clip": {"model": f"local-dir:{networks}/clip"},
                "vision": {"model": f"local-dir:{networks}/vision"},
            }
            plain = {"local": True, "device": "cpu"}
            kept = {**common, "out": f"{place}/{method}-run"}
            kept["run"] = {**plain, "keep_features": "float16"}
            annotate_s = _cpu_s(JobConfig.model_validate(kept), loaded) / count
            no_vectors = {**common, "out": f"{place}/{method}-plain", "run": plain}
            without_s = (
                _cpu_s(JobConfig.model_validate(no_vectors), loaded, has_vectors=False) / count
            )
            again = {**common, "run": plain, "features_of": kept["out"]}
            relabel_s = _relabel_s(again, f"{place}/{method}-again", loaded) / count
            found |= {
                f"annotate_b16_{method}_cpu_s": round(annotate_s, 3),
                f"relabel_b16_{method}_cpu_s": round(relabel_s, 4),
                f"relabel_over_annotate_b16_{method}": round(annotate_s / relabel_s, 1),
                f"vectors_and_features_share_b16_{method}": round(1 - without_s / annotate_s, 3),
            }
            if method == OF_MANY_WORDS:
                many = {"labels": MANY_WORDS, "templates": "{}"}
                direct = {**common, "vocabulary": many, "out": f"{place}/{method}-many"}
                direct_s = _cpu_s(JobConfig.model_validate({**direct, "run": plain}), loaded)
                direct_s /= count
                made = {**again, "vocabulary": many}
                relabel_s = _relabel_s(made, f"{place}/{method}-many-again", loaded) / count
                name = f"relabel_over_annotate_b16_{method}_{len(MANY_WORDS)}_labels"
                found[name] = round(direct_s / relabel_s, 1)
    ratios = [found[f"relabel_over_annotate_b16_{method}"] for method in IMAGES]
    return {**found, "relabel_over_annotate_b16": min(ratios)}


def _relabel_s(fields: dict[str, Any], out: str, networks: Networks) -> float:
    """Return the mean CPU seconds of a relabel, after one in which all is done for the first time.

    Args:
        fields: of the job.
        out: its run folders begin with this.
        networks: of the method.
    """
    jobs = [JobConfig.model_validate({**fields, "out": f"{out}-{n}"}) for n in range(ROUNDS + 1)]
    return sum([_cpu_s(config, networks) for config in jobs][1:]) / ROUNDS


def _cpu_s(config: JobConfig, networks: Networks, *, has_vectors: bool = True) -> float:
    """Return the CPU seconds in which a worker does all shards of a job, all threads together."""

    def built(config: JobConfig, device: str) -> Built:
        sees_images = not config.features_of
        if sees_images not in networks:
            networks[sees_images] = build(config, device)
        return networks[sees_images] if has_vectors else replace(networks[sees_images], clip=None)

    planned = job.plan(config)
    worker = Worker(WorkerSetup(planned.config, "cpu", built))
    run = planned.begin(worker.prepare())
    torch.set_num_threads(1)
    began_s = time.process_time()
    for shard in run.shards():
        worker.annotate(shard)
    spent_s = time.process_time() - began_s
    worker.close()
    return spent_s


def equality() -> dict[str, float]:
    """Return the shares of equal pixels, the least of two methods."""
    found: dict[str, float] = {"relabel_scenes": SCENES}
    with tempfile.TemporaryDirectory(prefix="ovseg-relabel-") as place:
        images = Path(place, "scenes")
        images.mkdir()
        labels = list(draw_scenes(images, SCENES, 0).labels)
        for precision, short in (("float16", "f16"), ("int8", "int8")):
            shares = []
            for method in ("clip_diy", "naclip"):
                common = {
                    "images": str(images),
                    "method": {"name": method},
                    "clip": {"model": "embedded"},
                }
                here = {"local": True, "device": "cpu"}
                name = f"{place}/{method}-{short}"
                kept = {**here, "keep_features": precision}
                first = {**common, "labels": labels[:5], "out": f"{name}-first", "run": kept}
                job.run(JobConfig.model_validate(first))
                others = {**common, "labels": labels[5:], "run": here}
                direct = JobConfig.model_validate({**others, "out": f"{name}-direct"})
                job.run(direct)
                made = {**others, "out": f"{name}-made", "features_of": first["out"]}
                job.run(JobConfig.model_validate(made))
                shares.append(_equal_pixels(direct.out, made["out"]))
            found[f"relabel_pixels_equal_{short}"] = round(min(shares), 5)
    return found


def _equal_pixels(one: str, other: str) -> float:
    ours, theirs = (
        [
            labels
            for shard in RunReader(RunFolder.open(it)).shards()
            for _, labels in shard.label_maps()
        ]
        for it in (one, other)
    )
    same = [(a == b).ravel() for a, b in zip(ours, theirs, strict=True)]
    return float(np.concatenate(same).mean())
