"""The command that uses the words of the try page in a new run."""

import json
import shlex
from collections.abc import Sequence

from pipeline.storage import uris
from schemas.config import JobConfig
from schemas.redact import redact

_NOT_SET = ("images", "method.name", "vocabulary.", "calibration")
"""Fields that the command has options for, or that only a file can give (see `lacks`)."""


def command(job: JobConfig, words: Sequence[str], method: str, features_of: str = "") -> str:
    """Return a command that gives the run's images other words; secrets are hidden.

    Args:
        job: of the run; what it sets is kept, apart from its vocabulary, and from the options of
            its method where another one is asked.
        words: the labels.
        method: its name.
        features_of: the run folder, if it has features of this method: `ovseg relabel` needs
            nothing else, and keeps every setting. Empty: the images are annotated again.
    """
    run = features_of or (job.out if _is_relative(job.out) else uris.normalise(job.out))
    new = ["--labels", ",".join(words), "--out", uris.beside(run, "-words")]
    local = ["--local"] if job.run.local else []
    if features_of:
        return shlex.join(map(redact, ["ovseg", "relabel", features_of, *new, *local]))
    parts = ["ovseg", "annotate", "--images", job.images, *new, "--method", method, *local]
    left_out = _NOT_SET + (() if method == job.method.name else ("method.",))
    usual = JobConfig.model_validate({"images": "", "out": "", "labels": ["x"]}).output_fields()
    for field, value in job.output_fields().items():
        if value != usual.get(field) and not field.startswith(left_out):
            parts += ["--set", f"{field}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(map(redact, parts))


def _is_relative(place: str) -> bool:
    """Return whether a place is a path from the current folder, as the images' may be too."""
    return not uris.scheme(place) and not place.startswith(("/", "~", "file:"))


def place(job: JobConfig, uri: str) -> str:
    """Return the run folder as it was typed, where that leads to it, else its address."""
    return job.out if _is_relative(job.out) and uris.normalise(job.out) == uri else uri


def lacks(job: JobConfig, features_of: str = "") -> str:
    """Return sentences on what of the run's job the command does not have; empty: it has all.

    Args:
        job: of the run.
        features_of: see `command`.
    """
    of_run = job.vocabulary
    sentences = []
    if of_run != type(of_run).model_validate({"labels": of_run.names}):
        sentences.append(
            "The run's vocabulary also has synonyms, templates or background phrases, which this "
            "page uses and the command does not: give them in a file (--vocabulary FILE)."
        )
    if job.calibration is not None and not features_of:
        sentences.append("The run was calibrated, for its labels: the command has no calibration.")
    return " ".join(sentences)
