"""Configurations of the jobs: `JobConfig` annotates, `HeadConfig` and `StudentConfig` train.

All are data only; live objects are built from them in `pipeline`. Fields under `run` may change
between a run and its resume; every other field of a `JobConfig` but `out` and `features_of` can
change an output and is part of the run's fingerprint.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from schemas.base import Frozen
from schemas.records import Share
from schemas.vocabulary import Vocabulary, spelled_out_vocabulary

EMBEDDED = "embedded"
"""Name of the tiny models in the package, accepted wherever a backbone or head is named."""


@dataclass(frozen=True)
class NamesWeights:
    """Marks a field or option that names a network or a weights file."""


WeightsName = Annotated[str, NamesWeights()]
"""Type of such a field; a page that shows a stranger's run loads no such name unasked."""


Precision = Literal["fp32", "bf16", "fp16"]
"""Number format of the products inside a network."""


class NamedOptions(Frozen):
    """A plug-in by its file's name (method, objectness source, exporter) with its own options."""

    name: str
    """Its name; an invalid name prints the valid ones."""
    options: dict[str, Any] = {}
    """Its own; checked before any worker starts."""

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class ConfigModel(Frozen):
    """Base of models in which a user may name plug-ins.

    Options that are given without the plug-in's name are those of the field's default plug-in.
    """

    @model_validator(mode="before")
    @classmethod
    def _keep_default_names(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        named = dict(value)
        for key, field in cls.model_fields.items():
            given = value.get(key)
            if isinstance(field.default, NamedOptions) and isinstance(given, dict):
                named[key] = {"name": field.default.name, **given}
        return named


class ClipConfig(Frozen):
    """The CLIP backbone, loaded by open_clip."""

    model: WeightsName = "auto"
    """An open_clip architecture, `local-dir:FOLDER`, `hf-hub:ORG/REPO`, `embedded` or `auto`.

    `auto` is the CLIP that the method was published with."""
    pretrained: WeightsName = ""
    """open_clip's tag of the weights, or a weights file (path or URL).

    Unused for `local-dir:`, `hf-hub:` and `embedded`."""
    quick_gelu: bool | None = None
    """Activation of CLIP: QuickGELU or GELU; null: what the weights' tag, name or folder says they
    were trained with."""
    layer_norm_eps: PositiveFloat | None = None
    """Epsilon of the layer norms of CLIP's image encoder; null: the architecture's. The original
    MaskCLIP ran with 1e-6."""


class VisionConfig(Frozen):
    """The second, self-supervised backbone, loaded by timm."""

    model: WeightsName = "auto"
    """A timm architecture, `local-dir:FOLDER`, `embedded` or `auto`.

    `auto` is the embedded model beside an embedded CLIP, else DINO ViT-S/8, which FOUND uses."""
    weights: WeightsName = ""
    """A weights file (path or URL) for the architecture; empty: timm's own pretrained weights."""

    def model_beside(self, clip: ClipConfig) -> str:
        """Return the model with `auto` resolved."""
        if self.model != "auto":
            return self.model
        return EMBEDDED if clip.model == EMBEDDED else "vit_small_patch8_224.dino"


class ImageConfig(Frozen):
    """Which files count as images and which are refused."""

    suffixes: tuple[str, ...] = (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".bmp"),
        *(".dib", ".tif", ".tiff", ".gif", ".avif", ".avifs", ".jp2", ".j2k", ".jpc", ".jpf"),
        *(".jpx", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".icb", ".vda", ".vst"),
        *(".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl"),
    )
    """File name endings (any case) that a folder listing keeps; `["*"]`: every file, its content
    decides. A list file is taken as it is. HEIC and JPEG XL need the extras `heif` and `jxl`."""
    exclude: tuple[str, ...] = (
        *("@eaDir", "__MACOSX", "$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER", ".Trash*", "Thumbs.db"),
        *("lost+found", "#recycle", "@Recycle", "System Volume Information", "desktop.ini"),
    )
    """Globs of files and folders that a listing leaves out: names, or paths if they have a `/`."""
    column: str = ""
    """Column of Parquet tables that has the images' bytes; empty: the only one that can be meant,
    else the one called `image`."""
    only: str = ""
    """Text file (path or URL) with one name per line, such as the split of a data set; only images
    of these names are taken, and all of them must exist. A name is an image's path without its
    ending."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Annotate only the first N images of the sorted collection; 0: all."""
    max_pixels: PositiveInt = 100_000_000
    """Images of more pixels get the code `too_large` before they are decoded."""
    max_bytes: PositiveInt = 500_000_000
    """Files of more bytes get the code `too_large` before they are read."""
    color_profiles: Literal["convert", "ignore"] = "convert"
    """`convert`: colours that a file declares (ICC profile, cICP, nclx, gAMA) become sRGB, as a
    browser shows them; `ignore`: numbers are taken as they are."""


