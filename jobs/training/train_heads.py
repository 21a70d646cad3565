"""`ovseg train-heads`: train a head without labels, and print how to use it."""

import shlex

from jobs import console
from pipeline.storage.waiting import importing
from schemas.config import HeadConfig

_USE = {
    "found": "ovseg annotate ... --set vision.model={vision} "
    "--set method.options.objectness.name=found --set method.options.objectness.options.head={out}",
    "dinoiser": "ovseg annotate ... --set method.name=clip_dinoiser --set clip.model={clip} "
    "--set method.options.heads={out}",
}


def train_heads(config: HeadConfig) -> int:
    """Train, and print counts and the next command.

    Returns:
        0 done; 3 done, but too many images could not be read; 130 interrupted.
    """
    with importing():
        from pipeline.training.heads.job import train_head
        from pipeline.training.progress import make_step_progress

    report = train_head(config, make_step_progress())
    failed = console.counts(report.failed) if report.failed else "none"
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
    console.facts(facts)
    return report.exit_code
