"""YAML from anybody: values of JSON, and a refusal of whatever grows."""

import time

import pytest
import yaml

from pipeline.storage.yaml_file import (
    MAX_BYTES,
    MAX_COPIED_VALUES,
    MAX_DEPTH,
    MAX_VALUES,
    check_references,
    parse_yaml,
)

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
MERGE_BOMB = "a0: &a0 {k0: x}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: x}}\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "aliases stand for more than"),
        (MERGE_BOMB, "aliases stand for more than"),
        ("a: &a [*a]", "holds it"),
        ("a: &a {b: *a}", "holds it"),
        ("a: *nothing", "alias of nothing"),
        ("[" * 20_000, "in each other"),
        ("{a: " * 20_000, "in each other"),
        ("- " * 20_000 + "x", "in each other"),
        ("? " * 20_000 + "x", "in each other"),
        ("[" + "0," * MAX_VALUES + "]", "values"),
        ("a: " + "9" * 5000, "a number of 5,000 characters"),
        ("a: 0x" + "f" * 5000, "a number of"),
        ("a: 59" + ":59" * 5000, "a number of"),
        ("a: !!python/object/apply:os.system [ls]", "plain values"),
        ("a: !!timestamp x", "plain values"),
        ("a: !!int x", "plain values"),
        ("a: 1\na: 2", "duplicate key a"),
        ("a: [1", "expected"),
        ("a: 1\n--- {}\n", "another document"),
    ],
)
def test_a_file_that_grows_or_is_typed_is_refused_at_once(text: str, problem: str) -> None:
    began_s = time.process_time()
    with pytest.raises(yaml.YAMLError, match=problem):
        parse_yaml(text)
    assert time.process_time() - began_s < 5


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"a: \x00", b"\x80", b"#" * (MAX_BYTES + 1)])
def test_bytes_that_are_no_text_or_too_many_are_an_error_of_yaml(data: bytes) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(data)


def test_aliases_and_merges_that_people_write_are_read() -> None:
    text = "base: &b {x: 1, y: 2}\ninner: {deep: &d {<<: *b, y: 3}}\nlast: {<<: *d, z: 4}\n"
    assert parse_yaml(text) == {
        "base": {"x": 1, "y": 2},
        "inner": {"deep": {"x": 1, "y": 3}},
        "last": {"x": 1, "y": 3, "z": 4},
    }
    copies = ", ".join(["*a"] * (MAX_COPIED_VALUES - 1))
    assert len(parse_yaml(f"a: &a x\nb: [{copies}]")["b"]) == MAX_COPIED_VALUES - 1
    deep = parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert isinstance(deep, list)


def test_values_are_those_of_json() -> None:
    text = "{a: 2026-11-28, b: 1e-3, c: 1.5, d: yes, e: ~, f: '1', g: 2026-99-99}"
    plain = {"a": "2026-11-28", "c": 1.5, "d": True, "e": None, "f": "1", "g": "2026-99-99"}
    assert parse_yaml(text) == plain | {"b": "1e-3"}
    assert parse_yaml(text, by_hand=True) == plain | {"b": 0.001}


@pytest.mark.parametrize("text", ["1e3", "12e45", "2026-11-28", "1_0", "0x1f", "yes", "~", "1.e5"])
def test_texts_that_look_like_other_values_come_back_as_they_were_written(text: str) -> None:
    assert parse_yaml(yaml.safe_dump({"name": text})) == {"name": text}


@pytest.mark.parametrize("by_hand", [False, True])
def test_time_grows_with_the_length_of_a_text_only(by_hand: bool) -> None:
    def seconds(count: int) -> float:
        text = "a: " + "1" * count + " x\nb: " + "+" * 99 + "1:2" * count + " x\n"
        began_s = time.process_time()
        parse_yaml(text, by_hand=by_hand)
        return time.process_time() - began_s

    assert seconds(400_000) < 8 * max(seconds(100_000), 0.02)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            {"a0": "x" * 9} | {f"a{n}": f"${{a{n - 1}}}" * 9 for n in range(1, 12)},
            "stand for more",
        ),
        (
            {"a0": ["x"]} | {f"a{n}": [f"${{a{n - 1}}}"] * 9 for n in range(1, 12)},
            "stand for more",
        ),
        ({"a": "${a}"}, "deep"),
        ({"a": "${b}", "b": ["${a}"]}, "deep"),
        ({"a": "x" * 20_000 + "${b}"}, "in a text of more than"),
        ({"a": ["${b}"] * 1001}, "more than 1,000 references"),
        ({"a": "${" * 5000}, "in a reference"),
        ({"a": "${b${c}}"}, "in a reference"),
        ({"a": "${oc.create:x}"}, "expected a reference as"),
        ({"a": ["${.b}"]}, "expected a reference as"),
    ],
)
def test_references_that_grow_are_refused(value: dict, problem: str) -> None:
    with pytest.raises(yaml.YAMLError, match=problem):
        check_references(value)


def test_references_that_people_write_are_fine() -> None:
    check_references(
        {"root": "/d", "images": "${root}/in", "run": {"x": "${images}${oc.env:HOME}"}}
    )