class MaskConfig(Frozen):
    """How a label map is cut into segments."""

    segments: Literal["class", "components", "instances"] = "class"
    """`class`: one mask per label and image; `components`: one per connected region, where touching
    objects of one label stay one; `instances`: one per object, which may overlap. Instances need
    `method.options.proposals`, or a method that finds them itself."""
    min_area_px: PositiveInt = 1
    """Segments of fewer pixels are dropped."""


class ComputeConfig(Frozen):
    """How the networks are computed; other values round scores differently.

    Text rows, similarities and the decision are float32 always (docs/methods.md 0.8).
    """

    precision: Precision = "fp32"
    """Of the products inside the networks: `fp32` (on a GPU as TF32), `bf16`, or `fp16` (GPUs
    only)."""
    compile: bool = False
    """Compile the networks' blocks by torch.compile: slower to begin, then faster, most on a GPU.
    Needs a C++ compiler."""


@dataclass(frozen=True)
class ArrayTask:
    """One of several processes that share the shards of a run without Ray; 1 of 1 has them all.

    Attributes:
        number: 1 ... num_tasks.
        num_tasks: of the run.
    """

    number: int = 1
    num_tasks: int = 1

    def owns(self, shard: int) -> bool:
        """Return whether a shard is this task's: every `num_tasks`-th one is."""
        return shard % self.num_tasks == self.number - 1

    @property
    def own(self) -> slice:
        """The task's own of all shards in order."""
        return slice(self.number - 1, None, self.num_tasks)


ALL_SHARDS = ArrayTask()


class RunConfig(Frozen):
    """How the work is spread; nothing here changes the masks.

    Another batch size or device rounds scores differently, in their last digits.
    """

    workers: Annotated[int, Field(ge=0)] = 0
    """Maximum number of workers; 0: as many as the resources allow."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a GPU where the cluster has one, else the CPU."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=8)] = 1.0
    """Share of a GPU that a worker takes (0.5: two workers on one); without effect on the CPU."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """CPU cores that a worker takes; its number of torch threads on the CPU."""
    wait_for_machine_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds that a job waits for the first machine with room for a worker, where the cluster
    starts machines when asked (by Ray's autoscaler); 0: that none is there is an error at once."""
    batch_size: PositiveInt = 8
    """Images computed at once; halved by the worker when it runs out of GPU memory."""
    prefetch_threads: PositiveInt = 4
    """Threads per worker that read and decode the next images."""
    max_error_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """A larger share of failed images makes the exit code 3."""
    local: bool = False
    """Run in this process, without Ray."""
    shards: str = ""
    """`3/8`: be task 3 of 8 that share a run, as in an array job of Slurm: annotate every eighth
    shard from the third on, in this process, without Ray. Empty: all shards."""
    images_roots: tuple[str, ...] = ()
    """Folders and URLs from which images may be read beside the collection itself: where a list
    at a URL names files of this machine, or a run is resumed that another machine has begun."""
    allow_private_addresses: bool = False
    """Call loopback, link-local and private addresses that a list names, or a redirect. The URL
    given as `images` may be private anyway."""
    update: bool = False
    """List the collection of a run that goes on again, and annotate images that are new or changed;
    those that vanished count no more."""
    webhook: str = ""
    """Address (http or https) that gets one POST with a small JSON when the run has ended, or this
    job has failed; the environment's OVSEG_WEBHOOK where this is empty. It is never stored."""
    keep_features: Literal["none", "float16", "int8"] = "none"
    """Keep the features of every image in the run folder, for `ovseg relabel`: other words without
    the images and their networks. int8 takes half the space of float16 and is less exact."""
    accept_versions: bool = False
    """Resume a run although a library has another version now than when the run was begun, so that
    pixels or scores may differ slightly between its shards; their done markers name the versions.
    """

    @model_validator(mode="before")
    @classmethod
    def _tasks_are_local(cls, value: Any) -> Any:
        has_task = isinstance(value, dict) and value.get("shards")
        return {**value, "local": True} if has_task else value

    @field_validator("shards")
    @classmethod
    def _is_a_task(cls, value: str) -> str:
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value)
        if value and not (match and 1 <= int(match[1]) <= int(match[2])):
            raise ValueError(
                "expected TASK/TASKS, such as 3/8 for the third of eight tasks, which count from 1"
            )
        return value

    @property
    def task(self) -> ArrayTask:
        """Which shards are annotated."""
        return ArrayTask(*map(int, self.shards.split("/"))) if self.shards else ALL_SHARDS

    @property
    def threads_per_worker(self) -> int:
        """Threads that a worker's share of the cores feeds: at least one."""
        return max(1, math.floor(self.cpus_per_worker))


