"""The frozen networks of a job, loaded when a method first asks for them."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from ovseg_core import clip_loading, vision_loading
from ovseg_core.clip import Clip
from ovseg_core.vision import Vision
from schemas.config import EMBEDDED, ClipConfig


def _identity(name: str) -> str:
    return name


class Backbones:
    """CLIP and the second network of a job, on one device.

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

    @cached_property
    def clip(self) -> Clip:
        """The CLIP model.

        Raises:
            WeightsError: unknown, missing or unusable weights.
        """
        loaded = clip_loading.load(self.clip_config, self.device, self.resolve)
        self.note_file("clip", loaded.file)
        return Clip(loaded, self.device)

    @cached_property
    def vision(self) -> Vision:
        """The second network.

        Raises:
            WeightsError: unknown, missing or unusable weights.
        """
        weights = self.resolve(self.vision_weights) if self.vision_weights else ""
        loaded = vision_loading.load(self.vision_model, weights, self.device)
        self.note_file("vision", loaded.file)
        return Vision(loaded, self.device)

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
