"""What a training is made of, once its configuration is read: text rows, record, identity.

Everything here is the same for all workers of a training.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ovseg_core import methods
from ovseg_core.backbones.registry import Backbones, clip_names
from ovseg_core.backbones.text.text_encoder import TextEncoder, templates_of
from ovseg_core.segmenter import MethodCard, TextMatrix
from ovseg_core.training import students
from ovseg_core.training.students import StudentOptions, check_student
from ovseg_core.training.students.shared.pyramid import PyramidOptions, weights_file
from ovseg_core.training.students.shared.student_file import StudentRecord
from pipeline.annotate.versions import compared_versions
from pipeline.run.trust.named_weights import check_named_clip
from pipeline.storage.weights import remember_names, resolve, weights_sha256
from pipeline.training.students.data import StudentData
from pipeline.training.students.sources.run_source import RunSource
from schemas import plugins
from schemas.config import EMBEDDED, ClipConfig, NamedOptions, StudentConfig
from schemas.errors import ConfigError
from schemas.redact import redact

_TEMPLATES = "t80"
"""Templates of phrases where neither the vocabulary nor the teacher's method says."""


def check_config(config: StudentConfig) -> StudentOptions:
    """Return the student's options, checked with what they must fit.

    Raises:
        ConfigError: an unknown student or option, or values that contradict each other.
    """
    options = check_student(config.student)
    if config.patience and not config.validation_share and not config.protocol:
        raise ConfigError("patience: needs validation images: set validation_share above 0")
    if config.run.workers > options.batch:
        raise ConfigError(
            f"run.workers is {config.run.workers}, but a step has {options.batch} images "
            "(student.options.batch): expected at least one for each worker"
        )
    return options


@dataclass(frozen=True)
class Preparation:
    """What a training is made of.

    Attributes:
        config: of the training.
        data: images and labels.
    """

    config: StudentConfig
    data: StudentData

    @cached_property
    def options(self) -> StudentOptions:
        """Of the student."""
        return check_config(self.config)

    @cached_property
    def clip(self) -> ClipConfig:
        """The CLIP whose text encoder gives the rows.

        Raises:
            ConfigError: weights are given without their architecture.
            WeightsError: somebody else's run names weights that this machine has not used.
        """
        given = self.config.clip
        if given.model != "auto":
            return given
        if given.model_fields_set - {"model"}:
            raise ConfigError("clip.model: name the architecture as well; it is `auto`")
        source = self.data.source
        if not isinstance(source, RunSource):
            card: MethodCard = plugins.load_plugin(students.PACKAGE, self.config.student.name).CARD
            return card.clip
        clip = source.clip
        check_named_clip(source.run, clip, clip_names(clip))
        return clip

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """Templates of phrases that the vocabulary gives none for: those of the teacher."""
        source = self.data.source
        if not isinstance(source, RunSource):
            return templates_of(_TEMPLATES)
        options = plugins.read_options(methods.PACKAGE, source.run.info.job().method, "method")
        return templates_of(getattr(options, "templates", _TEMPLATES))

    @cached_property
    def _encoded(self) -> tuple[TextMatrix, str]:
        """The text rows on the CPU, and the SHA-256 of the CLIP that gave them."""
        backbones = Backbones(self.clip, EMBEDDED, resolve=resolve)
        text = TextEncoder(backbones.clip, self.templates).matrix(self.data.source.vocabulary)
        remember_names(backbones.names())
        rows_QD = text.rows_QD.detach().clone()  # not an inference tensor
        matrix = TextMatrix(rows_QD, text.class_index_Q.clone(), text.num_classes)
        return matrix, weights_sha256(backbones.files()["clip"])

    @property
    def text(self) -> TextMatrix:
        """Rows of the labels, on the CPU."""
        return self._encoded[0]

    @cached_property
    def first_weights(self) -> str:
        """Local file of the backbone's first weights; empty: random ones.

        Raises:
            WeightsError: they cannot be found or fetched.
        """
        if not isinstance(self.options, PyramidOptions):
            return ""
        return weights_file(self.options, resolve)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that can change the student, by dotted name."""
        config, file = self.config, self.first_weights
        fields = ("validation_share", "limit", "ema_decay", "precision", "seed")
        return {
            "student": config.student.name,
            **{f"options.{k}": v for k, v in self._shown_options.items()},
            **{name: getattr(config, name) for name in fields},
            "validate_every": config.validate_every,
            "patience": config.patience,
            "clip": self._encoded[1],
            "templates": list(self.templates),
            **({"weights.backbone": weights_sha256(file)} if file else {}),
            **self.data.source.identity,
        }

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that can change the student."""
        return compared_versions(["clip", "student"])

    def record(self, training: dict[str, Any]) -> StudentRecord:
        """Return what the student's file says of it.

        Args:
            training: how it was trained.
        """
        return StudentRecord(
            student=NamedOptions(name=self.config.student.name, options=self._shown_options),
            vocabulary=self.data.source.vocabulary,
            clip=self.clip,
            clip_sha256=self._encoded[1],
            templates=self.templates,
            training=training,
        )

    @property
    def _shown_options(self) -> dict[str, Any]:
        """All options, without secrets of URLs."""
        values = self.options.model_dump(mode="json")
        return {k: redact(v) if isinstance(v, str) else v for k, v in values.items()}
