"""`ovseg export-student`: a trained student for other programs."""

from jobs import console
from schemas.base import did_you_mean
from schemas.errors import ConfigError

FORMATS = ("onnx",)


def export_student(student: str, to: str, out: str, as_json: bool) -> None:
    """Write a student in another format, and print what was written.

    Raises:
        ConfigError: an unknown format.
    """
    if to not in FORMATS:
        raise ConfigError(f"no format {to!r} for students: {did_you_mean(to, FORMATS)}")
    from pipeline.training.students.onnx_export import export_to_onnx

    written = export_to_onnx(student, out)
    if as_json:
        console.print_json(
            {"file": written.file, "facts_file": written.facts_file, **written.facts}
        )
        return
    labels = written.facts["labels"]
    console.facts(
        [
            ("student", written.facts["student"]),
            ("classes", f"{len(labels)}: {', '.join(labels)}"),
            ("opset", written.facts["opset"]),
            ("onnxruntime", f"differs by at most {written.facts['max_difference']:.1e}"),
            ("model", f"{written.file} ({written.size_bytes / 1e6:.1f} MB)"),
            ("labels, input, outputs", written.facts_file),
        ]
    )
