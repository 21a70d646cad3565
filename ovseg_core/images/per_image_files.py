"""Files of another tool, one per image, in a local folder laid out like the collection.

The file of `a/b.jpg` is `FOLDER/a/b` with one of the suffixes that its reader supports.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator

from ovseg_core.images.batch import Image, ImageBatch
from schemas.base import Frozen
from schemas.errors import ConfigError, ErrorCode, ImageError


def _local(value: str) -> str:
    if "://" in value:
        raise ValueError("expected a local folder (mounted on every worker), not a URL")
    return value


LocalFolder = Annotated[str, AfterValidator(_local)]
"""Type of an option that names such a folder; its files are part of the run identity."""


def folders_in(options: Frozen, where: str) -> dict[str, str]:
    """Return the folders named by a plug-in's options, by dotted option; empty ones are left out.

    Args:
        options: of one plug-in.
        where: dotted path of the options in the job file.
    """
    named = [
        name
        for name, field in type(options).model_fields.items()
        if AfterValidator(_local) in field.metadata
    ]
    folders = {f"{where}.{name}": getattr(options, name) for name in named}
    return {option: folder for option, folder in folders.items() if folder}


Content = TypeVar("Content")


@dataclass(frozen=True)
class PerImageFiles(Generic[Content]):
    """The files of one kind.

    Attributes:
        folder: local.
        suffixes: with their dots, in order of preference.
        kind: a noun for messages, such as `objectness map`.
        option: dotted option that names the folder, for messages.
        load: reads one file; OSError, ValueError, SyntaxError (Pillow's) and MemoryError mean that
            the file is unreadable.

    Raises:
        ConfigError: the folder does not exist.
    """

    folder: str
    suffixes: tuple[str, ...]
    kind: str
    option: str
    load: Callable[[Path], Content]

    def __post_init__(self) -> None:
        """Check that the folder exists."""
        if not Path(self.folder).is_dir():
            raise ConfigError(f"{self.option}: no folder at {self.folder}")

    def read(self, images: Sequence[Image]) -> tuple[Content, ...]:
        """Return the content of each image's file.

        Raises:
            ConfigError: the batch has no paths.
            ImageError: the file of an image is missing or unreadable.
        """
        paths = images.paths if isinstance(images, ImageBatch) else None
        if paths is None:
            raise ConfigError(
                f"{self.option} finds files by the images' paths: give the images as an "
                "ovseg_core.images.batch.ImageBatch with paths"
            )
        return tuple(self._read(self._file(path)) for path in paths)

    def _file(self, path: str) -> Path:
        stem = Path(self.folder) / PurePosixPath(path).with_suffix("")
        for suffix in self.suffixes:
            file = stem.with_name(stem.name + suffix)
            if file.is_file():
                return file
        *first, last = self.suffixes
        wanted = f"{stem.name}{', '.join(first)} or {last} in {stem.parent}"
        raise ImageError(ErrorCode.NOT_FOUND, f"no {self.kind}: expected {wanted}")

    def _read(self, file: Path) -> Content:
        try:
            return self.load(file)
        except (OSError, ValueError, SyntaxError, MemoryError) as error:
            raise ImageError(
                ErrorCode.UNDECODABLE, f"unreadable {self.kind} {file}: {error}"
            ) from error
