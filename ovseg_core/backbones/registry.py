"""The frozen networks of a job, loaded when a method first asks for them."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from ovseg_core.backbones import load_clip, load_vit, unet
from ovseg_core.backbones.clip import Clip
from ovseg_core.backbones.load_clip import LOCAL_DIR
from ovseg_core.backbones.load_vit import DIFFUSERS
from ovseg_core.backbones.sam import SamEncoder
from ovseg_core.backbones.unet import UnetDecoder
from ovseg_core.backbones.vit import DenseBackbone, TimmViT
from schemas.config import EMBEDDED, ClipConfig
from schemas.errors import WeightsError


def _identity(name: str) -> str:
    return name


class Backbones:
    """CLIP, the second network of a job and what else a method asks for, on one device.

    Args:
        clip: which CLIP.
        vision_model: a timm architecture, `local-dir:FOLDER` or `embedded`.
        vision_weights: a weights file for a timm architecture; empty: timm's own.
        device: where they run.
        resolve: turns the name of a weights file (path or URL) into a local path; the default
            takes it as a path.
    """

    def __init__(
        self,
        clip: ClipConfig,
        vision_model: str,
        vision_weights: str = "",
        device: torch.device | str = "cpu",
        resolve: Callable[[str], str] = _identity,
    ) -> None:
        """Keep the names; nothing is loaded yet."""
        self.clip_config = clip
        self.vision_model = vision_model
        self.vision_weights = vision_weights
        self.device = torch.device(device)
        self.resolve = resolve
        self._files: dict[str, str] = {}
        self._networks: dict[str, DenseBackbone] = {}

    @cached_property
    def clip(self) -> Clip:
        """The CLIP model.

        Raises:
            WeightsError: unknown, missing or unusable weights.
        """
        loaded = load_clip.load(self.clip_config, self.device, self.resolve)
        self.note_file("clip", loaded.file)
        return Clip(loaded, self.device)

    @property
    def vision(self) -> TimmViT:
        """The second network, a plain ViT.

        Raises:
            WeightsError: unknown, missing or unusable weights; another kind of network.
        """
        source = self.network(self.vision_model, "vision")
        if not isinstance(source, TimmViT):
            raise WeightsError(
                f"vision.model: {self.vision_model} has no class token; what is asked of it needs "
                "a plain ViT, for example vit_small_patch8_224.dino"
            )
        return source

    def network(self, model: str, role: str = "network") -> DenseBackbone:
        """Return a further network that a method names, loaded once.

        The job's own second network, asked for by its name, is that one, with its weights file.

        Args:
            model: a timm architecture, `local-dir:FOLDER`, `embedded`, or `diffusers:FOLDER`.
            role: what its weights are called in the run's record; one role for each network.

        Raises:
            WeightsError: unknown, missing or unusable weights.
        """
        if model not in self._networks:
            self._networks[model] = self._open(model, role)
        return self._networks[model]

    def _open(self, model: str, role: str) -> DenseBackbone:
        own = model == self.vision_model
        weights = self.vision_weights if own else ""
        role, asked = ("vision", "vision.model") if own else (role, role)
        if model.startswith(DIFFUSERS) and not weights:
            folder = Path(model.removeprefix(DIFFUSERS)).expanduser()
            loaded_unet = unet.load(folder, self.device)
            for part, file in loaded_unet.files.items():
                self.note_file(role + part, file)
            return UnetDecoder(loaded_unet)
        path = self.resolve(weights) if weights else ""
        loaded = load_vit.load(model, path, self.device, asked)
        self.note_file(role, loaded.file)
        reads = SamEncoder if loaded.family == "sam" else TimmViT
        return reads(loaded, self.device)

    def network_or(self, published: str) -> str:
        """Return the network to take where the options name none.

        The user's folder, if the job's second network is one; the embedded network in a job with
        embedded models; else the published one.
        """
        if self.vision_model.startswith((LOCAL_DIR, DIFFUSERS)):
            return self.vision_model
        embedded = EMBEDDED in (self.vision_model, self.clip_config.model)
        return EMBEDDED if embedded else published

    @property
    def vision_is_embedded(self) -> bool:
        """Whether the second network is the tiny one of the package."""
        return self.vision_model == EMBEDDED

    def note_file(self, role: str, path: str | Path) -> None:
        """Remember which file plays a role (`found` for a head), for the run's record."""
        if path:
            self._files[role] = str(path)

    def files(self) -> dict[str, str]:
        """Return the local weight files loaded so far, by role; empty paths are left out."""
        return dict(self._files)
