"""Packages meet through files: each imports the records and no other sibling."""

import ast
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
NAMES = sorted(path.name for path in PACKAGES.iterdir() if (path / "pyproject.toml").exists())


def _siblings(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        yield from (name.partition(".")[0] for name in modules if name.startswith("o1_"))


def test_all_six_packages_are_looked_at():
    assert NAMES == ["bench", "index", "model", "records", "synth", "vote"]


@pytest.mark.parametrize("name", NAMES)
def test_a_package_imports_the_records_and_no_other_sibling(name):
    files = sorted((PACKAGES / name / "src").rglob("*.py"))
    imported = {sibling for path in files for sibling in _siblings(path)}
    assert imported <= {"o1_records", f"o1_{name}"}
