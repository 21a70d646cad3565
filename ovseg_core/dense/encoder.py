"""Images to dense features: CLIP's trunk, then the last block in the method's own way.

The two halves are apart so that the trunk's features can be changed before the last block: outliers
are repaired, or all windows of an image are merged. Everything is float32 and on CLIP's device.

Shapes: B windows, L = 1 + N tokens, C trunk width, D joint width, h w patches, N = h * w.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.dense.last_block import AttentionPolicy, dense_patches, same_region
from ovseg_core.dense.options import AttentionOptions, WindowOptions
from ovseg_core.dense.outliers import repair_outliers
from ovseg_core.segmenter import check_finite

OptionsT = TypeVar("OptionsT", bound=WindowOptions)


@dataclass(frozen=True)
class DenseFeatures:
    """Features of a batch of windows of one size, in CLIP's joint space.

    Attributes:
        patches_BDhw: embedding of each patch.
        class_tokens_BD: embedding of each window as a whole; None where the scoring has no use for
            it.
        extra: further tensors (B, ...) that the method's scoring needs, by name, such as keys or
            objectness.
    """

    patches_BDhw: Tensor
    class_tokens_BD: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.patches_BDhw.shape[2], self.patches_BDhw.shape[3]

    def unit(self) -> "DenseFeatures":
        """Return the features with patches and class tokens of unit length."""
        classes_BD = self.class_tokens_BD
        return replace(
            self,
            patches_BDhw=F.normalize(self.patches_BDhw, dim=1),
            class_tokens_BD=None if classes_BD is None else F.normalize(classes_BD, dim=1),
        )

    def unbind(self) -> list["DenseFeatures"]:
        """Return the features of each window as a batch of one; nothing is copied."""
        classes_BD = self.class_tokens_BD
        return [
            DenseFeatures(
                self.patches_BDhw[i : i + 1],
                None if classes_BD is None else classes_BD[i : i + 1],
                {name: tensor[i : i + 1] for name, tensor in self.extra.items()},
            )
            for i in range(len(self.patches_BDhw))
        ]

    @staticmethod
    def cat(parts: "Sequence[DenseFeatures]") -> "DenseFeatures":
        """Concatenate batches of windows of one size into one batch."""
        first = parts[0]
        classes = [one.class_tokens_BD for one in parts if one.class_tokens_BD is not None]
        return DenseFeatures(
            torch.cat([one.patches_BDhw for one in parts]),
            torch.cat(classes) if classes else None,
            {name: torch.cat([one.extra[name] for one in parts]) for name in first.extra},
        )


class DenseEncoder(ABC, Generic[OptionsT]):
    """Base of the methods' encoders; a method supplies `encode_dense`.

    Args:
        clip: the CLIP that encodes the windows; its normalisation is theirs.
        options: the method's.
    """

    def __init__(self, clip: Clip, options: OptionsT) -> None:
        self.clip = clip
        self.options = options

    @property
    def multiple_px(self) -> int:
        """Sides of a window are padded or cut to whole multiples of this; by default a patch."""
        return self.clip.patch_px

    def encode_trunk(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the features of each window before CLIP's last block.

        Args:
            windows_B3HW: normalised for CLIP, whole patches unless the method drops remainders.
        """
        return self.forward_trunk(windows_B3HW)

    @abstractmethod
    def encode_dense(self, trunk: TrunkFeatures) -> DenseFeatures:
        """Return the dense features, not normalised to unit length."""

    def forward_trunk(
        self,
        windows_B3HW: Tensor,
        return_ln2: Sequence[int] = (),
        return_blocks: Sequence[int] = (),
    ) -> TrunkFeatures:
        """Run CLIP up to its last block; outliers are repaired if `outlier_repair` is on.

        Args:
            windows_B3HW: normalised.
            return_ln2: blocks whose `ln_2` output is returned as well.
            return_blocks: blocks whose output is returned as well, as it is before any repair.

        Raises:
            ImageError: `not_finite`.
        """
        options = self.options
        trunk = self.clip.forward_trunk(
            windows_B3HW, options.position_rule, return_ln2, return_blocks
        )
        check_finite(trunk, "features")  # the repair and the last block compare and sort them
        return repair_outliers(trunk) if options.outlier_repair else trunk


REGIONS = "regions"
"""Name of the map of patches' regions (B, 1, h, w) among a trunk's; 0 is none."""


class LastBlockEncoder(DenseEncoder[AttentionOptions]):
    """Encoder of the methods that change nothing but the last block's attention.

    Args:
        clip: the model.
        options: the method's.
        policy: returns the attention for the trunk's features and the keys that each token attends
            to, bool (B, 1, L, L); None: to all.
        residual: keep the last block's skip connections and its MLP.
    """

    def __init__(
        self,
        clip: Clip,
        options: AttentionOptions,
        policy: Callable[[TrunkFeatures, Tensor | None], AttentionPolicy],
        residual: bool,
    ) -> None:
        super().__init__(clip, options)
        self._policy = policy
        self._residual = residual

    def encode_dense(self, trunk: TrunkFeatures) -> DenseFeatures:
        """Return the patches after the last block."""
        regions_B1hw = trunk.extra_maps.get(REGIONS)
        limit = None if regions_B1hw is None else same_region(regions_B1hw[:, 0])
        policy = self._policy(trunk, limit)
        return DenseFeatures(dense_patches(self.clip, trunk, policy, self._residual))
