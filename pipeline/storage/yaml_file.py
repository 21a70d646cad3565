"""YAML from anybody: one loader, with limits on what a small file can become.

A text of a few lines can stand for a billion values (aliases of aliases), end the interpreter (ten
thousand lists, one in the other) or keep it busy for minutes. So the parser's events are counted
first, which builds nothing.
"""

import re
from typing import Any

import yaml

MAX_BYTES = 16 << 20
"""Largest file that is read as YAML."""
MAX_VALUES = 400_000
"""Values and keys of one file; some 25,000 labels in a `run.yaml`."""
MAX_COPIED_VALUES = 10_000
"""Values that aliases (`*name`) stand for, together."""
MAX_DEPTH = 64
"""Mappings and lists in each other."""
_MAX_NUMBER_CHARS = 400
"""A number of more digits than any float has is not one."""

MAX_REFERENCES = 1000
"""References (`${key}`) in one job file."""
_MAX_REFERENCE_DEPTH = 16
_MAX_REFERENCE_CHARS = 10_000
_MAX_COPIED_CHARS = 1 << 20
_REFERENCE = re.compile(r"[$][{]([^${}]*)[}]")
_KEY = re.compile(r"\w[\w-]*(?:[.]\w[\w-]*)*\Z")
_ENVIRONMENT = "oc.env:"

_TEXT_TAG = "tag:yaml.org,2002:str"
_DATE_TAG = "tag:yaml.org,2002:timestamp"
_FLOAT_TAG = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(?:[.][0-9_]*)?[eE][-+]?[0-9]+\Z")
_BASE: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Loader(_BASE):
    """Values of JSON only: a date is a text. A key that is given twice is an error."""

    yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] != _DATE_TAG]
        for first, pairs in _BASE.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: Any) -> None:
        # Before other mappings are merged into it (`<<`), whose keys it may have as well.
        if not hasattr(node, "has_checked_keys"):
            node.has_checked_keys = True
            keys: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag == _TEXT_TAG:
                    if key.value in keys:
                        raise _problem(f"found duplicate key {key.value[:80]}", key)
                    keys.add(key.value)
        super().flatten_mapping(node)


class _LoaderOfHandwriting(_Loader):
    """`1e-3` is a number, too, which YAML 1.1 has as a text."""


_LoaderOfHandwriting.add_implicit_resolver(_FLOAT_TAG, _EXPONENT, list("-+0123456789"))


def parse_yaml(data: bytes | str, *, by_hand: bool = False) -> Any:
    """Return the value of a YAML (or JSON) text: mappings, lists, texts, numbers, booleans, None.

    Args:
        data: the text.
        by_hand: people wrote it, who mean a number by `1e-3`; programs write such a text so.

    Raises:
        yaml.YAMLError: not YAML, or more than one of the limits above. Most have `problem` and
            `problem_mark`.
    """
    if len(data) > MAX_BYTES:
        raise yaml.YAMLError(f"expected at most {MAX_BYTES >> 20} MiB, got {len(data):,} bytes")
    _check(data)
    try:
        return yaml.load(data, _LoaderOfHandwriting if by_hand else _Loader)
    except (ValueError, TypeError, OverflowError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error


class _Counts:
    """Values, copies and depth of a text, event by event."""

    def __init__(self) -> None:
        self.num_values = self.num_copied = 0
        self._sizes: dict[str, int] = {}
        self._open: list[tuple[str | None, int]] = []  # anchor, and the values before it

    def add(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._sizes:
                problem = "an alias of nothing, or of a value that holds it"
                raise _problem(f"*{event.anchor[:80]} is {problem}", event)
            self.num_copied += self._sizes[event.anchor]
            self.num_values += self._sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            self.num_values += 1
            _check_node(event)
            if isinstance(event, yaml.CollectionStartEvent):
                self._open.append((event.anchor, self.num_values - 1))
            elif event.anchor:
                self._sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            if anchor:
                self._sizes[anchor] = self.num_values - before

    @property
    def depth(self) -> int:
        return len(self._open)


def _check(data: bytes | str) -> None:
    """Raise for a text with more values, depth or copies than the limits, or with typed values."""
    counts = _Counts()
    for event in yaml.parse(data, _BASE):
        counts.add(event)
        if counts.depth > MAX_DEPTH:
            raise _problem(f"more than {MAX_DEPTH} mappings and lists in each other", event)
        if counts.num_copied > MAX_COPIED_VALUES:
            raise _problem(f"aliases stand for more than {MAX_COPIED_VALUES:,} values", event)
        if counts.num_values > MAX_VALUES:
            raise _problem(f"more than {MAX_VALUES:,} values", event)


def _check_node(event: Any) -> None:
    if event.tag not in (None, "!", _TEXT_TAG):
        raise _problem(f"expected plain values without types, got {event.tag[:80]}", event)
    if (
        isinstance(event, yaml.ScalarEvent)
        and event.implicit[0]
        and len(event.value) > _MAX_NUMBER_CHARS
        and event.value[:1] in "+-.0123456789"
        and " " not in event.value
    ):
        raise _problem(f"a number of {len(event.value):,} characters; quote a text", event)


def _problem(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def check_references(value: Any) -> None:
    """Raise for references in a job file that stand for more than a person writes.

    Args:
        value: of the file, with `${key}` as it stands there.

    Raises:
        yaml.YAMLError: too many, too long or too deep, or another kind than `${key.key}` and
            `${oc.env:NAME}`.
    """
    _References(value).check()


class _References:
    def __init__(self, value: Any) -> None:
        self._value = value
        self._sizes: dict[str, int] = {}
        self._num_left = MAX_REFERENCES

    def check(self) -> None:
        self._size(self._value, 0)

    def _size(self, value: Any, depth: int) -> int:
        """Return the characters and values that a value becomes."""
        if depth > _MAX_REFERENCE_DEPTH:
            raise yaml.YAMLError(f"references to references, more than {_MAX_REFERENCE_DEPTH} deep")
        if isinstance(value, dict):
            size = sum(1 + self._size(inner, depth) for inner in value.values())
        elif isinstance(value, list):
            size = sum(1 + self._size(inner, depth) for inner in value)
        elif isinstance(value, str) and "${" in value:
            size = len(value) + sum(self._target_size(key, depth) for key in self._keys(value))
        else:
            return len(value) if isinstance(value, str) else 1
        if depth and size > _MAX_COPIED_CHARS:
            raise yaml.YAMLError(f"references stand for more than {_MAX_COPIED_CHARS:,} characters")
        return size

    def _keys(self, text: str) -> list[str]:
        keys = _REFERENCE.findall(text)
        self._num_left -= len(keys)
        if self._num_left < 0 or len(text) > _MAX_REFERENCE_CHARS:
            raise yaml.YAMLError(
                f"more than {MAX_REFERENCES:,} references, or one in a text of more than "
                f"{_MAX_REFERENCE_CHARS:,} characters"
            )
        for key in keys:
            if not key.startswith(_ENVIRONMENT) and not _KEY.match(key):
                raise yaml.YAMLError(
                    f"expected a reference as ${{key.key}} or ${{oc.env:NAME}}, got ${{{key[:80]}}}"
                )
        if "${" in _REFERENCE.sub("", text):
            raise yaml.YAMLError(f"a reference in a reference, or without its end: {text[:80]}")
        return keys

    def _target_size(self, key: str, depth: int) -> int:
        if key not in self._sizes:
            target = self._value
            for part in key.split("."):
                target = target.get(part) if isinstance(target, dict) else None
            self._sizes[key] = self._size(target, depth + 1)
        return self._sizes[key]
