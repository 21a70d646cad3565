"""`ovseg train-heads`: train a head without labels, and say what to do with it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs import show
from jobs.settings import dotlist, load_yaml, merge
from schemas.base import validated
from schemas.config import HeadConfig
from schemas.errors import ConfigError

_USE = {
    "found": "ovseg annotate ... --set vision.model={vision} "
    "--set method.options.objectness.name=found --set method.options.objectness.options.head={out}",
    "dinoiser": "ovseg annotate ... --set method.name=clip_dinoiser --set clip.model={clip} "
    "--set method.options.heads={out}",
}

_HINTS = {
    "images": "give it in the file or with --images",
    "out": "give it in the file or with --out",
    "head": "give `head: found` or `head: dinoiser` in the file, or --head",
}
"""How a missing field can be given."""


@dataclass(frozen=True)
class Flags:
    """The command's flags; an empty text or None is a flag that was not given."""

    images: str = ""
    head: str = ""
    out: str = ""
    steps: int | None = None
    batch: int | None = None
    local: bool = False

    def values(self) -> dict[str, Any]:
        """Return what was given, shaped as in a file."""
        texts = {"images": self.images, "out": self.out}
        values: dict[str, Any] = {key: text for key, text in texts.items() if text}
        options = {"steps": self.steps, "batch": self.batch}
        given = {key: number for key, number in options.items() if number is not None}
        if self.head or given:
            values["head"] = ({"name": self.head} if self.head else {}) | {"options": given}
        return {**values, "run": {"local": True}} if self.local else values


def heads_config(path: str, flags: Flags, overrides: Sequence[str]) -> HeadConfig:
    """Merge file, flags and overrides, the later over the earlier, and check the whole.

    Raises:
        ConfigError: a line per wrong key.
    """
    base = _normal(load_yaml(path)) if path else {}
    merged = merge(merge(base, flags.values()), _normal(dotlist(overrides)))
    return validated(HeadConfig, merged, hints=_HINTS)


def train_heads(config: HeadConfig) -> int:
    """Train, and print counts and the next command.

    Returns:
        0 done; 3 done, but too many images could not be read; 130 interrupted.
    """
    from pipeline.head_training.job import train_heads as run
    from pipeline.head_training.progress import make_step_progress

    report = run(config, make_step_progress())
    failed = show.counts(report.failed) if report.failed else "none"
    facts = [
        ("images", f"{report.num_images:,}"),
        ("left out", failed),
        ("steps", f"{report.steps:,}, {report.new_steps:,} of them now"),
        ("seconds", f"{report.seconds:.0f}"),
    ]
    if not report.interrupted:
        use = _USE[config.head.name].format(
            out=shlex.quote(config.out), clip=config.clip.model, vision=config.vision_model
        )
        facts += [("head", config.out), ("use it", use)]
    show.facts(facts)
    return report.exit_code


def _normal(values: dict[str, Any]) -> dict[str, Any]:
    try:
        values = HeadConfig.spelled_out(values)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    head = values.get("head")
    return {**values, "head": {"name": head}} if isinstance(head, str) else values