def _of_a_training(run: RunConfig) -> RunConfig:
    if run.shards:
        raise ValueError("shards: a training has no shards; leave it out")
    if run.webhook:
        raise ValueError("webhook: a training calls none; leave it out")
    if run.keep_features != "none":
        raise ValueError("keep_features: a training keeps none; leave it out")
    return run


TrainingRun = Annotated[RunConfig, AfterValidator(_of_a_training)]


class Calibration(Frozen):
    """A monotone map of scores, and thresholds by label: what `ovseg calibrate` writes."""

    version: Literal[1] = 1
    """Version of the file format."""
    method: str
    """The method whose scores are calibrated; the file cannot be used with another one."""
    scores: Annotated[tuple[Share, ...], Field(min_length=1)]
    """Mean probabilities, rising; the map is linear between two of them, constant outside."""
    probabilities: tuple[Share, ...]
    """By score, the share of reviewed segments of this score that were right; never falling."""
    thresholds: dict[str, Share] = {}
    """By label, on the calibrated scale: segments below are dropped."""
    default_threshold: Share = 0.0
    """Threshold of labels with too few reviewed segments for one of their own."""
    min_iou: Share = 0.5
    """A segment is right if a reviewed mask of the same label has at least this IoU with it."""
    num_segments: NonNegativeInt = 0
    """Number of reviewed segments that the calibration was fitted to."""
    fingerprint: str = ""
    """Fingerprint of the run that was reviewed."""

    @model_validator(mode="after")
    def _monotone(self) -> "Calibration":
        if len(self.scores) != len(self.probabilities):
            raise ValueError(
                f"{len(self.scores)} scores came with {len(self.probabilities)} probabilities"
            )
        steps = zip(self.scores[:-1], self.scores[1:], strict=True)
        if any(after <= before for before, after in steps):
            raise ValueError("scores must rise")
        rises = zip(self.probabilities[:-1], self.probabilities[1:], strict=True)
        if any(after < before for before, after in rises):
            raise ValueError("probabilities must not fall")
        return self

    def threshold(self, label: str) -> float:
        """Return the calibrated score below which segments of a label are dropped."""
        return self.thresholds.get(label, self.default_threshold)


class TaskConfig(ConfigModel):
    """What a job annotates, with which labels, and into which folder."""

    images: str
    """Folder, glob, bucket prefix (any fsspec URL), or a list file.

    A list is .txt (one URI per line) or .csv, .jsonl, .parquet with a `uri` column."""
    out: str
    """Run folder: a path or any fsspec URL."""
    vocabulary: Vocabulary
    """The labels, with synonyms, templates and background phrases."""


