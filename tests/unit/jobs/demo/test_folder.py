"""The demo replaces its own results and nothing else."""

from pathlib import Path

import pytest

from jobs.demo.folder import fresh
from schemas.errors import RunFolderError


def test_a_new_and_an_empty_folder_are_taken(tmp_path: Path) -> None:
    assert fresh(str(tmp_path / "a" / "b")).scenes.is_dir()
    (tmp_path / "empty").mkdir()
    assert fresh(str(tmp_path / "empty")).scenes.is_dir()


def test_a_second_demo_removes_the_first_and_keeps_foreign_files(tmp_path: Path) -> None:
    folder = fresh(str(tmp_path / "demo"))
    own = [
        folder.run / "done" / "00000.json",
        folder.scenes / "scene_007.png",
        folder.truth,
        folder.sheet,
        folder.config,
    ]
    foreign = [folder.root / "notes.txt", folder.scenes / "mine.png"]
    for path in own + foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    fresh(str(tmp_path / "demo"))
    assert [path for path in own if path.exists()] == []
    assert all(path.exists() for path in foreign)


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(RunFolderError, match="holds other files"):
        fresh(str(tmp_path))
    assert (tmp_path / "run" / "thesis.tex").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("x", encoding="utf-8")
    with pytest.raises(RunFolderError, match="expected a folder, got a file"):
        fresh(str(tmp_path / "demo"))
