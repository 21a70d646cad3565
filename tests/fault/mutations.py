"""Changes to files, as a stranger or a bad disk makes them: bytes, values, columns, headers."""

import copy
import hashlib
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

TEXTS = (
    *("", "\0", "x" * 100_000, "9" * 40, "-1", "NaN", "../../outside/secret.txt", "/etc/passwd"),
    *("..\\..\\x", "\x1b[2J\x07", "\u202egnp.exe", "line\nend", "http://127.0.0.1:9/x", "%2e%2e/x"),
    *("file:///etc/passwd", "s3://elsewhere/x", "C:/x", "simplecache::http://127.0.0.1:9/x"),
    *("<img src=x onerror=alert(1)>", "hf-hub:a/b", "local-dir:/etc"),
)
NUMBERS = (-1, 0, 1, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63), 10**30)
FLOATS = (float("nan"), float("inf"), -1.0, 1e308, 0.5)
_HEADER_LENGTH_BYTES = 8


def mutate(file: Path, run: Path, dice: random.Random) -> str:
    """Change a file in place and return what was done, in words."""
    data = file.read_bytes()
    kinds: list[tuple[str, Callable[[bytes, random.Random], bytes]]] = [("bytes", _other_bytes)]
    if file.suffix == ".json":
        kinds += 3 * [("a value of the JSON", _other_json)]
    if file.suffix == ".yaml":
        kinds += 3 * [("a value of the YAML", _other_yaml)]
    if file.suffix == ".xml":
        kinds += 3 * [("a value of the XML", _other_xml)]
    if file.suffix == ".parquet":
        kinds += 6 * [("values of a column", _other_column)]
    if file.suffix == ".safetensors":
        kinds += 3 * [("a value of the header", _other_header)]
    if file.suffix == ".txt":
        kinds += 3 * [("a line", _other_line)]
    words, change = dice.choice(kinds)
    file.write_bytes(change(data, dice))
    if dice.random() < 0.9:
        _fit_hashes(file, run)
        words += ", hashes fit"
    return words


def _other_bytes(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 4, 32))):
        place = dice.randrange(len(changed) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            changed[place : place + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            del changed[place : place + dice.choice((1, 8, 10**6))]
        elif kind == 2:
            changed[place:place] = changed[: dice.choice((4, 64, 4096))]
        else:
            changed[place:place] = dice.choice((b"\xff" * 8, bytes(64), b"[" * 9000, b"9" * 4000))
    return bytes(changed)


def _hostile(dice: random.Random) -> Any:
    nested: Any = []
    for _ in range(dice.choice((1, 50))):
        nested = [nested]
    return dice.choice(
        [dice.choice(TEXTS), dice.choice(NUMBERS), dice.choice(FLOATS), None, True, [], {}, nested]
    )


def _other_value(document: Any, dice: random.Random) -> Any:
    """Replace, remove or repeat one value of a document, anywhere in it."""
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        node = waiting.pop()
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in pairs:
            places.append((node, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    if not places or dice.random() < 0.03:
        return _hostile(dice)
    node, key = dice.choice(places)
    kind = dice.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    elif kind == 1:
        node[dice.choice(TEXTS)] = node[key]
    else:
        node[key] = _hostile(dice)
    return document


def _other_json(data: bytes, dice: random.Random) -> bytes:
    return json.dumps(_other_value(json.loads(data), dice)).encode()


def _other_yaml(data: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.1:
        bomb = "a0: &a0 [x, x]\n" + "".join(
            f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 28)
        )
        return bomb.encode() + data
    return yaml.safe_dump(_other_value(yaml.safe_load(data), dice), sort_keys=False).encode()


def _other_xml(data: bytes, dice: random.Random) -> bytes:
    text = data.decode()
    found = dice.choice(list(re.finditer(r'"[^"]*"|>[^<]+<', text)))
    value = str(_hostile(dice)).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f"{text[: found.start() + 1]}{value}{text[found.end() - 1 :]}".encode()


def _other_column(data: bytes, dice: random.Random) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    if not table.num_columns:
        return data
    name = dice.choice(table.column_names)
    values = table.column(name).to_pylist()
    kind = dice.randrange(5)
    if kind == 0:
        table = table.drop_columns([name])
    else:
        pool = dice.choice((TEXTS, NUMBERS[:-1], FLOATS, (None,)))
        if values and isinstance(values[0], str) and kind < 4:
            pool = (*TEXTS, "0" * 16, "PPYo0", values[-1], values[0][: len(values[0]) // 2])
        rows = range(len(values)) if kind == 1 else [dice.randrange(len(values) or 1)]
        for row in rows if values else ():
            values[row] = dice.choice(pool)
        kinds = (table.schema.field(name).type, None)
        table = table.drop_columns([name]).append_column(name, _array(values, kinds))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _array(values: list[Any], kinds: tuple[pa.DataType | None, ...]) -> pa.Array:
    for kind in kinds:
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, OverflowError, TypeError, UnicodeError):
            continue
    return pa.array([None if value is None else ascii(value) for value in values])


def _fit_hashes(file: Path, run: Path) -> None:
    """Write the file's size and hash where the run states them, as whoever shares it could."""
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if file == run / "manifest.parquet":
        text = (run / "run.yaml").read_text()
        text = re.sub("manifest_sha256: .*", f"manifest_sha256: {digest}", text)
        (run / "run.yaml").write_text(text)
    for marker_file in (run / "done").glob("*.json"):
        if marker_file == file:
            continue
        marker = json.loads(marker_file.read_text())
        for entry in marker["files"].values():
            if run / entry["name"] == file:
                entry |= {"sha256": digest, "size_bytes": len(data)}
        marker_file.write_text(json.dumps(marker))


def _other_header(data: bytes, dice: random.Random) -> bytes:
    """Change a value of the header of a safetensors file, or of the record in it."""
    end = _HEADER_LENGTH_BYTES + int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
    header = json.loads(data[_HEADER_LENGTH_BYTES:end])
    texts = header.get("__metadata__", {})
    if texts and dice.random() < 0.5:
        name = dice.choice(sorted(texts))
        texts[name] = json.dumps(_other_value(json.loads(texts[name]), dice))
    else:
        header = _other_value(header, dice)
    changed = json.dumps(header).encode()
    return len(changed).to_bytes(_HEADER_LENGTH_BYTES, "little") + changed + data[end:]


def _other_line(data: bytes, dice: random.Random) -> bytes:
    """Change, repeat or remove a line of a list."""
    lines = data.decode().splitlines()
    place = dice.randrange(len(lines))
    value = str(_hostile(dice))
    kinds = (value, f"{lines[place]}\n{lines[place]}", f"{lines[place]}\t{value}", f"../{value}")
    lines[place] = dice.choice(kinds)
    return "\n".join(lines).encode(errors="replace")
