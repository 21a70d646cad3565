"""The demo replaces its own results and nothing else."""

from pathlib import Path

import pytest

from jobs.demo.folder import prepare_folder
from schemas.errors import RunFolderError


def test_new_and_empty_folders_are_accepted(tmp_path: Path) -> None:
    assert prepare_folder(str(tmp_path / "a" / "b")).scenes.is_dir()
    (tmp_path / "empty").mkdir()
    assert prepare_folder(str(tmp_path / "empty")).scenes.is_dir()


def test_second_demo_replaces_the_first_and_keeps_other_files(tmp_path: Path) -> None:
    folder = prepare_folder(str(tmp_path / "demo"))
    own = [
        folder.run / "done" / "00000.json",
        folder.scenes / "scene_007.png",
        folder.truth,
        folder.shape_truth,
        folder.sheet,
        folder.config,
    ]
    foreign = [folder.root / "notes.txt", folder.scenes / "mine.png"]
    for path in own + foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    prepare_folder(str(tmp_path / "demo"))
    assert [path for path in own if path.exists()] == []
    assert all(path.exists() for path in foreign)


def test_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(RunFolderError, match="holds other files"):
        prepare_folder(str(tmp_path))
    assert (tmp_path / "run" / "thesis.tex").exists()


def test_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("x", encoding="utf-8")
    with pytest.raises(RunFolderError, match="expected a folder, got a file"):
        prepare_folder(str(tmp_path / "demo"))
