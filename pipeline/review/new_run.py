"""The command that uses the words of the try page in a new run."""

import json
import shlex
from collections.abc import Sequence

from pipeline.storage import uris
from schemas.config import JobConfig
from schemas.errors import UserError
from schemas.redact import redact

_NOT_SET = ("images", "method.name", "vocabulary.labels", "calibration")
"""Fields that the command has options for, or that only a file can give (see `lacks`)."""


def command(job: JobConfig, words: Sequence[str], method: str, features_of: str = "") -> str:
    """Return a command that gives the run's images other words; secrets are hidden.

    Args:
        job: of the run; what it sets is kept, apart from its labels, from phrases that `--set`
            cannot hold, and from the options of its method where another one is asked.
        words: the labels, without commas, which part labels in a command.
        method: its name.
        features_of: the run folder, if it has features of this method: `ovseg relabel` needs
            nothing else, and keeps every setting. Empty: the images are annotated again.

    Raises:
        UserError: a word has a comma.
    """
    if joined := next((word for word in words if "," in word), ""):
        raise UserError(
            f"{joined!r}: expected words without commas, which part words here and in --labels; a "
            "label with a comma is given in a file (--vocabulary FILE)"
        )
    run = features_of or (job.out if _is_relative(job.out) else uris.normalise(job.out))
    new = ["--labels", ",".join(words), "--out", uris.beside(run, "-words")]
    local = ["--local"] if job.run.local else []
    if features_of:
        return shlex.join(map(redact, ["ovseg", "relabel", features_of, *new, *local]))
    parts = ["ovseg", "annotate", "--images", job.images, *new, "--method", method, *local]
    left_out = _NOT_SET + (() if method == job.method.name else ("method.",))
    usual = JobConfig.model_validate({"images": "", "out": "", "labels": ["x"]}).output_fields()
    for field, value in job.output_fields().items():
        is_set = value != usual.get(field) and not field.startswith(left_out)
        if is_set and (not field.startswith("vocabulary.") or _can_be_set(value)):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            parts += ["--set", f"{field}={text}"]
    return shlex.join(map(redact, parts))


def _can_be_set(phrases: Sequence[str]) -> bool:
    """Return whether `--set` reads these phrases as they are: it looks up what `${}` names."""
    return all(phrase.isprintable() and "${" not in phrase for phrase in phrases)


def _is_relative(place: str) -> bool:
    """Return whether a place is a path from the current folder, as the images' may be too."""
    return not uris.scheme(place) and not place.startswith(("/", "~", "file:"))


def place(job: JobConfig, uri: str) -> str:
    """Return the run folder as it was typed, where that leads to it, else its address."""
    return job.out if _is_relative(job.out) and uris.normalise(job.out) == uri else uri


def lacks(job: JobConfig, words: Sequence[str], features_of: str = "") -> str:
    """Return sentences on where the new run differs from the run or this page; empty: nowhere.

    `ovseg relabel` lays the labels over the run's job: background phrases, templates of all labels
    and the calibration stay.

    Args:
        job: of the run.
        words: see `command`.
        features_of: see `command`.
    """
    of_run, asked = job.vocabulary, {word.casefold() for word in words}
    known = [label for label in of_run.labels if label.name.casefold() in asked]
    lost = []
    if any(label.synonyms for label in known):
        lost.append("synonyms")
    if any(label.templates for label in known):
        lost.append("templates of their own")
    if not features_of and not _can_be_set(of_run.templates):
        lost.append("templates")
    if not features_of and not _can_be_set(of_run.background):
        lost.append("background phrases")
    sentences = []
    if lost:
        sentences.append(
            f"This page uses {', '.join(lost)} of the run's vocabulary, the command does not: give "
            "them in a file (--vocabulary FILE)."
        )
    if job.calibration is not None and not features_of:
        sentences.append("The run was calibrated, for its labels: the command has no calibration.")
    elif job.calibration is not None:
        sentences.append(
            "The run was calibrated, for its labels: the command keeps that, which changes the "
            "scores and drops masks below a threshold, and this page does not. Without it: "
            "--set calibration=null."
        )
    return " ".join(sentences)
