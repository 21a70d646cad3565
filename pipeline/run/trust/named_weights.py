"""Which of the weights that a run folder names a page may load.

A run folder is made to be shared, so what it names is input: nothing is looked up, opened or
fetched by such a name, unless it is embedded, this machine has used it in a job of its own with the
content that the run recorded, or the user gave it on the command line.
"""

import shlex
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from ovseg_core import methods
from ovseg_core.backbones.checkpoint import ADVICE, check_hub, check_weights_file
from ovseg_core.backbones.file_formats.needed_files import WeightsFile
from ovseg_core.backbones.load_clip import HF_HUB, LOCAL_DIR
from ovseg_core.backbones.registry import clip_names
from ovseg_core.segmenter import MethodOptions
from pipeline.run.folder import RunFolder
from pipeline.storage import uris
from pipeline.storage.weights import WEIGHTS_ENDINGS, cached, is_known, weights_sha256
from schemas import plugins
from schemas.base import Frozen
from schemas.config import EMBEDDED, ClipConfig, JobConfig, NamesWeights
from schemas.errors import UnreachableHubError, WeightsError
from schemas.redact import redact
from schemas.untrusted import printable, shown_text

_CLIP = "clip"
"""Role of CLIP's weights in a run's record."""


class NamedWeights:
    """The weights that a run names, and those of them that may be loaded.

    Args:
        given: names from the command line.
        run: the run; None: nothing but the given names may be loaded.
        command: of ovseg, for advice.
    """

    def __init__(
        self, given: Sequence[str], run: RunFolder | None = None, command: str = "review"
    ) -> None:
        self._given = frozenset((EMBEDDED, *given))
        self._run = run
        self._command = command

    def check(self, *names: str) -> None:
        """Check that weights may be loaded by these names; nothing is looked up by them.

        Raises:
            WeightsError: it says what the run names, and how to allow it.
        """
        missing = [name for name in names if not self._is_allowed(name)]
        if not missing:
            return
        more = [name for name in self._named if not self._is_allowed(name)]
        unique = list(dict.fromkeys([*more, *missing]))
        listed = ", ".join(map(shown_text, unique))
        message = (
            f"this run names weights that this machine has not used in a job of its own: {listed}. "
            "What a run folder names is not loaded unasked"
        )
        if self._run is not None and all(printable(name) == name for name in unique):
            place = shlex.quote(redact(self._run.folder.uri))
            flags = " ".join(f"--weights {shlex.quote(redact(name))}" for name in unique)
            again = f"ovseg {self._command} {place} {flags}"
            ended = "end this server and start" if self._command == "review" else "add them"
            message += f"; if you trust them, {ended}: {again}"
        raise WeightsError(message)

    def are_given(self, *names: str) -> bool:
        """Return whether the user gave all these names, or they are embedded."""
        return self._given.issuperset(names)

    def check_file(self, file: str | Path, *names: str) -> None:
        """Check that a file that was found by known names is one that the run was made with.

        Raises:
            WeightsError: it is another one, such as a later revision in the hub's cache.
        """
        if self._run is None or self.are_given(*names):
            return
        if weights_sha256(file) not in self._run.info.weights.values():
            listed = ", ".join(map(shown_text, names))
            raise WeightsError(
                f"the weights of {listed} on this machine are not those that the run was made with "
                f"(a later revision?): {shown_text(str(file))}"
            )

    def _is_allowed(self, name: str) -> bool:
        if name in self._given:
            return True
        return self._run is not None and is_known(name, self._run.info.weights.values())

    @cached_property
    def _named(self) -> tuple[str, ...]:
        """The names of the run's job; a second network only if the run used one."""
        if self._run is None:
            return ()
        job = methods.with_published_clip(self._run.info.job())
        has_vision = any(role.partition(".")[0] != _CLIP for role in self._run.info.weights)
        names = [*weights_names(job, with_vision=has_vision)]
        names += methods.option_folders(job.method).values()
        return tuple(filter(None, names))