class SegmenterConfig(ConfigModel):
    """How an image becomes masks: what `ovseg_core.load` takes, and the larger part of a job."""

    method: NamedOptions = NamedOptions(name="clip_diy")
    """The published method; `ovseg methods` lists them."""
    clip: ClipConfig = ClipConfig()
    """CLIP backbone; the default is that of the method's paper. A name alone is its `model`."""
    vision: VisionConfig = VisionConfig()
    """Second backbone, for methods and objectness sources that use one. A name alone is its
    `model`."""
    image: ImageConfig = ImageConfig()
    """Which files are taken."""
    masks: MaskConfig = MaskConfig()
    """How segments are cut."""
    calibration: Calibration | None = None
    """Scores and thresholds learned from a review: a file (path or URL) of `ovseg calibrate`.

    Scores become the share of right segments; segments below the threshold of their label are
    dropped."""
    compute: ComputeConfig = ComputeConfig()
    """How the networks are computed."""

    @property
    def uses_embedded_models(self) -> bool:
        """Whether a network is one of the tiny models in the package."""
        return EMBEDDED in (self.clip.model, self.vision.model)

    @classmethod
    def spelled_out(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the fields with the name of a backbone alone written as its `model`."""
        names = {key: values.get(key) for key in ("clip", "vision")}
        return values | {key: {"model": it} for key, it in names.items() if isinstance(it, str)}

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return cls.spelled_out(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _calibration_of_this_method(self) -> Self:
        if self.calibration is not None and self.calibration.method != self.method.name:
            raise ValueError(
                f"the calibration is of the method {self.calibration.method!r}, the job's is "
                f"{self.method.name!r}: their scores cannot be compared"
            )
        return self


class JobConfig(SegmenterConfig, TaskConfig):
    """A whole job; the YAML file and the command line both end here."""

    shard_size: NonNegativeInt = 0
    """Images per shard: the unit of work, commit and loss.

    0: about a 64th of the images, a multiple of 8 from 8 to 256, so that a small job has work for
    every worker."""
    features_of: str = ""
    """Run folder whose stored features are scored in place of images; `ovseg relabel` sets it."""
    run: RunConfig = RunConfig()
    """How the work is spread."""

    @classmethod
    def spelled_out(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the fields with short forms in full, `labels` written as `vocabulary`."""
        values = super().spelled_out(dict(values))
        if "labels" in values:
            if "vocabulary" in values:
                raise ValueError("give either `labels` or `vocabulary`, not both")
            values["vocabulary"] = {"labels": values.pop("labels")}
        if "vocabulary" in values:
            values["vocabulary"] = spelled_out_vocabulary(values["vocabulary"])
        return values

    @model_validator(mode="after")
    def _precision_of_the_device(self) -> "JobConfig":
        if self.compute.precision == "fp16" and self.run.device == "cpu":
            raise ValueError(
                "compute.precision: fp16 needs a GPU, and run.device is `cpu`; use bf16 or fp32"
            )
        return self

    def output_fields(self) -> dict[str, Any]:
        """Return the fields that can change an output, by dotted path.

        All but `out`, `run` and `features_of`, where the features lie.
        """
        exclude = {"run", "out", "features_of"}
        return dict(_flatten(self.model_dump(mode="json", exclude=exclude)))

    def images_per_shard(self, num_images: int) -> int:
        """Return the shard size with 0 resolved; it depends only on the number of images."""
        return self.shard_size or min(256, max(8, -(-num_images // 512) * 8))

    def num_shards(self, num_images: int) -> int:
        """Return the number of shards of a collection."""
        return -(-num_images // self.images_per_shard(num_images))

    @property
    def vision_model(self) -> str:
        """The second backbone with `auto` resolved."""
        return self.vision.model_beside(self.clip)


class HeadConfig(Frozen):
    """One training of a head, as `ovseg train-heads` takes it.

    `out`, `run` and `checkpoint_every` do not change the result.
    """

    images: str
    """Folder, glob, bucket prefix (any fsspec URL), or a list file; no labels are needed."""
    out: str
    """The head's file: a path or any fsspec URL, ending in .safetensors."""
    head: NamedOptions
    """`found` or `dinoiser`, with the options of its schedule."""
    clip: ClipConfig = ClipConfig(model="ViT-B-16", pretrained="laion2b_s34b_b88k")
    """CLIP backbone, for `dinoiser`."""
    vision: VisionConfig = VisionConfig()
    """Second backbone: the one that FOUND's head reads."""
    image: ImageConfig = ImageConfig()
    """Which files are taken."""
    seed: NonNegativeInt = 0
    """Seed of the first weights, the order of the images and their augmentation."""
    checkpoint_every: PositiveInt = 50
    """Steps from one checkpoint to the next."""
    run: TrainingRun = RunConfig()
    """Device, its share, threads, `local` and `max_error_share`. One worker trains a head, so that
    `workers` and `batch_size` have no effect."""

    @classmethod
    def spelled_out(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the fields as they are; refuse the former key `heads`."""
        if "heads" in values:
            raise ValueError("heads: the key is called `head` now, as in `head: found`")
        return values

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return cls.spelled_out(value) if isinstance(value, dict) else value

    @field_validator("out")
    @classmethod
    def _is_a_weights_file(cls, value: str) -> str:
        if not value.endswith(".safetensors"):
            raise ValueError("expected a file that ends in .safetensors")
        return value

    @property
    def checkpoint(self) -> str:
        """Path of the checkpoint of an unfinished training, beside the head's file."""
        return f"{self.out.removesuffix('.safetensors')}.checkpoint.safetensors"

    @property
    def vision_model(self) -> str:
        """The second backbone with `auto` resolved."""
        return self.vision.model_beside(self.clip)


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
    """One training of a student, from a teacher's run or from a public data set's truth.

    `out`, `run`, `checkpoint_every` and `validate_every` do not change the weights of a step.
    """

    teacher: str = ""
    """The run folder whose images, vocabulary and masks are learned. `ovseg train-student` takes a
    job file (.yaml) as well and makes its run first, in `out`/teacher if the file has no `out`."""
    protocol: str = ""
    """In place of a teacher: a data set with a split for training, such as `camvid`, `cityscapes`,
    or a .yaml file of your own; its classes are the vocabulary, its label images are learned."""
    data: str = ""
    """The data set's folder, with `protocol`."""
    out: str
    """Folder of the student: a path or any fsspec URL."""
    student: NamedOptions = NamedOptions(name="maskclip_plus")
    """`maskclip_plus` or `text_fusion`, with the options of its network and schedule."""
    clip: ClipConfig = ClipConfig()
    """CLIP whose text encoder gives the rows of the labels; `auto`: that of the teacher's run, or
    the student's without one."""
    masks: Literal["auto", "predicted", "reviewed", "merged"] = "auto"
    """Whose masks are learned; `auto`: merged once people said anything of the run, else
    predicted."""
    truth: str = ""
    """COCO file or folder of label images (path or URL) that is learned in place of the run's
    masks; images without a truth are learned from the run."""
    only: str = ""
    """A list file: only its images of the run are learned; empty: all."""
    cleaning: CleaningConfig = CleaningConfig()
    """Which of the teacher's masks are learned."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the images that is kept for validation."""
    limit: NonNegativeInt = 0
    """Learn from only so many images, drawn at random; 0: all."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights that is validated and kept; 0: none."""
    precision: Precision = "fp32"
    """Of the forward pass on a GPU; weights stay float32."""
    seed: NonNegativeInt = 0
    """Seed of the first weights, the order of the images and their augmentation."""
    validate_every: PositiveInt = 200
    """Steps from one validation to the next."""
    patience: NonNegativeInt = 0
    """Stop after so many validations without a better mIoU; 0: never."""
    checkpoint_every: PositiveInt = 100
    """Steps from one checkpoint to the next."""
    run: TrainingRun = RunConfig()
    """Workers, device, its share, threads, `local`; `batch_size` is that of validation."""

    @model_validator(mode="after")
    def _one_source(self) -> "StudentConfig":
        if bool(self.teacher) == bool(self.protocol):
            raise ValueError("expected either teacher (a run folder) or protocol (a data set)")
        if bool(self.protocol) != bool(self.data):
            raise ValueError("protocol and data (the data set's folder) go together")
        if self.protocol and (self.truth or self.only or self.masks != "auto"):
            raise ValueError(
                "truth, masks and only are of a teacher's run; a protocol has its own truth and "
                "images"
            )
        return self


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        return [(prefix, value)]
    dotted = f"{prefix}." if prefix else ""
    return [pair for key, inner in value.items() for pair in _flatten(inner, f"{dotted}{key}")]
