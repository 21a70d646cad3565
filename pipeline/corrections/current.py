"""The current decisions: what remains of the correction log after undo and later decisions.

Of each segment, label or image the last decision counts that was not undone. The decisions of one
message are undone together: the reviewer pressed one key.
"""

from collections import defaultdict
from collections.abc import Sequence

from schemas.review import ReviewDecision, ReviewKey


class CurrentDecisions:
    """The decisions that count, after messages were added in their order; not safe for threads."""

    def __init__(self) -> None:
        self._stacks: dict[ReviewKey, list[ReviewDecision]] = defaultdict(list)
        self._keys: dict[str, dict[ReviewKey, None]] = defaultdict(dict)
        self._messages: dict[str, list[list[ReviewDecision]]] = defaultdict(list)

    def add(self, message: Sequence[ReviewDecision]) -> None:
        """Add the decisions of one message, that is of one entry of the log."""
        added: dict[str, list[ReviewDecision]] = defaultdict(list)
        for decision in message:
            stack = self._stacks[decision.key]
            self._keys[decision.image_id][decision.key] = None
            if decision.action == "undo":
                # The last one of the same source; what others decided later stays.
                own = [place for place, one in enumerate(stack) if one.source == decision.source]
                if own:
                    del stack[own[-1]]
            else:
                stack.append(decision)
                added[decision.source].append(decision)
        for source, decisions in added.items():
            self._messages[source].append(decisions)

    def by_key(self) -> dict[ReviewKey, ReviewDecision]:
        """Return the current decision of every key that has one."""
        return {key: stack[-1] for key, stack in self._stacks.items() if stack}

    def of_image(self, image_id: str) -> dict[ReviewKey, ReviewDecision]:
        """Return the current decisions on one image, by key."""
        keys = self._keys.get(image_id, ())
        return {key: self._stacks[key][-1] for key in keys if self._stacks[key]}

    def last_message(self, source: str) -> list[ReviewDecision]:
        """Return the decisions of the source's last message that are not undone yet.

        Messages of which nothing is left are passed over; empty: the source has none left.
        """
        messages = self._messages.get(source, [])
        while messages:
            left = [
                one for one in messages[-1] if any(kept is one for kept in self._stacks[one.key])
            ]
            if left:
                return left
            messages.pop()
        return []
