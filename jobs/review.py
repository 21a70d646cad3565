"""`ovseg review`: the review page of a run, in this process, until Ctrl-C."""

import ctypes
import sys
from collections.abc import Sequence

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 20


def review(run: str, host: str, port: int, names: Sequence[str]) -> None:
    """Serve the page and print its address.

    Raises:
        UserError: no such run, or the address cannot be had.
    """
    from pipeline.review.server import Address, listen
    from pipeline.run.folder import RunFolder

    _give_memory_back()
    listening = listen(RunFolder.open(run), Address(host, port, tuple(names)))
    # Not by `show`: it blots out what looks like a token, and this one is meant to be read.
    print(f"review at  {listening.url}\nCtrl-C ends it", flush=True)
    try:
        listening.serve()
    except KeyboardInterrupt:
        print("\nended; every decision is in the run folder")


def _give_memory_back() -> None:
    """Have large blocks returned to the system as soon as they are free, where that can be told.

    By itself glibc keeps those of each thread: hundreds of megabytes after a few large photographs.
    """
    if sys.platform != "linux":
        return
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is not None:  # musl has none, and needs none
        tell(_M_MMAP_THRESHOLD, _LARGE_BYTES)
