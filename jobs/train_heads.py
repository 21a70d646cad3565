"""`ovseg train-heads`: train a head without labels, and say what to do with it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from jobs import show
from jobs.problems import problems
from jobs.settings import dotlist, load_yaml, merge
from schemas.errors import ConfigError
from schemas.heads import HeadsConfig

_USE = {
    "found": "ovseg annotate ... --set vision.model={vision} "
    "--set method.options.objectness.name=found --set method.options.objectness.options.head={out}",
    "dinoiser": "ovseg annotate ... --set method.name=clip_dinoiser --set clip.model={clip} "
    "--set method.options.heads={out}",
}


@dataclass(frozen=True)
class Flags:
    """The command's flags; an empty text or None is a flag that was not given."""

    images: str = ""
    heads: str = ""
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
        if self.heads or given:
            values["heads"] = ({"name": self.heads} if self.heads else {}) | {"options": given}
        return {**values, "run": {"local": True}} if self.local else values


def heads_config(path: str, flags: Flags, overrides: Sequence[str]) -> HeadsConfig:
    """Merge file, flags and overrides, the later over the earlier, and check the whole.

    Raises:
        ConfigError: a line per wrong key.
    """
    base = _normal(load_yaml(path)) if path else {}
    merged = merge(merge(base, flags.values()), _normal(dotlist(overrides)))
    try:
        return HeadsConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, HeadsConfig))) from error


def train_heads(config: HeadsConfig) -> int:
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
        use = _USE[config.heads.name].format(
            out=shlex.quote(config.out), clip=config.clip.model, vision=config.vision_model
        )
        facts += [("head", config.out), ("use it", use)]
    show.facts(facts)
    return report.exit_code


def _normal(values: dict[str, Any]) -> dict[str, Any]:
    heads = values.get("heads")
    return {**values, "heads": {"name": heads}} if isinstance(heads, str) else values
