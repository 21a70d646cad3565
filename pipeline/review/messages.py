"""What the review page may say: decisions and undo, with the reviewer who says it."""

from pydantic import Field

from schemas.base import Frozen
from schemas.review import Action, ReviewDecision

SOURCE = "ovseg review"
"""`ReviewDecision.source` of what is decided on the page; the reviewer follows it, if one is told.
"""


class _Message(Frozen):
    nonce: str = Field("", max_length=64)
    """The same on another try: what was stored, but whose answer was lost, is not done twice."""
    reviewer: str = Field("", pattern=r"^([0-9a-f]{16})?$")
    """A random name that a browser made up for itself; undo takes back what it decided."""

    @property
    def source(self) -> str:
        """Who tells it, as the log keeps it."""
        return f"{SOURCE} {self.reviewer}".rstrip()


class Undo(_Message):
    """Take back what the reviewer decided last."""


class _Decision(Frozen):
    image_id: str
    label: str | None = None
    segment_index: int | None = None
    action: Action
    new_label: str = ""


class Said(_Message):
    """Some decisions, stored together."""

    decisions: tuple[_Decision, ...] = Field(min_length=1, max_length=1000)

    def as_decisions(self, at_s: float) -> list[ReviewDecision]:
        """Return them as the log takes them."""
        return [
            ReviewDecision(**one.model_dump(), at_s=at_s, source=self.source)
            for one in self.decisions
        ]