def check_named_clip(
    run: RunFolder, clip: ClipConfig, names: Sequence[str], given: Sequence[str] = ()
) -> None:
    """Check that a job that is made from a run may load the CLIP that the run names.

    Args:
        run: the run.
        clip: its CLIP, which settings of the job can name as well.
        names: of the networks and files that are loaded.
        given: those that the user gave.

    Raises:
        WeightsError: this machine has not used them; it says by which settings to allow it.
    """
    try:
        NamedWeights(given, run).check(*names)
    except WeightsError as error:
        more = f" --set clip.pretrained={redact(clip.pretrained)}" if clip.pretrained else ""
        raise WeightsError(
            "the run names a CLIP that this machine has not used in a job of its own; what a run "
            "folder names is not loaded unasked. If you trust it: --set clip.model="
            f"{redact(clip.model)}{more}"
        ) from error


def weights_names(job: JobConfig, *, with_vision: bool = True) -> Iterator[str]:
    """Yield the names of networks and weights files of a job; some may be empty."""
    yield from clip_names(job.clip)
    if with_vision:
        yield from (job.vision_model, job.vision.weights)
    for part in plugins.read_nested_options(methods.PACKAGE, job.method, "method"):
        yield from _weights_in(part.options)


def names_for_scoring(job: JobConfig) -> tuple[str, ...]:
    """Return the names of what a job loads to score stored features; see `ScoringBackbones`."""
    options = plugins.read_options(methods.PACKAGE, job.method, "method")
    asks = isinstance(options, MethodOptions) and options.score_asks_networks
    return (*clip_names(job.clip), *(filter(None, _weights_in(options)) if asks else ()))


def checked_files(job: JobConfig) -> list[WeightsFile]:
    """Return the weights files that a job loads, those on this machine checked by their start.

    Raises:
        ConfigError: a package is missing that a network needs.
        WeightsError: there is no network of a name, a file must be given, or one is missing, empty
            or no weights file.
    """
    check_local_weights(job)
    return methods.needed_files(job, cached, sees_images=not job.features_of)


def check_before_start(job: JobConfig) -> None:
    """Check the weights of a job before a cluster is started for it, which takes long.

    Raises:
        UnreachableHubError: the hub of networks does not answer, and some are not here.
        WeightsError: a file on this machine is missing or no weights file; where the hub may not be
            asked also: weights that are not here, and networks that do not exist.
    """
    check_local_weights(job)
    try:
        check_hub()
    except OSError as error:
        files = methods.needed_files(job, cached, sees_images=not job.features_of)
        missing = [file for file in files if file.is_missing]
        if missing:
            kind = UnreachableHubError if isinstance(error, ConnectionError) else WeightsError
            raise kind(
                f"weights that this machine does not have cannot be downloaded ({error}): "
                f"{', '.join(file.network for file in missing)}. The same command with --dry-run "
                f"lists the files; to bring them {ADVICE}"
            ) from None


def check_local_weights(job: JobConfig) -> None:
    """Check the weights files of a job that lie on this machine; no network is loaded.

    Raises:
        WeightsError: one is missing, empty or no weights file.
    """
    for name in names_for_scoring(job) if job.features_of else weights_names(job):
        place = name.partition("#sha256=")[0]
        if "://" in place or place.startswith(HF_HUB):
            continue
        if place.startswith(LOCAL_DIR):
            folder = Path(place.removeprefix(LOCAL_DIR)).expanduser()
            if not folder.is_dir():
                raise WeightsError(f"there is no folder {folder} ({name}): check the spelling")
            files = [file for file in sorted(folder.glob("*")) if file.suffix in WEIGHTS_ENDINGS]
            if not files:
                raise WeightsError(
                    f"the folder {folder} has no weights file ({', '.join(WEIGHTS_ENDINGS)}); "
                    "which files it needs: docs/weights.md"
                )
            for file in files:
                check_weights_file(file)
        elif ":" not in place and ("/" in place or place.endswith(WEIGHTS_ENDINGS)):
            check_weights_file(uris.normalise(place))


def _weights_in(options: Frozen) -> Iterator[str]:
    """Yield the names of weights in a plug-in's options."""
    for name, field in type(options).model_fields.items():
        if any(isinstance(mark, NamesWeights) for mark in field.metadata):
            yield getattr(options, name)
