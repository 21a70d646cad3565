"""Current decisions: the rules of undo, without a log."""

from pipeline.corrections.current import CurrentDecisions
from schemas.review import ReviewDecision, ReviewKey

KEY = ReviewKey("a", "cat", 0)


def _decision(action: str, source: str = "one", key: ReviewKey = KEY) -> ReviewDecision:
    return ReviewDecision.model_validate(
        {**key._asdict(), "action": action, "at_s": 0.0, "source": source}
    )


def _current(*messages: list[ReviewDecision]) -> CurrentDecisions:
    current = CurrentDecisions()
    for message in messages:
        current.add(message)
    return current


def test_last_decision_of_a_key_counts():
    current = _current([_decision("accept")], [_decision("reject", "two")])
    assert current.by_key() == {KEY: _decision("reject", "two")}
    assert current.of_image("a") == current.by_key()
    assert current.of_image("b") == {}


def test_undo_takes_back_the_last_decision_of_its_source():
    accept, reject = _decision("accept"), _decision("reject", "two")
    assert _current([accept], [reject], [_decision("undo", "two")]).by_key() == {KEY: accept}
    assert _current([accept], [reject], [_decision("undo")]).by_key() == {KEY: reject}
    assert _current([accept], [_decision("undo", "three")]).by_key() == {KEY: accept}
    assert _current([accept], [_decision("undo")]).by_key() == {}


def test_last_message_is_the_last_one_with_a_decision_left():
    other = ReviewKey("b")
    first = [_decision("accept"), _decision("accept", key=other)]
    second = [_decision("reject")]
    current = _current(first, second)
    assert current.last_message("one") == second
    current.add([_decision("undo")])
    assert current.last_message("one") == first
    current.add([_decision("undo", key=other)])
    assert current.last_message("one") == first[:1]
    current.add([_decision("undo")])
    assert current.last_message("one") == []
    assert current.last_message("two") == []
