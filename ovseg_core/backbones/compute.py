"""How the networks are computed: their precision, TF32, compiled blocks (docs/methods.md 0.8).

Only what runs in `Compute.forward` is affected: the blocks of a network. What a network returns is
float32, and so is all that is computed of it outside: the projection to the joint space, affinities
and outlier repair, heads and objectness, text rows, similarities, softmax and the decision.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, Self, TypeVar

import torch
from torch import Tensor

from ovseg_core.backbones.checkpoint import one_line
from schemas.config import ComputeConfig, Precision
from schemas.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

DTYPES: dict[Precision, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""What autocast is given; None: nothing is cast."""


@dataclass(frozen=True)
class Compute:
    """How networks are computed on a device.

    Attributes:
        device: where they run.
        dtype: of the products in their blocks; None: float32, as TF32 on a GPU.
        compiles: whether their blocks are compiled.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    compiles: bool = False

    @classmethod
    def from_config(cls, config: ComputeConfig, device: torch.device) -> Self:
        """Return what a configuration asks for.

        Raises:
            ConfigError: this machine cannot do it.
        """
        _check_precision(config.precision, device)
        if config.compile:
            _check_compiler(device)
        return cls(device, DTYPES[config.precision], config.compile)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Run the blocks of a network inside; weights stay float32, and so does what is added up.

        Autocast casts the inputs of products, not those of norms and softmax. TF32 is on inside
        alone; it is a setting of the process, so a decision in another thread may round alike.
        """
        products = torch.get_float32_matmul_precision()
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        try:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                yield
        finally:
            if self.device.type == "cuda":
                torch.set_float32_matmul_precision(products)

    def run(self, function: Callable[P, Tensor], *inputs: P.args, **named: P.kwargs) -> Tensor:
        """Return what a network returns, as float32."""
        with self.forward():
            return function(*inputs, **named).float()

    def compiled(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function, compiled at its first call if the job wants it."""
        return torch.compile(function) if self.compiles else function

    def placed(self, network: Any) -> Any:
        """Return a network of convolutions (`nn.Module`) on the device; on a GPU channels last."""
        if self.device.type == "cuda":
            return network.to(self.device, memory_format=torch.channels_last)
        return network.to(self.device)


def call(block: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """Return `block(*inputs, **named)`: compiled once, it serves all blocks of a network."""
    return block(*inputs, **named)


def _check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that this device does not have.

    Raises:
        ConfigError: fp16 on a CPU, bf16 on a GPU without it.
    """
    on_gpu = device.type == "cuda"
    if precision == "fp16" and not on_gpu:
        raise ConfigError(
            "compute.precision: fp16 needs a GPU, and this worker runs on a CPU; use bf16 or fp32"
        )
    if precision != "bf16":
        return
    if on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"compute.precision: this GPU ({torch.cuda.get_device_name(device)}) has no bf16; "
            "use fp16 or fp32"
        )
    if not on_gpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        logger.warning("this CPU has no bf16; compute.precision fp32 would be faster here")


def _check_compiler(device: torch.device) -> None:
    """Compile and run a line, so that a machine without a compiler is found before any image.

    Raises:
        ConfigError: it does not work.
    """
    try:
        torch.compile(lambda x: (x * 2).sin())(torch.ones(8, device=device))
    except Exception as error:  # torch raises many kinds, those of the compilers among them
        raise ConfigError(
            f"compute.compile: torch cannot compile on this machine ({one_line(error)}); install a "
            "C++ compiler (on a GPU also Triton), or set it to false"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the host or the device ran out of memory; torch has no class for the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
