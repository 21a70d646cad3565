"""Students that nobody has trained, as files."""

from pathlib import Path

import torch

from ovseg_core.backbones.file_formats.head_file import file_sha256
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TextEncoder, templates_of
from ovseg_core.training.students import TextShape, build_network
from ovseg_core.training.students.shared.student_file import StudentRecord, student_bytes
from schemas.config import NamedOptions
from schemas.vocabulary import Vocabulary

TINY_STUDENT = NamedOptions(
    name="maskclip_plus",
    options={
        "backbone": "test_convnext",
        "backbone_weights": "random",
        "channels": 16,
        "size_px": 64,
        "steps": 8,
        "batch": 4,
    },
)
WORDS = Vocabulary.model_validate(["cat", {"name": "dog", "synonyms": ["puppy"]}])


def write_student(
    file: Path,
    backbones: Backbones,
    part: NamedOptions = TINY_STUDENT,
    words: Vocabulary = WORDS,
    seed: int = 0,
) -> Path:
    """Write a student with random weights and the text rows of a CLIP."""
    templates = templates_of("plain")
    text = TextEncoder(backbones.clip, templates).matrix(words)
    torch.manual_seed(seed)
    network = build_network(part, TextShape(*text.rows_QD.shape))
    record = StudentRecord(
        student=part,
        vocabulary=words,
        clip=backbones.clip_config,
        clip_sha256=file_sha256(backbones.files()["clip"]),
        templates=templates,
    )
    file.write_bytes(student_bytes(network.state_dict(), text, record))
    return file
