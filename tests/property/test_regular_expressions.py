"""Every regular expression of the product takes a time that grows with the text, not its square."""

import ast
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import untrusted

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "ovseg_core", "pipeline", "jobs")
METHODS = ("search", "match", "fullmatch", "sub", "split", "findall", "finditer")
FUNCTIONS = {"re.compile", *(f"re.{name}" for name in METHODS)}
LENGTH, MOST_S = 8000, 0.03
"""Characters of a text, and the time for it: work that grows with the square takes more."""


def _expressions() -> Iterator[tuple[str, tuple[re.Pattern, frozenset[str]]]]:
    """Yield the expressions that stand in the code as one text: where, and how they are used."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            code = file.read_text("utf-8")
            if "re." not in code:
                continue
            tree = ast.parse(code)
            names = {
                id(node.value): ast.unparse(node.targets[0])
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign)
            }
            for node in ast.walk(tree):
                if not (isinstance(node, ast.Call) and node.args):
                    continue
                called, given = ast.unparse(node.func), node.args[0]
                if called not in FUNCTIONS or not isinstance(given, ast.Constant):
                    continue
                assert isinstance(given.value, str | bytes)
                used = {called[3:]}
                if called == "re.compile":
                    name = re.escape(names.get(id(node), "?"))
                    used = set(re.findall(rf"\b{name}\.({'|'.join(METHODS)})\b", code))
                where = f"{file.relative_to(ROOT)}:{node.lineno}"
                # Others use the rest: PyYAML, from the beginning of a value.
                yield where, (re.compile(given.value), frozenset(used or {"match"}))
    for name, value in vars(untrusted).items():  # those that are put together
        if isinstance(value, re.Pattern):
            yield f"schemas/untrusted.py: {name}", (value, frozenset({"search", "sub"}))


def _texts(pattern: re.Pattern) -> Iterator[str]:
    """Yield long texts of one or two of the pattern's own characters, and an end that fits none."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin1")
    letters = list(dict.fromkeys(char for char in text if not char.isalnum() or char in "a0Z"))[:6]
    letters = [*dict.fromkeys([*letters, "a", "0", "/", "."])]
    words = re.findall(r"[A-Za-z]{2,}", text)[:3]
    pumps = [*letters, *map("".join, itertools.permutations(letters, 2)), *words]
    beginning = "".join(words[:1])
    for pump in pumps:
        body = (pump * LENGTH)[:LENGTH]
        yield body + "\n\x00!"
        yield beginning + body


EXPRESSIONS = dict(_expressions())


def test_expressions_are_found():
    assert len(EXPRESSIONS) > 30


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_time_grows_with_the_text(where):
    text, taken_s = _slowest(*EXPRESSIONS[where])
    assert taken_s < MOST_S, f"{taken_s} s for {LENGTH} characters such as {text[:20]!r}"


@pytest.mark.parametrize("pattern", [r"\[[^/\]]+\]", r"[0-9][0-9_]*(?:[.][0-9_]*)?[eE]"])
def test_time_that_grows_with_the_square_is_found(pattern):
    assert _slowest(re.compile(pattern), frozenset({"search"}))[1] > MOST_S


def _slowest(pattern: re.Pattern, used: frozenset[str]) -> tuple[str, float]:
    """Return the first text that takes too long and its seconds, or those of the last one."""
    is_bytes = isinstance(pattern.pattern, bytes)
    text, taken_s = "", 0.0
    for text in _texts(pattern):
        given = text.encode() if is_bytes else text
        for _ in range(3):  # once may be chance
            begin = time.process_time()
            if "match" in used:
                pattern.match(given)
            if "fullmatch" in used:
                pattern.fullmatch(given)
            if used - {"match", "fullmatch"}:
                pattern.sub(given[:0], given)  # the first place, and all others
            taken_s = time.process_time() - begin
            if taken_s < MOST_S:
                break
        else:
            return text, taken_s
    return text, taken_s
