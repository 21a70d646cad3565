"""Configuration of the job that trains a student, `ovseg train-student`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from schemas.base import Frozen
from schemas.config import ClipConfig, ConfigModel, NamedOptions, RunConfig
from schemas.records import Share


class CleaningConfig(Frozen):
    """Which of the teacher's masks are learned; people's own masks are always."""

    min_score: Share = 0.0
    """Pixels of masks with a smaller score (`mean_prob`) are ignored."""
    thresholds: str = ""
    """File of `ovseg calibrate` (path or URL): pixels of masks below the threshold of their label
    are ignored."""
    edge_px: NonNegativeInt = 0
    """Pixels this near to an edge between two labels are ignored."""
    max_review_priority: Share = 1.0
    """Images with a higher review priority are left out."""


class StudentConfig(ConfigModel):
    """One training of a student.

    `out`, `run`, `checkpoint_every` and `validate_every` do not change the weights of a step.
    """

    teacher: str
    """The run folder whose images, vocabulary and masks are learned."""
    out: str
    """Folder of the student: a path or any fsspec URL."""
    student: NamedOptions = NamedOptions(name="maskclip_plus")
    """`maskclip_plus` or `text_fusion`, with the options of its network and schedule."""
    clip: ClipConfig = ClipConfig()
    """CLIP whose text encoder gives the rows of the labels; `auto`: that of the teacher's run."""
    masks: Literal["auto", "predicted", "reviewed", "merged"] = "auto"
    """Whose masks are learned; `auto`: merged once people said anything of the run, else
    predicted."""
    truth: str = ""
    """COCO file or folder of label images (path or URL) that is learned in place of the run's
    masks; images without a truth are learned from the run."""
    cleaning: CleaningConfig = CleaningConfig()
    """Which of the teacher's masks are learned."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the images that is kept for validation."""
    limit: NonNegativeInt = 0
    """Learn from only so many images, drawn at random; 0: all."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights that is validated and kept; 0: none."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward pass on a GPU; weights stay float32."""
    seed: NonNegativeInt = 0
    """Seed of the first weights, the order of the images and their augmentation."""
    validate_every: PositiveInt = 200
    """Steps from one validation to the next."""
    patience: NonNegativeInt = 0
    """Stop after so many validations without a better mIoU; 0: never."""
    checkpoint_every: PositiveInt = 100
    """Steps from one checkpoint to the next."""
    run: RunConfig = RunConfig()
    """Workers, device, its share, threads, `local`; `batch_size` is that of validation."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        return cls.spelled_out(value) if isinstance(value, dict) else value
