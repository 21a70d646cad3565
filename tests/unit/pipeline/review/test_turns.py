"""People go before work that is done ahead of them."""

import threading
import time

import pytest

from pipeline.review.turns import Turns


def test_people_go_before_work_that_has_waited_longer():
    turns, order = Turns(), []
    holds, free = threading.Event(), threading.Event()

    def hold() -> None:
        with turns.ahead():
            holds.set()
            free.wait(20)

    def take(turn, name: str) -> None:
        with turn():
            order.append(name)

    threads = [threading.Thread(target=hold)]
    for turn, name in (
        (turns.ahead, "work"), (turns.ahead, "more work"), (turns.person, "one"),
        (turns.person, "other"),
    ):  # fmt: skip
        threads.append(threading.Thread(target=take, args=(turn, name)))
    threads[0].start()
    assert holds.wait(20)
    for thread in threads[1:]:
        thread.start()
    give_up = time.monotonic() + 20
    while turns._num_people < 2 and time.monotonic() < give_up:
        time.sleep(0.001)
    free.set()
    for thread in threads:
        thread.join(20)
    assert set(order[:2]) == {"one", "other"}
    assert set(order[2:]) == {"work", "more work"}


def test_a_turn_that_fails_is_given_back():
    turns = Turns()
    for turn in (turns.person, turns.ahead, turns.person):
        with pytest.raises(ZeroDivisionError), turn():
            raise ZeroDivisionError
    assert (turns._num_people, turns._is_taken) == (0, False)
