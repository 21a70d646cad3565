"""The words of a job, as a person gives them: a comma-separated flag or a file."""

from pathlib import PurePosixPath
from typing import Any

from jobs.files import parse_yaml, read_text
from schemas.errors import VocabularyError


def vocabulary_file(path: str) -> dict[str, Any]:
    """Return the `vocabulary` in a file: .txt a word a line; .yaml, .json a list or the object.

    Raises:
        ConfigError: no such file, or not readable as such.
        VocabularyError: a file without words.
    """
    text = read_text(path)
    if PurePosixPath(path).suffix.lower() == ".txt":
        lines = (line.strip() for line in text.splitlines())
        value: Any = [line for line in lines if line and not line.startswith("#")]
    else:
        value = parse_yaml(text, path)
    if not value:
        raise VocabularyError(f"{path}: no labels; expected a list of words or `labels: [...]`")
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return {"labels": value}
    raise VocabularyError(f"{path}: expected a list of words or `labels: [...]`, got {value!r:.60}")
