"""The shape of the house: no import circles, one kind of lock and of SQLite file, a folder for each stage.

`test_star.py` looks at imports between packages. One package: `pytest -k model`.
"""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"

STAGES = {
    "records": {
        "kit": "what the siblings share: programs, jobs on disk, texts, models",
        "commands": "one file each",
    },
    "synth": {
        "chat": "asking an expert over HTTP",
        "job": "asking many queries: order, journal, watching",
        "remix": "training data made of documents alone",
        "commands": "one file each",
    },
    "vote": {
        "members": "the retrievers of a committee",
        "election": "nominating, electing, showing the result",
        "curation": "negatives, duplicates, contamination, calibration",
        "commands": "one file each",
    },
    "model": {
        "encoding": "tokens to vectors",
        "thinking": "decoding thoughts and using them",
        "retriever": "any embedding model with thoughts, calibrated",
        "integrations": "models as other frameworks take them",
        "checkpoint": "a model on disk",
        "training": "data, losses, steps, saving",
        "serving": "requests to answers",
        "commands": "one file each",
    },
    "index": {
        "store": "an index on disk",
        "databases": "vector databases, one file each",
        "commands": "one file each",
    },
    "bench": {
        "datasets": "one loader each",
        "running": "a system answers queries",
        "results": "a result on disk, and whether it is true",
        "reporting": "rows, pictures, pages",
        "commands": "one file each",
    },
}


def files_of(package):
    """Path of each file of a package, by the name of its module."""
    source = PACKAGES / package / "src"
    found = {}
    for path in sorted((source / f"o1_{package}").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module, path, modules):
    """Yield (imported module, line) for all of `modules` that a file imports, anywhere in it."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import module` imports the module, `from module import name` the module it is in
            names = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names
            ]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            names = [node.args[0].value] if called in ("import_module", "__import__") else []
        yield from ((name, node.lineno) for name in names if name in modules)


def circles(arrows):
    """Return the groups of nodes that reach each other, of a graph {node: nodes it points to}."""

    def reached(start):
        seen, pending = set(), [start]
        while pending:
            for node in arrows.get(pending.pop(), ()):
                if node not in seen:
                    seen.add(node)
                    pending.append(node)
        return seen

    reach = {node: reached(node) for node in arrows}
    groups = {frozenset(other for other in reach[node] if node in reach.get(other, ())) for node in arrows}
    return sorted(sorted(group) for group in groups if group)


def arrows_of(package):
    modules = files_of(package)
    return {
        module: {name: line for name, line in imports(module, path, modules) if name != module}
        for module, path in modules.items()
    }


@pytest.mark.parametrize("package", STAGES)
def test_no_file_of_a_package_imports_itself_through_others(package):
    """At the top, inside functions or under TYPE_CHECKING alike."""
    arrows = arrows_of(package)
    told = [
        f"{module}:{line} imports {name}"
        for group in circles(arrows)
        for module in group
        for name, line in arrows[module].items()
        if name in group
    ]
    assert told == []


@pytest.mark.parametrize("package", STAGES)
def test_no_stage_of_a_package_imports_itself_through_others(package):
    """A stage is a folder, or a file that is in none."""
    files = arrows_of(package)

    def stage(module):
        return ".".join(module.split(".")[:2])

    arrows = {}
    for module, names in files.items():
        arrows.setdefault(stage(module), set()).update(
            stage(name) for name in names if stage(name) != stage(module)
        )
    told = [
        f"{module}:{line} imports {name}"
        for group in circles(arrows)
        for module, names in files.items()
        for name, line in names.items()
        if stage(module) in group and stage(name) in group and stage(module) != stage(name)
    ]
    assert told == []


@pytest.mark.parametrize("package", STAGES)
def test_locks_and_sqlite_files_are_those_of_the_kit(package):
    told = []
    for module, path in files_of(package).items():
        if module.startswith("o1_records.kit"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name in ("fcntl", "filelock")]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module] if node.module in ("fcntl", "filelock") else []
                names += [
                    "sqlite3.connect"
                    for alias in node.names
                    if (node.module, alias.name) == ("sqlite3", "connect")
                ]
            elif isinstance(node, ast.Attribute):
                names = ["sqlite3.connect"] if ast.unparse(node) == "sqlite3.connect" else []
            else:
                continue
            told += [f"{module}:{node.lineno} uses {name}" for name in names]
    assert told == []


@pytest.mark.parametrize("package", STAGES)
def test_a_package_has_a_folder_for_each_stage_and_no_other(package):
    source = PACKAGES / package / "src" / f"o1_{package}"
    folders = {path.parent.relative_to(source).as_posix() for path in source.glob("*/*.py")}
    assert folders == set(STAGES[package])


def test_circles_of_every_kind_are_seen(tmp_path):
    (tmp_path / "p").mkdir()
    sources = {
        "p": "from p.a import x\n",
        "p.a": "def f():\n    from p import b\n",
        "p.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .c import y\n",
        "p.c": "import importlib\nimportlib.import_module('p.a')\n",
        "p.d": "from p import a, c\n",
    }
    paths = {name: tmp_path / f"{name.replace('.', '/')}{'/__init__' * (name == 'p')}.py" for name in sources}
    for name, path in paths.items():
        path.write_text(sources[name])
    arrows = {name: dict(imports(name, path, paths)) for name, path in paths.items()}
    assert arrows == {
        "p": {"p.a": 1},
        "p.a": {"p.b": 2},
        "p.b": {"p.c": 3},
        "p.c": {"p.a": 2},
        "p.d": {"p.a": 1, "p.c": 1},
    }
    assert circles(arrows) == [["p.a", "p.b", "p.c"]]


def test_every_package_is_looked_at():
    assert {path.parent.name for path in PACKAGES.glob("*/pyproject.toml")} == set(STAGES)


def test_the_page_about_the_structure_lists_every_module_as_it_is():
    """Mended by `python tools/structure.py --write`."""
    spec = importlib.util.spec_from_file_location("structure", PACKAGES.parent / "tools" / "structure.py")
    structure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(structure)
    assert structure.page() == structure.PAGE.read_text(encoding="utf-8")


def test_files_that_the_lives_name_exist():
    text = (PACKAGES.parent / "docs" / "structure.md").read_text(encoding="utf-8").partition("## Every")[0]
    known = {path.name for paths in (files_of(package) for package in STAGES) for path in paths.values()}
    named = set(re.findall(r"`[\w/]*?(\w+\.py)`", text))
    assert len(named) > 30
    assert named <= known
