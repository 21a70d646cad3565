"""`ovseg annotate --dry-run --measure N`: time, bytes and money of a job, from N of its images."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs import console
from schemas.base import counted
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.job.job import JobPlan
    from pipeline.job.monitoring.estimate import Estimate

_MANY_DIFFER = 0.2
"""From this share on, the measured images say too little."""


@dataclass(frozen=True)
class MeasureFlags:
    """What the command line says of an estimate.

    Attributes:
        num_images: to compute.
        price_per_hour: of one worker; None: no money is shown.
    """

    num_images: int
    price_per_hour: float | None = None

    @classmethod
    def from_flags(
        cls, measure: int | None, price: str, *, is_dry_run: bool
    ) -> "MeasureFlags | None":
        """Return the flags; None: nothing is to be measured.

        Raises:
            ConfigError: a price that is none, or a flag without the one that it belongs to.
        """
        if measure is None:
            if price:
                raise ConfigError("--price-per-hour: it belongs to --dry-run --measure N")
            return None
        if not is_dry_run:
            raise ConfigError("--measure: it belongs to --dry-run, which runs nothing else")
        return cls(measure, _price(price) if price else None)


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise ConfigError(
            f"--price-per-hour: expected a number of at least 0 in your currency, such as 1.25, "
            f"for an hour of one worker, but got {text!r}"
        )
    return price


def show_estimate(plan: "JobPlan", flags: MeasureFlags) -> None:
    """Compute a few images of a job, and print what the job will take, and what is assumed."""
    from ovseg_core.backbones.file_formats.needed_files import size_text
    from pipeline.job.monitoring.estimate import measure
    from pipeline.job.progress import brief, duration

    found = measure(plan, flags.num_images)
    console.line()
    if found is None:
        console.line("No shard is left, so nothing was measured (--measure).")
        return
    spread = f", to within {100 * found.spread:.0f} % as images differ" if found.spread else ""
    failed = f"; failed: {console.counts(found.errors)}" if found.errors else ""
    hours = f"{brief(found.worker_hours)} worker-hours"
    if found.gpus_per_worker:
        hours += f", {brief(found.gpu_hours)} GPU-hours"
    price = flags.price_per_hour
    free = "" if found.free_bytes is None else f"; {size_text(found.free_bytes)} free"
    console.facts(
        [
            ("measured", f"{counted(found.num_measured, 'image')} of {found.num_images:,}{failed}"),
            ("speed", f"{brief(found.images_per_s)} images/s a worker ({found.device}){spread}"),
            ("time", f"{duration(found.seconds)} by {counted(max(1, found.workers), 'worker')}"),
            ("work", hours),
            ("money", _money(found.worker_hours, price)),
            ("reads", size_text(found.read_bytes)),
            ("writes", f"{size_text(found.written_bytes)}{free}"),
            ("a million such", _of_a_million(found, price)),
            *(("caution", text) for text in _cautions(found)),
            ("assumed", _assumed(plan, found)),
        ]
    )


def _of_a_million(found: "Estimate", price: float | None) -> str:
    """Return what so many images like those that are left would take."""
    from ovseg_core.backbones.file_formats.needed_files import size_text
    from pipeline.job.progress import brief

    times = 1_000_000 / found.num_images
    hours = times * found.worker_hours
    money = _money(hours, price)
    work = f"{brief(hours)} worker-hours" + (f" ({money})" if money else "")
    read, written = size_text(round(times * found.read_bytes)), size_text(found.million_bytes)
    return f"{work}; reads {read}, writes {written}"


def _money(hours: float, price: float | None) -> str:
    return "" if price is None else f"{hours * price:,.2f} at {price:g} an hour"


def _cautions(found: "Estimate") -> list[str]:
    texts = []
    if found.free_bytes is not None and found.written_bytes > found.free_bytes:
        texts.append("the disk of the run folder has too little room")
    if found.spread > _MANY_DIFFER:
        texts.append("the images differ much: measure more of them")
    return texts


def _assumed(plan: "JobPlan", found: "Estimate") -> str:
    """Return what the figures take for granted."""
    run = plan.config.run
    if not found.workers:
        workers = "one worker, as the cluster was not asked: divide the time by their number"
    elif run.local:
        workers = "this process alone"
    elif run.workers:
        workers = "the job's number of workers, each as fast as this machine is with one"
    else:
        workers = "as many workers as fit this machine, each as fast as one alone"
    price = "; the price is that of one worker" if found.workers != 1 else ""
    return (
        f"{workers}{price}; without listing, the start of workers and "
        f"loading networks and words ({found.load_s:.0f} s here)"
    )
