"""The board between the workers of a training and its driver."""

import subprocess
import sys

from pipeline.training.students.board import StudentTally, TrainingBoard


def tally(step: int, **failed: int) -> StudentTally:
    return StudentTally(step, None, failed)


def test_driver_sees_where_the_training_began_and_the_newest_state() -> None:
    board = TrainingBoard()
    board.put(1, tally(3))
    assert board.take() == []
    for step in (3, 5, 6):
        assert board.put(0, tally(step)) is False
    assert [one.step for one in board.take()] == [3, 6]
    assert [one.step for one in board.take()] == [6]


def test_unreadable_images_of_all_workers_are_counted_once_each() -> None:
    board = TrainingBoard()
    board.put(0, tally(1, not_found=2))
    board.put(1, tally(1, not_found=1, empty=4))
    board.put(1, tally(2, not_found=3, empty=4))
    assert board.take()[-1].failed == {"not_found": 5, "empty": 4}


def test_workers_are_told_to_stop() -> None:
    board = TrainingBoard()
    board.stop()
    assert board.put(0, tally(1)) is True


def test_its_process_needs_no_torch() -> None:
    code = "import sys, pipeline.training.students.board; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
