"""`ovseg review`: the review page of a run, in this process, until Ctrl-C."""

from collections.abc import Sequence


def review(run: str, host: str, port: int, names: Sequence[str]) -> None:
    """Serve the page and print its address.

    Raises:
        UserError: no such run, or the address cannot be had.
    """
    from pipeline.review.server import Address, listen
    from pipeline.rundir import RunDir

    listening = listen(RunDir.open(run), Address(host, port, tuple(names)))
    # Not by `show`: it blots out what looks like a token, and this one is meant to be read.
    print(f"review at  {listening.url}\nCtrl-C ends it", flush=True)
    try:
        listening.serve()
    except KeyboardInterrupt:
        print("\nended; every decision is in the run folder")
