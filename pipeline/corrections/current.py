"""What stands of what people said; the one rule of the log, the page and the reviewed layer.

Of each segment, label or image the last decision stands that was not undone. What one message told
is taken back together: a person pressed one key.
"""

from collections import defaultdict
from collections.abc import Sequence

from schemas.review import ReviewDecision, ReviewKey


class CurrentDecisions:
    """Takes messages in their order."""

    def __init__(self) -> None:
        """Begin with none."""
        self._stacks: dict[ReviewKey, list[ReviewDecision]] = defaultdict(list)
        self._keys: dict[str, dict[ReviewKey, None]] = defaultdict(dict)
        self._messages: dict[str, list[list[ReviewDecision]]] = defaultdict(list)

    def add(self, message: Sequence[ReviewDecision]) -> None:
        """Take a further message, that is an entry of the log."""
        told: dict[str, list[ReviewDecision]] = defaultdict(list)
        for decision in message:
            stack = self._stacks[decision.key]
            self._keys[decision.image_id][decision.key] = None
            if decision.action == "undo":
                _take_back(stack, decision.source)
            else:
                stack.append(decision)
                told[decision.source].append(decision)
        for source, decisions in told.items():
            self._messages[source].append(decisions)

    def state(self) -> dict[ReviewKey, ReviewDecision]:
        """Return the decision of every key that has one."""
        return {key: stack[-1] for key, stack in self._stacks.items() if stack}

    def of_image(self, image_id: str) -> dict[ReviewKey, ReviewDecision]:
        """Return the same of one image."""
        keys = self._keys.get(image_id, ())
        return {key: self._stacks[key][-1] for key in keys if self._stacks[key]}

    def last_of(self, source: str) -> list[ReviewDecision]:
        """Return what is not undone yet of the source's last message that has something left."""
        messages = self._messages.get(source, [])
        while messages:
            left = [one for one in messages[-1] if self._is_kept(one)]
            if left:
                return left
            messages.pop()
        return []

    def _is_kept(self, decision: ReviewDecision) -> bool:
        return any(one is decision for one in self._stacks[decision.key])


def _take_back(stack: list[ReviewDecision], source: str) -> None:
    """Remove what a source said last of a key; what others said of it since stays."""
    own = [place for place, one in enumerate(stack) if one.source == source]
    if own:
        del stack[own[-1]]
