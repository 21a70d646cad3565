"""What this user has confirmed of runs: which manifests he has made, which images' roots he trusts.

A small file for each run in the cache folder (`OVSEG_CACHE`), so that nothing is to be typed for a
run that this machine began, and a root only once for one that it did not. A note is found by the
hash of the manifest, or of the generations since (`Generations.sha256`), which nobody can change
without losing it, or by the place of a run folder.
"""

import hashlib
import logging
from collections.abc import Sequence

from pydantic import ValidationError

from pipeline.collection import list_file
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from pipeline.storage.places import ImagePlaces, hosts_of, root_of
from pipeline.storage.weights import cache_folder
from schemas.base import Frozen
from schemas.config import JobConfig
from schemas.errors import OvsegError
from schemas.redact import redact

logger = logging.getLogger(__name__)


class Confirmed(Frozen):
    """What a user has confirmed of one run; nothing by default."""

    is_own: bool = False
    """His own job has listed the manifest: every image in it is read."""
    roots: tuple[str, ...] = ()
    """Normalised places below which images are read."""
    hosts: tuple[str, ...] = ()
    """`host:port` of the collection's own URL, whose address may be private."""
    allow_private: bool = False
    """All private addresses are called."""

    @classmethod
    def from_flags(cls, roots: Sequence[str], *, allow_private: bool) -> "Confirmed":
        """Return what the flags `--images-root` and `--allow-private-addresses` confirm.

        Raises:
            ConfigError: a root is no place.
        """
        return cls(roots=tuple(map(root_of, roots)), allow_private=allow_private)

    def __or__(self, other: "Confirmed") -> "Confirmed":
        """Return what either confirms."""
        return Confirmed(
            is_own=self.is_own or other.is_own,
            roots=tuple(dict.fromkeys((*self.roots, *other.roots))),
            hosts=tuple(dict.fromkeys((*self.hosts, *other.hosts))),
            allow_private=self.allow_private or other.allow_private,
        )

    @property
    def places(self) -> ImagePlaces:
        """From where the images are read."""
        roots = None if self.is_own else self.roots
        return ImagePlaces(roots, self.is_own, frozenset(self.hosts), self.allow_private)


def remember_manifest(sha256: str, config: JobConfig) -> None:
    """Note that this user's job has listed a manifest.

    Args:
        sha256: of `manifest.parquet`, or of the generations of its images.
        config: the job.
    """
    hosts, allow = hosts_of([config.images]), config.run.allow_private_addresses
    _remember(
        sha256,
        Confirmed(is_own=True, hosts=tuple(hosts), allow_private=allow),
    )


def remember_roots(sha256: str, confirmed: Confirmed) -> None:
    """Note the roots of a run's images; those that hold a secret are not written down."""
    roots = tuple(root for root in confirmed.roots if redact(root) == root)
    _remember(sha256, confirmed.model_copy(update={"roots": roots}))


def remember_folder(out: str, config: JobConfig) -> None:
    """Note the images' root of a run that a job elsewhere will make for this user.

    Args:
        out: the run folder.
        config: the job; of a list no root is known.
    """
    if not list_file.is_list(config.images):
        remember_roots(uris.normalise(out), Confirmed(roots=(root_of(config.images),)))


def confirmed(sha256: str, out: str) -> Confirmed:
    """Return what is noted of a run.

    Args:
        sha256: of its generations.
        out: the normalised run folder.
    """
    of_manifest, of_folder = (_recall(key) for key in (sha256, out))
    return of_manifest | of_folder.model_copy(update={"is_own": False})


def _remember(key: str, new: Confirmed) -> None:
    known = _recall(key)
    if known | new == known:
        return
    try:
        folder = Folder(str(cache_folder() / "runs"))
        folder.atomic_write(_name(key), (known | new).model_dump_json().encode())
    except (OvsegError, OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        logger.info("what was confirmed of the run is not kept: %s", error)


def _recall(key: str) -> Confirmed:
    try:
        return Confirmed.model_validate_json((cache_folder() / "runs" / _name(key)).read_bytes())
    except (OSError, ValidationError, RuntimeError):
        return Confirmed()


def _name(key: str) -> str:
    return f"{hashlib.sha256(key.encode(errors='backslashreplace')).hexdigest()}.json"
