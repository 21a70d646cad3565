"""Every error that ovseg raises on purpose.

OvsegError
├── UserError            the user can correct it: one line, exit code 1
│   ├── ConfigError      a wrong key or value in the job file or on the command line
│   ├── VocabularyError  no labels, a label given twice
│   ├── CollectionError  no images found, an unreadable list
│   ├── RunFolderError   the output folder belongs to another run, or is damaged
│   ├── WeightsError     weights that cannot be found, fetched, verified or used
│   ├── FeaturesError    stored features that are damaged, or of another method
│   ├── TrainingError    a training that cannot go on, such as one with a loss of NaN
│   └── ResourceError    a GPU or server that is not there
├── ImageError           one image among many: becomes a row with its code, never stops a shard
└── OutageError          the world is at fault; the same command goes on later: exit code 4
    ├── ClusterError     a Ray cluster or job server that does not answer
    └── StorageError     reading or writing failed after the retries
        └── BlockedStoreError    every further try fails too: ends a job at once
"""

from collections.abc import Iterable
from enum import IntEnum, StrEnum

from schemas.redact import redact


class ExitCode(IntEnum):
    """What a command returns to the shell."""

    DONE = 0
    """All done."""
    USER_ERROR = 1
    """Something is to be corrected by the user: one line on stderr per mistake."""
    USAGE = 2
    """An unknown command or flag."""
    INCOMPLETE = 3
    """Finished, but shards are missing or too many images failed."""
    OUTAGE = 4
    """A store or cluster cannot be reached, a store is full, credentials have expired: nothing is
    to be corrected in the command; the same one goes on later."""
    DETACHED = 5
    """`ovseg submit` lost sight of a job that may still be running on its cluster."""
    FINDINGS = 6
    """`ovseg check` found something in a run folder that is not as it should be, and named it."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C; the same command goes on."""
    TERMINATED = 143
    """Stopped by SIGTERM (Slurm, Kubernetes, `ray job stop`); the same command goes on."""


class ErrorCode(StrEnum):
    """Stable names for what can go wrong with one image; part of the table format."""

    NOT_FOUND = "not_found"
    """The file was in the manifest and is gone."""
    PERMISSION_DENIED = "permission_denied"
    """The file may not be read."""
    STORAGE_ERROR = "storage_error"
    """The store failed after the retries."""
    EMPTY_FILE = "empty_file"
    """Zero bytes."""
    NOT_AN_IMAGE = "not_an_image"
    """No decoder knows the content."""
    TRUNCATED = "truncated"
    """The decoder ran out of bytes."""
    UNDECODABLE = "undecodable"
    """A decoder knows the format and failed on the content."""
    TOO_LARGE = "too_large"
    """More pixels or bytes than the limit (a decompression bomb, or a limit set too low)."""
    NOT_FINITE = "not_finite"
    """The network's output for the image holds NaN or infinity."""
    OUT_OF_MEMORY = "out_of_memory"
    """The image does not fit the device, even alone in its batch."""
    WORKER_LOST = "worker_lost"
    """The worker process died on this image, again and again."""
    INTERNAL = "internal"
    """A bug: the message holds the exception. Please report it."""


PASSING_CODES = frozenset(
    {ErrorCode.NOT_FOUND, ErrorCode.PERMISSION_DENIED, ErrorCode.STORAGE_ERROR}
)
"""Codes of passing errors: the world was at fault (a store, a mount, credentials), not the file.

Images with such an error are tried again by the next call of the same command.
"""


def lasting_codes(errors: Iterable[str]) -> str:
    """Return the codes that only `--retry-errors` tries again, written as it takes them."""
    return ",".join(sorted(set(errors) - PASSING_CODES))


class OvsegError(Exception):
    """Root of all deliberate errors.

    Args:
        lines: one sentence each. A name in one may hold any character, also line ends: it is made
            printable where it is shown.
    """

    def __init__(self, *lines: object) -> None:
        """Keep the sentences apart, so that a name cannot forge one."""
        super().__init__(*lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """The sentences."""
        return tuple(map(str, self.args))

    def __str__(self) -> str:
        """Return a line for each sentence."""
        return "\n".join(self.lines)


class UserError(OvsegError):
    """The user can correct it: the message says what was expected, what came and what to do."""


class ConfigError(UserError):
    """A wrong key or value in the job file or on the command line."""


class VocabularyError(UserError):
    """An empty vocabulary or a label given twice."""


class TrainingError(UserError):
    """A training that cannot go on; what it has written so far stays."""


class CollectionError(UserError):
    """Nothing to annotate, or a list file that cannot be read."""


class RunFolderError(UserError):
    """The output folder belongs to another run or is damaged."""


class WeightsError(UserError):
    """Weights that cannot be found, fetched, verified or used."""


class FeaturesError(UserError):
    """Stored features that cannot be used, or features that cannot be stored."""


class ResourceError(UserError):
    """Hardware that was asked for and is not there."""


class ImageError(OvsegError):
    """One image cannot be annotated.

    Args:
        code: stable code for the image's row.
        message: one sentence for a person.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        """Keep the code apart from the text, so that reports can count it."""
        # It may quote a file name of any bytes, and goes where only UTF-8 can be stored.
        message = redact(message.encode(errors="backslashreplace").decode())
        super().__init__(code, message)  # both in args: an exception must survive pickling
        self.code = code
        self.message = message

    @property
    def lines(self) -> tuple[str, ...]:
        """`code: message`."""
        return (f"{self.code}: {self.message}",)


class OutageError(OvsegError):
    """Nothing is to be corrected in the command: the same one goes on when the world is whole."""


class ClusterError(OutageError):
    """A Ray cluster or job server that does not answer."""


class StorageError(OutageError):
    """A read or write that failed after all retries."""


class UnreachableHubError(WeightsError, OutageError):
    """The hub that has the weights does not answer."""


class BlockedStoreError(StorageError):
    """A full store, or expired credentials: it fails until somebody does something about it."""
