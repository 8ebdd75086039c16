"""Where the Python source of the interpreter and of its installed packages lies."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from o1_bench.datasets.functions import Function, functions_in

# Many Linux distributions ship these apart or not at all, so a collection with them would differ
# between two interpreters of one version; the last three hold no functions anyone asks for.
LEFT_OUT = frozenset(
    {"distutils", "ensurepip", "idlelib", "lib2to3", "msilib", "tkinter", "turtle", "turtledemo"}
    | {"antigravity", "pydoc_data", "this"}
)
_NOT_ENTERED = frozenset({"__pycache__", "_vendor", "test", "testing", "tests", "vendored"})

# Packages whose functions teach most for their number come first; all others follow by name.
# torch and transformers are last of the list: they repeat themselves and take half a minute.
PREFERRED = (
    *("packaging", "more_itertools", "filelock", "fsspec", "requests", "urllib3", "jinja2", "rich"),
    *("numpy", "networkx", "huggingface_hub", "matplotlib", "joblib", "sklearn", "scipy"),
    *("accelerate", "peft", "torch", "transformers", "sympy"),
)
# installers carry copies of others; our own packages must not depend on how they are installed
_NEVER = frozenset({"pip", "pkg_resources", "setuptools", "wheel"})


def stdlib_functions(skipped: list[Path]) -> Iterator[Function]:
    """Yield the documented functions of the running interpreter's standard library, by module.

    Files that cannot be read or parsed are added to `skipped`.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - LEFT_OUT):
        yield from package_functions(folder, name, skipped)


def package_functions(folder: Path, name: str, skipped: list[Path]) -> Iterator[Function]:
    """Yield the documented functions of one package or module in `folder`, by file name.

    Files that cannot be read or parsed are added to `skipped`.
    """
    for path in _source_files(folder, name):
        try:
            yield from functions_in(path, _module(path.relative_to(folder)))
        except (SyntaxError, ValueError, RecursionError, OSError):
            skipped.append(path)


def default_sites() -> list[Path]:
    """The folders that the running interpreter installs packages into."""
    names = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    return [Path(name) for name in names if Path(name).is_dir()]


def installed_packages(sites: Iterable[Path]) -> list[tuple[Path, str]]:
    """(folder, import name) of what is installed: the preferred ones first, then by name."""
    order = {name: number for number, name in enumerate(PREFERRED)}
    found: dict[str, Path] = {}
    for site in sites:
        for entry in site.iterdir():
            name = entry.name.removesuffix(".py")
            if _is_training_source(entry, name):
                found.setdefault(name, site)
    names = sorted(found, key=lambda name: (order.get(name, len(order)), name))
    return [(found[name], name) for name in names]


def installed_versions(sites: Sequence[Path]) -> list[str]:
    """`name==version` of every distribution in `sites`, sorted."""
    found = importlib.metadata.distributions(path=[str(site) for site in sites])
    return sorted({f"{one.name}=={one.version}" for one in found})


def _is_training_source(entry: Path, name: str) -> bool:
    if not name.isidentifier() or name in _NEVER | _NOT_ENTERED | sys.stdlib_module_names:
        return False
    return not name.startswith(("o1_", "__")) and (entry.suffix == ".py" or entry.is_dir())


def _source_files(folder: Path, name: str) -> Iterator[Path]:
    """The .py files of a package without its tests, in one order on every file system."""
    module = folder / f"{name}.py"
    if module.is_file():
        yield module
    for root, folders, files in os.walk(folder / name):
        folders[:] = sorted(set(folders) - _NOT_ENTERED)
        for file in sorted(files):
            if file.endswith(".py") and not file.startswith(("test_", "conftest")):
                yield Path(root, file)


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
