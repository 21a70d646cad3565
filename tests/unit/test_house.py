"""The house rules that a machine can hold: imports, light start, rooms, names, citations, tests."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest

from schemas.score_columns import SCORE_COLUMNS

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "ovseg_core", "pipeline", "jobs")
PLUGIN_FOLDERS = {"methods", "objectness", "refine", "exporters", "importers", "archives"}
PLUGIN_NAMES = {
    "Options",
    "build",
    "build_network",
    "build_task",
    "export",
    "read",
    "members",
    "content",
    "span",
}
"""What every plug-in of a kind defines; all other public names are defined once."""
MAX_ENTRIES = 12
SHARED_COLUMNS = {"mean_prob", "area_frac", "num_components"}
"""Score columns whose names other tables and records have as well."""
OTHERS_PRIVATE_NAMES = {
    *("_forward_hooks", "_forward_pre_hooks", "_utils", "_rebuild_tensor"),
    *("_asdict", "_replace", "_strip_protocol", "_split_scope", "_repr_png_"),
}
"""Of torch, namedtuple, fsspec, xdist and IPython, which have no public name for them."""


def tracked(*suffixes: str) -> list[Path]:
    """Return the repository's files of these endings, relative to its root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    paths = [Path(line) for line in listed.splitlines()]
    return [path for path in paths if path.suffix in suffixes and (ROOT / path).is_file()]


def product() -> dict[Path, ast.Module]:
    """Return the product's modules, parsed."""
    files = [path for path in tracked(".py") if path.parts[0] in PACKAGES]
    return {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in files}


def top_level_names(tree: ast.Module | None) -> set[str]:
    """Return the names that a module defines or imports."""
    found: set[str] = set()
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        else:
            found |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return found


def test_imports_go_in_one_direction():
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("module", ["schemas.config", "schemas.tables", "jobs.cli"])
def test_light_modules_import_neither_torch_nor_ray(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'ray') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["schemas", "ovseg_core", "pipeline"])
def test_public_names_are_sorted_there_and_cheap_to_import(package):
    module = import_module(package)
    assert module.__all__ == sorted(module.__all__) == dir(module)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no public name 'nothing'; there are"):
        _ = module.nothing
    code = (
        f"import sys, {package}; print([m for m in ('torch', 'ray', 'numpy') if m in sys.modules])"
    )
    started = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert started.stdout.strip() == "[]"


def test_only_the_console_prints():
    """What it prints has no secrets, and no character of a name that a terminal obeys."""
    streams = {"sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write"}
    prints = [
        str(path)
        for path, tree in product().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", *streams}
    ]
    assert set(prints) == {"jobs/console.py"}


def test_sentences_on_security_name_tests_that_exist():
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    cited = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(cited) > 40
    missing = [
        f"{file}::{name}"
        for file, name in cited
        if f"def {name}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert not missing


def test_only_storage_imports_fsspec():
    importers = [
        str(path)
        for path, tree in product().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Import) and any(n.name.startswith("fsspec") for n in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fsspec"))
    ]
    assert importers
    assert all(path.startswith("pipeline/storage/") for path in importers), importers


def test_rooms_hold_at_most_twelve_entries():
    entries: dict[Path, set[str]] = defaultdict(set)
    for path in product():
        for depth in range(1, len(path.parts)):
            if path.parts[depth] != "__init__.py":
                entries[Path(*path.parts[:depth])].add(path.parts[depth])
    crowded = {
        str(room): sorted(names)
        for room, names in entries.items()
        if len(names) > MAX_ENTRIES and room.name not in PLUGIN_FOLDERS
    }
    assert entries
    assert not crowded, "a reader holds about twelve in mind: make a room of those that belong"


def test_public_names_are_defined_once():
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in product().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path))
    twice = {
        name: paths for name, paths in places.items() if len(paths) > 1 and name not in PLUGIN_NAMES
    }
    assert places
    assert not twice, "one word for one thing: rename or share"


def test_no_module_imports_a_private_name_of_another():
    private = [
        f"{path}:{node.lineno} {alias.name}"
        for path, tree in product().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES
        for alias in node.names
        if alias.name.startswith("_") or "._" in (node.module or "")
    ]
    assert not private


def test_names_that_benchmarks_and_training_import_exist():
    modules = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): tree
        for path, tree in product().items()
    }
    imported = [
        (f"{path}:{node.lineno}", node.module or "", alias.name)
        for path in tracked(".py")
        if path.parts[0] in ("benchmarks", "training")
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES
        for alias in node.names
    ]
    missing = [
        f"{place} {module}.{name}"
        for place, module, name in imported
        if f"{module}.{name}" not in modules and name not in top_level_names(modules.get(module))
    ]
    assert imported
    assert not missing


def test_cited_documents_exist():
    documents = {path.name for path in tracked(".md")}
    files = tracked(".py", ".md", ".js", ".html", ".toml", ".yaml")
    missing = []
    for path in files:
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.suffix == ".md":
            links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
            missing += [f"{path}: {to}" for to in links if not (ROOT / path.parent / to).exists()]
        if path.parts[0] != "tests" or "golden" in path.parts:
            cited = re.findall(r"(?<![\w*/{}])((?:docs/)?[\w-]+\.md)\b", text)
            missing += [
                f"{path}: {name}"
                for name in cited
                if (not (ROOT / name).is_file() if "/" in name else name not in documents)
            ]
    assert documents
    assert not missing


def test_cited_sections_of_the_methods_page_exist():
    headings = set(
        re.findall(
            r"^#+ (\d+b?(?:\.\d+)?)\.? ", (ROOT / "docs/methods.md").read_text("utf-8"), re.M
        )
    )
    cited = {
        (str(path), number)
        for path in tracked(".py")
        for number in re.findall(
            r"methods\.md,? (?:section )?(\d+b?(?:\.\d+)?)", (ROOT / path).read_text("utf-8")
        )
    }
    assert cited
    assert not {(path, number) for path, number in cited if number not in headings}


def test_tests_lie_where_the_path_of_their_module_says():
    strays = []
    for path in tracked(".py"):
        if path.parts[:2] != ("tests", "unit") or not path.name.startswith("test_"):
            continue
        module = Path(*path.parts[2:-1], path.name.removeprefix("test_"))
        if path.name != "test_house.py" and not (
            (ROOT / module).is_file() or (ROOT / module.with_suffix("")).is_dir()
        ):
            strays.append(f"{path}: there is no {module}")
    assert not strays


def test_tests_touch_no_private_member():
    private = []
    for path in tracked(".py"):
        if path.parts[0] != "tests" or path == Path(__file__).relative_to(ROOT):
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and re.match(r"_[a-z]", node.attr)
                and node.attr not in OTHERS_PRIVATE_NAMES
                and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            ):
                private.append(f"{path}:{node.lineno} {node.attr}")
    assert not private


def test_score_columns_are_listed_once():
    others = re.compile(
        rf"\b({'|'.join(name for name in SCORE_COLUMNS if name not in SHARED_COLUMNS)})\b"
    )
    written = {
        str(path)
        for path in tracked(".py", ".js", ".html")
        if path.parts[0] in PACKAGES and others.search((ROOT / path).read_text(encoding="utf-8"))
    }
    assert written <= {
        "schemas/records.py",
        "schemas/score_columns.py",
        "ovseg_core/decision/segment_scores.py",
        "ovseg_core/decision/review_priority.py",
        "pipeline/run/tables/old_versions.py",
    }, "read schemas.score_columns in place of a list of column names"
