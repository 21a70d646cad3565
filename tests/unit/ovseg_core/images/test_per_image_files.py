"""Files of another tool, found by the image's path."""

from pathlib import Path

import pytest
import torch

from ovseg_core.images.batch import ImageBatch
from ovseg_core.images.per_image_files import PerImageFiles, folders_in
from ovseg_core.objectness.external import Options
from schemas.errors import ConfigError, ErrorCode, ImageError
from tests.helpers.tiny_models import random_image


def _files(folder: Path) -> PerImageFiles:
    def load(file: Path) -> torch.Tensor:
        return torch.tensor([float(value) for value in file.read_text().split()])

    return PerImageFiles(str(folder), (".one", ".two"), "list of numbers", "method.folder", load)


def _batch(*paths: str) -> ImageBatch:
    return ImageBatch(tuple(random_image(n, 4, 6) for n in range(len(paths))), paths)


def test_file_is_found_by_path_with_the_first_suffix_that_exists(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.one").write_text("1 2")
    (tmp_path / "a" / "b.two").write_text("3")
    (tmp_path / "c.two").write_text("4")
    first, second = _files(tmp_path).read(_batch("a/b.jpg", "c.png"))
    assert (first.tolist(), second.tolist()) == ([1, 2], [4])


def test_missing_and_unreadable_files_are_image_errors(tmp_path: Path) -> None:
    (tmp_path / "a.one").write_text("not a number")
    with pytest.raises(ImageError, match="unreadable list of numbers") as unreadable:
        _files(tmp_path).read(_batch("a.jpg"))
    assert unreadable.value.code is ErrorCode.UNDECODABLE
    with pytest.raises(
        ImageError, match=r"no list of numbers: expected b\.one or \.two"
    ) as missing:
        _files(tmp_path).read(_batch("b.jpg"))
    assert missing.value.code is ErrorCode.NOT_FOUND


def test_folder_and_paths_are_required(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.folder: no folder at .*nowhere"):
        _files(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"method\.folder finds files .*ImageBatch"):
        _files(tmp_path).read([random_image(0, 4, 6)])


def test_folders_in_lists_the_local_folders_of_options() -> None:
    assert folders_in(Options(folder="maps"), "objectness.options") == {
        "objectness.options.folder": "maps"
    }
    assert folders_in(Options(folder=""), "objectness.options") == {}
