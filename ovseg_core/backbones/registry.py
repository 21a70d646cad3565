"""The frozen networks of a job, each loaded when a method first uses it."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, get_args

import torch
from torch import Tensor

from ovseg_core.backbones.clip import Clip
from ovseg_core.backbones.compute import Compute
from ovseg_core.backbones.file_formats.needed_files import NeededWeights
from ovseg_core.backbones.file_formats.transformers_folder import (
    LoadedNetwork,
    NetworkFamily,
    load_network,
)
from ovseg_core.backbones.load_clip import HF_HUB, LOCAL_DIR, load_clip
from ovseg_core.backbones.owlv2 import OWLV2, Owlv2, tokenizer_of
from ovseg_core.backbones.sam.encoder import SamEncoder
from ovseg_core.backbones.sam.prompted import SAM, PromptedSam
from ovseg_core.backbones.sam3 import SAM3, Sam3
from ovseg_core.backbones.text.tokenizer import Tokenizer
from ovseg_core.backbones.vision.load_vit import DIFFUSERS, load_vit
from ovseg_core.backbones.vision.unet import UnetDecoder, load_unet
from ovseg_core.backbones.vision.vit import DenseBackbone, FeatureKind, TimmViT
from schemas.config import EMBEDDED, ClipConfig, ComputeConfig, VisionConfig
from schemas.errors import ConfigError, WeightsError

FAMILIES = (SAM, OWLV2, SAM3)
"""What transformers loads."""
_PLAIN = ComputeConfig()


class BackboneConfig(Protocol):
    """The part of a configuration that names networks: of a job or of a head's training."""

    @property
    def clip(self) -> ClipConfig:
        """CLIP."""
        ...

    @property
    def vision(self) -> VisionConfig:
        """The second network."""
        ...


def clip_names(config: ClipConfig) -> tuple[str, ...]:
    """Return the names by which a configuration's CLIP is looked up."""
    has_own = config.model == EMBEDDED or config.model.startswith((LOCAL_DIR, HF_HUB))
    used = (config.model,) if has_own else (config.model, config.pretrained)
    return tuple(filter(None, used))


