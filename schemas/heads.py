"""One training of a head, as `ovseg train-heads` takes it. Data only."""

from pydantic import NonNegativeInt, PositiveInt, field_validator

from schemas.base import Frozen
from schemas.config import ClipConfig, ImageConfig, NamedOptions, RunConfig, VisionConfig


class HeadsConfig(Frozen):
    """What is trained, on which images, and how.

    `out`, `run` and `checkpoint_every` do not change the result.
    """

    images: str
    """Folder, glob, bucket prefix (any fsspec URL), or a list file; no labels are needed."""
    out: str
    """The head's file: a path or any fsspec URL, ending in .safetensors."""
    heads: NamedOptions
    """`found` or `dinoiser`, with the options of its schedule."""
    clip: ClipConfig = ClipConfig(model="ViT-B-16", pretrained="laion2b_s34b_b88k")
    """CLIP backbone, for `dinoiser`."""
    vision: VisionConfig = VisionConfig()
    """Second backbone: the one that FOUND's head reads."""
    image: ImageConfig = ImageConfig()
    """Which files are taken."""
    seed: NonNegativeInt = 0
    """Of the first weights, the order of the images and their changes."""
    checkpoint_every: PositiveInt = 50
    """Steps from one checkpoint to the next."""
    run: RunConfig = RunConfig()
    """Device, its share, threads, `local` and `max_error_share`; one worker is enough for a head,
    so `workers` and `batch_size` have no part."""

    @field_validator("out")
    @classmethod
    def _is_a_weights_file(cls, value: str) -> str:
        if not value.endswith(".safetensors"):
            raise ValueError("expected a file that ends in .safetensors")
        return value

    @property
    def checkpoint(self) -> str:
        """Where an unfinished training is kept, beside the head's file."""
        return f"{self.out.removesuffix('.safetensors')}.checkpoint.safetensors"

    @property
    def vision_model(self) -> str:
        """The second backbone with `auto` resolved."""
        return self.vision.model_beside(self.clip)
