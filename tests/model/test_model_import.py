"""What is imported when: names at the top are there, and nothing heavy comes before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import o1_model
from o1_model.commands.verify import RUNTIMES
from o1_model.verify import RUNTIMES as KNOWN

PACKAGE = Path(o1_model.__file__).parent
HEAVY = ("torch", "transformers", "numpy", "peft", "safetensors", "sqlite3")


@pytest.mark.parametrize(
    "code",
    [
        "import o1_model; o1_model.__version__",
        "from o1_model import Thinking; Thinking(samples=2)",
        "import o1_model.__main__ as command; command.main.parser().format_help()",
        "from o1_model.bench import open_model; assert open_model('/nowhere') is None",
    ],
)
def test_what_needs_no_model_imports_nothing_heavy(code):
    code += f"\nimport sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_no_other():
    assert sorted(o1_model.__all__) == ["Embedder", "Layout", "Thinking", "aggregate", "embed", "think"]
    for name in o1_model.__all__:
        assert getattr(o1_model, name).__name__ == name
    assert set(o1_model.__all__) <= set(dir(o1_model))
    with pytest.raises(AttributeError, match="module 'o1_model' has no attribute 'encode'"):
        o1_model.encode  # noqa: B018


def test_the_command_knows_every_runtime():
    assert sorted(RUNTIMES) == sorted(KNOWN)


def imports():
    """Which module of the package imports which other, wherever the import stands."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = path
    for name, path in names.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            yield from ((name, other) for other in found if other in names and other != name)


def circle(arrows):
    """The names on a circle of arrows; empty where there is none."""
    left = set(arrows)
    while left:
        free = {a for a, _ in left} - {b for _, b in left}
        if not free:
            return sorted({a for a, _ in left} & {b for _, b in left})
        left = {(a, b) for a, b in left if a not in free}
    return []


def test_no_module_and_no_folder_is_on_a_circle_of_imports():
    arrows = list(imports())
    assert len(arrows) > 100
    assert circle(arrows) == []

    def room(name):
        return ".".join(name.split(".")[:2])

    # a folder is one stage: what it imports never leads back to it; the package's face names what is inside
    stages = {(room(a), room(b)) for a, b in arrows if "o1_model" not in (a, b)}
    assert circle((a, b) for a, b in stages if a != b) == []
