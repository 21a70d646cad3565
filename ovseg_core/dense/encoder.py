"""How a window method reads CLIP: the trunk, then the last block in the method's own way.

The two halves are apart so that what lies between them can be changed: outliers repaired, windows
laid together. Shapes: B windows, L = 1 + N tokens, C trunk width, D joint width, E further
channels, h w patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.dense.attention import AttentionPolicy
from ovseg_core.dense.last_block import dense_features
from ovseg_core.dense.options import WindowOptions
from ovseg_core.dense.outliers import fill_outliers, find_outliers

OUTLIER_NEIGHBOURS, OUTLIER_SHARE = 30, 0.05
"""SC-CLIP's published values (methods.md 7b, step 2)."""


class DenseEncoder(Protocol):
    """What a window method supplies."""

    @property
    def clip(self) -> Clip:
        """The CLIP that reads the windows; its normalisation is theirs."""
        ...

    @property
    def multiple_px(self) -> int:
        """Sides of a window are whole multiples of this, padded or cut."""
        ...

    def read(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return what is known of each window by itself, before CLIP's last block.

        Args:
            windows_B3HW: normalised for CLIP, whole patches unless the method drops remainders.
        """
        ...

    def finish(self, state: TrunkFeatures) -> Tensor:
        """Return (B, D + E, h, w).

        The patches in the joint space, not normalised, then what else the scoring looks at.
        """
        ...


@dataclass(frozen=True)
class LastBlockEncoder:
    """Methods that differ in the last block's attention only.

    Attributes:
        clip: the model.
        options: the method's.
        policy: the attention for a state.
        residual: keep the last block's skip connections and its MLP.
    """

    clip: Clip
    options: WindowOptions
    policy: Callable[[TrunkFeatures], AttentionPolicy]
    residual: bool

    @property
    def multiple_px(self) -> int:
        """CLIP's patch."""
        return self.clip.patch_px

    def read(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the trunk's state."""
        return read_trunk(self.clip, windows_B3HW, self.options)

    def finish(self, state: TrunkFeatures) -> Tensor:
        """Return the patches after the last block (B, D, h, w)."""
        return dense_features(self.clip, state, self.policy(state), self.residual)


def read_trunk(
    clip: Clip,
    windows_B3HW: Tensor,
    options: WindowOptions,
    return_ln2: Sequence[int] = (),
    return_blocks: Sequence[int] = (),
) -> TrunkFeatures:
    """Run CLIP up to its last block; outliers are repaired where the options ask for it.

    Args:
        clip: the model.
        windows_B3HW: normalised.
        options: position rule and repair.
        return_ln2: blocks whose `ln_2` output is returned as well.
        return_blocks: blocks whose output is returned as well, as it was before any repair.
    """
    state = clip.forward_trunk(windows_B3HW, options.position_rule, return_ln2, return_blocks)
    return repaired(state) if options.outlier_repair else state


def repaired(state: TrunkFeatures) -> TrunkFeatures:
    """Return the state with its outlying patches filled from their neighbours (7b, steps 2, 3)."""
    class_B1C, patches_BNC = state.tokens_BLC[:, :1], state.tokens_BLC[:, 1:]
    outliers_BN = find_outliers(patches_BNC, OUTLIER_NEIGHBOURS, OUTLIER_SHARE)
    filled_BNC = fill_outliers(patches_BNC, outliers_BN, state.grid_hw)
    return replace(state, tokens_BLC=torch.cat([class_B1C, filled_BNC], dim=1))
