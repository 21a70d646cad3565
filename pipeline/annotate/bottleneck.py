"""What limits a run: how busy its compute threads are, and what they wait for."""

from collections.abc import Mapping
from typing import Literal

from pydantic import NonNegativeFloat

from schemas.base import Frozen
from schemas.records import STAGES, THREAD_TIMES, Share

Limit = Literal["compute", "read", "decode", "masks", "write", "shards", ""]

BUSY = 0.8
"""From this share of their time on, the compute threads are the limit."""
_LEAST_S = 1e-6
_MIN_IMAGES = 50
"""With fewer images, what the first of them take decides."""
_CAUSES: dict[str, Limit] = {
    "wait_images": "decode", "wait_masks": "masks", "write": "write", "wait_shard": "shards",
}  # fmt: skip
_LIMITS = {
    "read": "reading is the limit", "decode": "decoding is the limit",
    "masks": "masks are the limit", "write": "writing tables is the limit",
    "shards": "the driver is the limit",
}  # fmt: skip
_WAITS = {
    "read": "bytes", "decode": "decoded images", "masks": "masks", "write": "tables",
    "shards": "the driver",
}  # fmt: skip
_SUGGESTIONS: dict[Limit, str] = {
    "read": "raise run.prefetch_threads",
    "decode": "raise run.cpus_per_worker or run.prefetch_threads",
    "masks": "raise run.cpus_per_worker",
    "write": "a larger shard_size writes less often",
    "shards": "a larger shard_size asks the driver less often",
}


class Bottleneck(Frozen):
    """What a run spends its time on."""

    busy: Share | None = None
    """Share of the compute threads' time in which they compute; None: not known."""
    images_per_s: NonNegativeFloat | None = None
    """Images a second of one worker, without its start; None: not known."""
    waits: dict[str, Share] = {}
    """Shares of the same time by what they wait for, see `schemas.records.THREAD_TIMES`."""
    ms_per_image: dict[str, NonNegativeFloat] = {}
    """By stage, and by what the compute threads wait for; stages of other threads overlap."""
    limit: Limit = ""
    """What is slowest: `compute` is from pixels to score maps, `shards` is the driver; empty: not
    known."""
    longest_wait: Limit = ""
    """What the compute threads wait for longest, also where it is not the limit; empty: they do
    not wait, or there are too few images to tell."""
    suggestion: str = ""
    """What to change; empty where that is not plain."""

    def words(self) -> str:
        """Return `compute busy 34 %, decoding is the limit`; empty: nothing is known."""
        if self.busy is None:
            return ""
        busy = f"compute busy {100 * self.busy:.0f} %"
        return ", ".join(filter(None, (busy, _LIMITS.get(self.limit, ""))))

    def advice(self) -> str:
        """Return `words` and what to change: for the limit, or for the longest wait."""
        words, change = self.words(), _SUGGESTIONS.get(self.longest_wait, "")
        if self.limit or not any(self.waits.values()):
            return ": ".join(filter(None, (words, self.suggestion)))
        if not self.longest_wait:
            return f"{words}; too few images to tell what limits it ({_MIN_IMAGES} or more)"
        return f"{words}; the longest wait is for {_WAITS[self.longest_wait]}: {change}"


def bottleneck_of(seconds: Mapping[str, float], num_images: int) -> Bottleneck:
    """Return what limits a run.

    Args:
        seconds: summed over its shards, as in `ShardTally.seconds`; older runs have no waits.
        num_images: the images that these seconds were spent on.
    """
    total_s = sum(seconds.get(name, 0.0) for name in ("wall", "wait_shard", "write"))
    if not num_images or total_s < _LEAST_S:
        return Bottleneck()
    busy = min(1.0, seconds.get("segment", 0.0) / total_s)
    waits = {name: min(1.0, seconds[name] / total_s) for name in _CAUSES if name in seconds}
    measured = (name for name in (*STAGES, *THREAD_TIMES) if name in seconds and name != "wall")
    longest_wait = _longest_wait(waits, seconds) if num_images >= _MIN_IMAGES else ""
    limit = _limit(busy, waits, longest_wait) if num_images >= _MIN_IMAGES else ""
    return Bottleneck(
        busy=busy,
        images_per_s=num_images / total_s,
        waits=waits,
        ms_per_image={name: 1000 * seconds[name] / num_images for name in measured},
        limit=limit,
        longest_wait=longest_wait,
        suggestion=_SUGGESTIONS.get(limit, ""),
    )


def _longest_wait(waits: Mapping[str, float], seconds: Mapping[str, float]) -> Limit:
    longest = max(waits, key=lambda name: waits[name], default="")
    if not longest or not waits[longest]:
        return ""
    if longest == "wait_images" and seconds.get("read", 0.0) > seconds.get("decode", 0.0):
        return "read"
    return _CAUSES[longest]


def _limit(busy: float, waits: Mapping[str, float], longest_wait: Limit) -> Limit:
    if busy >= BUSY:
        return "compute"
    return longest_wait if max(waits.values(), default=0.0) >= (1 - busy) / 2 else ""
