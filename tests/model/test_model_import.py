"""What is imported when: names at the top are there, and nothing heavy comes before it is used."""

import subprocess
import sys

import pytest

import o1_model
from o1_model.commands.verify import RUNTIMES
from o1_model.verify import RUNTIMES as KNOWN

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
    functions = ["aggregate", "calibrate", "confirm", "embed", "think"]
    assert sorted(o1_model.__all__) == ["Embedder", "Layout", "Thinking", "ThinkingRetriever", *functions]
    for name in o1_model.__all__:
        assert getattr(o1_model, name).__name__ == name
    assert set(o1_model.__all__) <= set(dir(o1_model))
    with pytest.raises(AttributeError, match="module 'o1_model' has no attribute 'encode'"):
        o1_model.encode  # noqa: B018


def test_the_command_knows_every_runtime():
    assert sorted(RUNTIMES) == sorted(KNOWN)
