"""The one pydantic base: frozen, closed, and its field docstrings are the help texts."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Data only. An unknown key is an error; a docstring under a field becomes its description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
    )