class Backbones:
    """CLIP, the second network of a job and any other network of a method, on one device.

    Args:
        clip: which CLIP.
        vision_model: a timm architecture, `local-dir:FOLDER` or `embedded`.
        vision_weights: a weights file for a timm architecture; empty: timm's own.
        device: where they run.
        resolve: returns the local path of a weights file (path or URL); the default takes it as a
            path.
        compute: how they run.

    Attributes:
        sees_images: networks that look at images are loaded.
    """

    sees_images = True

    def __init__(
        self,
        clip: ClipConfig,
        vision_model: str,
        vision_weights: str = "",
        device: torch.device | str = "cpu",
        resolve: Callable[[str], str] = str,
        compute: ComputeConfig = _PLAIN,
    ) -> None:
        self.clip_config = clip
        self.vision_model = vision_model
        self.vision_weights = vision_weights
        self.device = torch.device(device)
        self.resolve = resolve
        self._compute_config = compute
        self._files: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._settings: dict[str, str] = {}
        self._networks: dict[str, DenseBackbone] = {}
        self._sams: dict[str, PromptedSam] = {}
        self._detectors: dict[str, Owlv2] = {}
        self._sam3s: dict[str, Sam3] = {}

    @classmethod
    def from_config(
        cls,
        config: BackboneConfig,
        device: torch.device | str,
        resolve: Callable[[str], str],
        compute: ComputeConfig = _PLAIN,
    ) -> Self:
        """Return the networks that a configuration names; nothing is loaded yet.

        Args:
            config: of a job or of a head's training.
            device: where they run.
            resolve: returns the local path of a weights file (path or URL).
            compute: how they run.
        """
        vision = config.vision
        model = vision.model_beside(config.clip)
        return cls(config.clip, model, vision.weights, device, resolve, compute)

    @cached_property
    def compute(self) -> Compute:
        """Where and how all networks run.

        Raises:
            ConfigError: this machine cannot do it.
        """
        return Compute.from_config(self._compute_config, self.device)

    @cached_property
    def clip(self) -> Clip:
        """The CLIP model.

        Raises:
            WeightsError: unknown, missing or unusable weights.
        """
        names = clip_names(self.clip_config)
        self.check_names(*names)
        loaded = load_clip(self.clip_config, self.device, self.resolve)
        if not self.sees_images:
            loaded.model.visual.to("meta")  # shapes without memory
        self.note_file("clip", loaded.file, *names)
        self._settings["clip.activation"] = loaded.activation
        if loaded.tokenizer.sha256 and self.clip_config.model != EMBEDDED:
            self._settings["clip.tokenizer"] = loaded.tokenizer.sha256
        return Clip(loaded, self.compute)

    def loaded_clip(self) -> Clip | None:
        """Return the CLIP model if something has loaded it, else None; loads nothing."""
        return vars(self).get("clip")

    @property
    def vision(self) -> TimmViT:
        """The second network, a plain ViT.

        Raises:
            WeightsError: unknown, missing or unusable weights; another kind of network.
        """
        source = self.network(self.vision_model, "vision")
        if not isinstance(source, TimmViT):
            raise WeightsError(
                f"vision.model: {self.vision_model} has no class token, which is needed here; give "
                "a plain ViT, for example vit_small_patch8_224.dino"
            )
        return source

    def network(self, model: str, role: str = "network") -> DenseBackbone:
        """Return a network that a method names; each is loaded once.

        The name of the job's second network gives that one, with its weights file.

        Args:
            model: a timm architecture, `local-dir:FOLDER`, `embedded`, or `diffusers:FOLDER`.
            role: name of its weights in the run's record; each network has its own role.

        Raises:
            WeightsError: unknown, missing or unusable weights.
        """
        if model not in self._networks:
            self._networks[model] = self._load(model, role)
        return self._networks[model]

    def _load(self, model: str, role: str) -> DenseBackbone:
        is_second = model == self.vision_model
        weights = self.vision_weights if is_second else ""
        names = (model, weights) if weights else (model,)
        self.check_names(*names)
        role, option = ("vision", "vision.model") if is_second else (role, role)
        if model.startswith(DIFFUSERS) and not weights:
            folder = Path(model.removeprefix(DIFFUSERS)).expanduser()
            loaded_unet = load_unet(folder, self.device)
            for suffix, file in loaded_unet.files.items():
                self.note_file(role + suffix, file, model)
            return UnetDecoder(loaded_unet, self.compute)
        path = self.resolve(weights) if weights else ""
        loaded = load_vit(model, path, self.device, option)
        self.note_file(role, loaded.file, *names)
        kind = SamEncoder if loaded.family == "sam" else TimmViT
        return kind(loaded, self.compute)

    def prompted_sam(self, name: str, option: str) -> PromptedSam:
        """Return a SAM that is prompted; each is loaded once.

        Args:
            name: `local-dir:FOLDER`, `hf-hub:ORG/REPO` or `embedded`.
            option: dotted option that gave the name, for messages.

        Raises:
            ConfigError: transformers is missing, or another major version.
            WeightsError: unknown, missing or unusable weights.
        """
        if name not in self._sams:
            self.check_names(name)
            loaded = load_network(name, self.device, option, SAM)
            self.note_file("sam", loaded.file, name)
            self._sams[name] = PromptedSam(loaded, self.compute)
        return self._sams[name]

    def owlv2(self, name: str, option: str) -> Owlv2:
        """Return an OWLv2; each is loaded once.

        Args:
            name: `local-dir:FOLDER` or `hf-hub:ORG/REPO`.
            option: dotted option that gave the name, for messages.

        Raises:
            ConfigError: transformers is missing, or another major version.
            WeightsError: unknown, missing or unusable weights.
        """
        if name not in self._detectors:
            loaded = self._load_with_tokenizer(name, option, OWLV2, "owlv2")
            self._detectors[name] = Owlv2(*loaded, self.compute)
        return self._detectors[name]

    def sam3(self, name: str, option: str) -> Sam3:
        """Return a SAM 3; each is loaded once.

        Args:
            name: `local-dir:FOLDER` or `hf-hub:ORG/REPO`.
            option: dotted option that gave the name, for messages.

        Raises:
            ConfigError: transformers is missing, or another major version.
            WeightsError: unknown, missing or unusable weights.
        """
        if name not in self._sam3s:
            loaded = self._load_with_tokenizer(name, option, SAM3, "sam3")
            self._sam3s[name] = Sam3(*loaded, self.compute)
        return self._sam3s[name]

    def _load_with_tokenizer(
        self, name: str, option: str, family: NetworkFamily, role: str
    ) -> tuple[LoadedNetwork, Tokenizer]:
        self.check_names(name)
        loaded = load_network(name, self.device, option, family)
        tokenizer = tokenizer_of(loaded, option)
        self.note_file(role, loaded.file, name)
        self._settings[f"{role}.tokenizer"] = tokenizer.sha256
        return loaded, tokenizer

    def needed_clip(self, only_for: str = "") -> NeededWeights:
        """Return what CLIP is loaded from.

        Args:
            only_for: what it is loaded for; empty: it is always.
        """
        config = self.clip_config
        title = f"CLIP {config.model}"
        return NeededWeights("clip.model", config.model, "clip", config, "", title, "", only_for)

    def needed_network(self, model: str, option: str) -> NeededWeights:
        """Return what `network` loads.

        Args:
            model: as for `network`.
            option: dotted option that gave the name, unless it is the job's second network.
        """
        title = f"ViT {model}"
        if model != self.vision_model:
            return NeededWeights(option, model, "vit", title=title)
        return NeededWeights("vision.model", model, "vit", file=self.vision_weights, title=title)

    def network_or(self, published: str) -> str:
        """Return the name of the network that a method uses where its options name none.

        The job's second network if that is a folder; the embedded network in a job with embedded
        models; else the published one.
        """
        if self.vision_model.startswith((LOCAL_DIR, DIFFUSERS)):
            return self.vision_model
        return self.embedded_or(published)

    def embedded_or(self, published: str) -> str:
        """Return `embedded` in a job with embedded models, else the published name."""
        embedded = EMBEDDED in (self.vision_model, self.clip_config.model)
        return EMBEDDED if embedded else published

    @property
    def vision_is_embedded(self) -> bool:
        """Whether the second network is the tiny one of the package."""
        return self.vision_model == EMBEDDED

    def check_names(self, *names: str) -> None:
        """Check that weights may be loaded by these names; called before anything is looked up.

        Here all may, as the user gave the names. A page that shows a run overrides it.

        Raises:
            WeightsError: one of them may not.
        """

    def locate(self, name: str) -> str:
        """Return the local path of a head's file (path or URL), fetched if need be.

        Raises:
            WeightsError: it may not be loaded, or cannot be had.
        """
        self.check_names(name)
        self._names[name] = path = self.resolve(name)
        return path

    def note_file(self, role: str, path: str | Path, *names: str) -> None:
        """Record the weights file of a role (`found` for a head), for the run's record.

        Args:
            role: of the network or head.
            path: local.
            names: by which the job named it.
        """
        if path:
            self._files[role] = str(path)
            self._names |= dict.fromkeys(names, str(path))

    def note_setting(self, name: str, value: str) -> None:
        """Record something else than weights that can change an output, for the run's record."""
        self._settings[name] = value

    def files(self) -> dict[str, str]:
        """Return the local weights files loaded so far, by role; empty paths are left out."""
        return dict(self._files)

    def names(self) -> dict[str, str]:
        """Return the local weights files looked up so far, by the names that the job gave."""
        return dict(self._names)

    def settings(self) -> dict[str, str]:
        """Return what else was recorded, such as `clip.activation` of a loaded network."""
        return dict(self._settings)


class ScoringBackbones(Backbones):
    """The networks of a job that scores stored features: none that looks at images.

    CLIP has its text encoder alone, and other networks, objectness sources and proposers are not
    looked up at all. A method whose `score` asks networks of its own has those.
    """

    sees_images = False

    def network(self, model: str, role: str = "network") -> DenseBackbone:
        """Return what stands for a network."""
        del model, role
        return Unseeing()


class Unseeing:
    """Stands for a network, objectness source or proposer where no image is encoded."""

    multiple_px = 1
    decode_side_px = 0
    feature_kinds: tuple[FeatureKind, ...] = get_args(FeatureKind)

    def features(self, pixels_B3HW: Tensor, kind: FeatureKind) -> Tensor:
        """Raise, see `no_images`."""
        raise no_images()

    def maps(self, images: object) -> tuple[Tensor, ...]:
        """Raise, see `no_images`."""
        raise no_images()

    def proposals(self, images: object) -> Any:
        """Raise, see `no_images`."""
        raise no_images()


def no_images() -> ConfigError:
    """Return the error of a method that was loaded to score stored features."""
    return ConfigError(
        "this method was loaded to score stored features, without the networks that look at "
        "images: load it with `Backbones` to encode images"
    )
