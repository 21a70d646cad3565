"""The weights files that a job will load: from where, of what size, and whether they are here.

Nothing is loaded or fetched. A part of a job says what it needs (`PluginOptions.needed_weights`);
here it becomes a file, and an unknown name an error. The size of a file that is not here is that of
its network's numbers in float32, or what the family of networks says of its repository.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ovseg_core.backbones.checkpoint import cached_hub_file, timm_repository
from ovseg_core.backbones.file_formats.transformers_folder import (
    WEIGHTS,
    HubWeights,
    check_transformers_version,
)
from ovseg_core.backbones.load_clip import (
    HF_HUB,
    LOCAL_DIR,
    REPOSITORY_FILES,
    named_clip,
    num_values_of_clip,
    tag_files,
)
from ovseg_core.backbones.vision.load_vit import DIFFUSERS, check_timm_name, num_values_of_vit
from schemas.config import EMBEDDED, ClipConfig
from schemas.errors import WeightsError

HUB = "https://huggingface.co/"
Cached = Callable[[str], str]
"""Returns the local path of weights given by path or URL; empty: they are not on this machine."""
_BYTES_PER_VALUE = 4
_MIT_TAGS = ("openai", "laion")
"""Beginnings of open_clip's tags of weights that are MIT."""


@dataclass(frozen=True)
class NeededWeights:
    """Weights that a part of a job loads.

    Attributes:
        option: dotted option that names them.
        name: of a network, or path or URL of a file.
        kind: CLIP, a ViT of timm or a UNet, a network of transformers, or a file such as a head.
        clip: CLIP's configuration.
        file: weights file for a timm architecture; empty: timm's own.
        title: what they are, where the name does not say it.
        licence: of a file that others published; empty: not known.
        only_for: what they are loaded for, if not always.
    """

    option: str
    name: str
    kind: Literal["clip", "vit", "transformers", "file"] = "transformers"
    clip: ClipConfig | None = None
    file: str = ""
    title: str = ""
    licence: str = ""
    only_for: str = ""


@dataclass(frozen=True)
class WeightsFile:
    """A weights file.

    Attributes:
        network: what it is of.
        option: dotted option that names it.
        source: repository of the hub, URL, file or folder.
        names: of the file in a repository, the first of them that it has; empty elsewhere.
        size_bytes: None: not known.
        is_here: on this machine; else it is fetched at first use.
        licence: empty: not known.
        gate: what it takes to be let in; empty: nothing.
        only_for: what it is loaded for, if not always.
    """

    network: str
    option: str
    source: str
    names: tuple[str, ...] = ()
    size_bytes: int | None = None
    is_here: bool = False
    licence: str = ""
    gate: str = ""
    only_for: str = ""

    @property
    def is_missing(self) -> bool:
        """It is not on this machine, and always loaded."""
        return not self.is_here and not self.only_for

    def describe(self) -> str:
        """Return what it is, where it comes from, its size and licence, in one line."""
        size = "" if self.size_bytes is None else size_text(self.size_bytes)
        parts = [
            f"{self.network}: {' '.join([self.source, *self.names[:1]])}",
            size if self.is_here or not size else f"about {size}",
            "here" if self.is_here else "to be downloaded",
            self.only_for,
            self.licence,
            self.gate,
        ]
        return ", ".join(filter(None, parts))


def size_text(num_bytes: int) -> str:
    """Return a size as people write it."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.1f} kB"


def file_of(
    needed: NeededWeights, cached: Cached, published: Mapping[str, HubWeights]
) -> WeightsFile:
    """Return the file of needed weights.

    Args:
        needed: what is needed.
        cached: looks for a path or URL on this machine.
        published: what is known of repositories in the format of transformers.

    Raises:
        ConfigError: transformers is missing, or of another major version.
        WeightsError: there is no network of this name.
    """
    found = _found(needed, cached, published)
    return replace(found, only_for=needed.only_for, licence=found.licence or needed.licence)


def _found(
    needed: NeededWeights, cached: Cached, published: Mapping[str, HubWeights]
) -> WeightsFile:
    name, option = needed.name, needed.option
    title = needed.title or name
    if name == EMBEDDED:
        return WeightsFile(title, option, "part of ovseg", is_here=True)
    if needed.kind == "file":
        return _single_file(title, option, name, cached)
    if name.startswith((LOCAL_DIR, DIFFUSERS)):
        folder = str(Path(name.partition(":")[2]).expanduser())
        return WeightsFile(title, option, folder, is_here=Path(folder).exists())
    if needed.clip is not None:
        return _clip_file(needed.clip, title, option, cached)
    if needed.kind == "vit":
        check_timm_name(name, option)
        if needed.file:
            return _single_file(title, "vision.weights", needed.file, cached)
        repository, file, licence = timm_repository(name)
        found = WeightsFile(title, option, repository, (file,), licence=licence)
        return _on_hub(found, num_values_of_vit(name) * _BYTES_PER_VALUE)
    if not name.startswith(HF_HUB):
        raise WeightsError(f"{option}: expected hf-hub:ORG/REPO or local-dir:FOLDER, got {name!r}")
    repository = name.removeprefix(HF_HUB)
    check_transformers_version(repository)
    known = published.get(repository, HubWeights(None, f"licence: {HUB}{repository}"))
    title = needed.title or repository.rpartition("/")[2]
    found = WeightsFile(
        title, option, repository, (WEIGHTS,), licence=known.licence, gate=known.gate
    )
    return _on_hub(found, known.size_bytes)


def _single_file(title: str, option: str, place: str, cached: Cached) -> WeightsFile:
    path = Path(cached(place))
    if not path.is_file():
        return WeightsFile(title, option, place)
    return WeightsFile(title, option, place, size_bytes=path.stat().st_size, is_here=True)


def _clip_file(config: ClipConfig, title: str, option: str, cached: Cached) -> WeightsFile:
    if config.model.startswith(HF_HUB):
        repository = config.model.removeprefix(HF_HUB)
        return _on_hub(WeightsFile(title, option, repository, REPOSITORY_FILES), None)
    architecture, tag = named_clip(config)
    if not tag:
        return _single_file(title, "clip.pretrained", config.pretrained, cached)
    repository, names = tag_files(tag)
    is_mit = config.pretrained.startswith(_MIT_TAGS)
    licence = "MIT" if is_mit else f"licence: {HUB}{repository}"
    num_values = num_values_of_clip(architecture)
    size_bytes = None if num_values is None else num_values * _BYTES_PER_VALUE
    title = f"{title} {config.pretrained}"
    found = WeightsFile(title, option, repository, names, licence=licence)
    return _on_hub(found, size_bytes)


def _on_hub(file: WeightsFile, size_bytes: int | None) -> WeightsFile:
    """Return a repository's file with its size, and whether it is in the hub's cache."""
    for name in file.names:
        if path := cached_hub_file(file.source, name):
            return replace(file, names=(name,), size_bytes=Path(path).stat().st_size, is_here=True)
    return replace(file, size_bytes=size_bytes)
