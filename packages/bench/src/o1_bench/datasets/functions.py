"""Documented functions of the running interpreter and its packages, read from source that is never run.

A function is its source without docstrings (the document), the first sentence of its docstring
(the query) and the rest of it (a thought about the query, written by a human).
"""

from __future__ import annotations

import ast
import contextlib
import gc
import os
import re
import sys
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from o1_records.kit.text import words

# Many Linux distributions package these separately or not at all, so a collection with them would differ
# between two interpreters of the same version; the last three hold no functions that anyone asks for.
LEFT_OUT = frozenset(
    {"distutils", "ensurepip", "idlelib", "lib2to3", "msilib", "tkinter", "turtle", "turtledemo"}
    | {"antigravity", "pydoc_data", "this"}
)
_NOT_ENTERED = frozenset({"__pycache__", "_vendor", "test", "testing", "tests", "vendored"})

# Packages whose functions teach most for their number come first; all others follow by name.
# torch and transformers are near the end: they repeat themselves and take half a minute.
PREFERRED = (
    *("packaging", "more_itertools", "filelock", "fsspec", "requests", "urllib3", "jinja2", "rich"),
    *("numpy", "networkx", "huggingface_hub", "matplotlib", "joblib", "sklearn", "scipy"),
    *("accelerate", "peft", "torch", "transformers", "sympy"),
)
# installers contain copies of other packages
_NEVER = frozenset({"pip", "pkg_resources", "setuptools", "wheel"})

# a full stop that does not end one of these abbreviations, or a blank line
_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bcf)(?<!\bvs)[.!?](?=\s|$)|\n\s*\n")
_LETTERS = re.compile(r"[^\W\d_]{2,}")
# signatures ("zip(*iterables) --> ..."), grammar, doctests and lists are not questions of a person
_NOT_PROSE = re.compile(r"^[\w.]+\(|->|>>>|==|\s:?=\s|^[-:@+\[(<>]")
_SENTENCE_WORDS = range(3, 41)
_REST_WORDS = 10

_Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """One documented function or method.

    Attributes:
        name: Dotted, with its module: `zipfile.ZipFile.open`. A second definition of the same
            name in a module (the setter of a property, another platform) ends in `#2`.
        source: The lines of the function without docstrings, its own and those inside it, dedented.
        docstring: Cleaned as `inspect.cleandoc` does.
    """

    name: str
    source: str
    docstring: str

    @property
    def sentence(self) -> str:
        """The first sentence of the docstring on one line."""
        return self._parts[0]

    @property
    def rest(self) -> str:
        """The text after the first sentence, with its line breaks; empty if it has fewer than ten words."""
        return self._parts[1]

    @cached_property
    def normalised(self) -> str:
        """The words of the first sentence without case; queries with equal ones are equal."""
        return normalised(self.sentence)

    @cached_property
    def can_be_query(self) -> bool:
        """Whether the first sentence can be a query: 3 to 40 words of prose."""
        count = len(_LETTERS.findall(self.sentence))
        return count in _SENTENCE_WORDS and not _NOT_PROSE.search(self.sentence)

    @cached_property
    def _parts(self) -> tuple[str, str]:
        end = _END.search(self.docstring)
        cut = end.end() if end else len(self.docstring)
        rest = self.docstring[cut:].strip()
        enough = len(_LETTERS.findall(rest)) >= _REST_WORDS
        return " ".join(self.docstring[:cut].split()), rest if enough else ""


def normalised(text: str) -> str:
    """Return the words of a text without case and punctuation."""
    return " ".join(words(text))


def stdlib_functions(skipped: list[Path]) -> Iterator[Function]:
    """Yield the documented functions of the running interpreter's standard library, by module.

    Appends files that cannot be read or parsed to `skipped`.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - LEFT_OUT):
        yield from package_functions(folder, name, skipped)


def package_functions(folder: Path, name: str, skipped: list[Path]) -> Iterator[Function]:
    """Yield the documented functions of one package or module in `folder`, by file name.

    Appends files that cannot be read or parsed to `skipped`.
    """
    for path in _source_files(folder, name):
        parts = path.relative_to(folder).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        try:
            yield from functions_in(path, module)
        except (SyntaxError, ValueError, RecursionError, OSError):
            skipped.append(path)


def default_sites() -> list[Path]:
    """Return the folders that the running interpreter installs packages into."""
    names = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    return [Path(name) for name in names if Path(name).is_dir()]


def installed_packages(sites: Iterable[Path]) -> list[tuple[Path, str]]:
    """Return (folder, import name) of the installed packages: the preferred ones first, then by name."""
    order = {name: number for number, name in enumerate(PREFERRED)}
    found: dict[str, Path] = {}
    for site in sites:
        for entry in site.iterdir():
            name = entry.name.removesuffix(".py")
            if not name.isidentifier() or name in _NEVER | _NOT_ENTERED | sys.stdlib_module_names:
                continue
            # not our own packages: the collection must not depend on how they are installed
            if not name.startswith(("o1_", "__")) and (entry.suffix == ".py" or entry.is_dir()):
                found.setdefault(name, site)
    names = sorted(found, key=lambda name: (order.get(name, len(order)), name))
    return [(found[name], name) for name in names]


def installed_versions(sites: Sequence[Path]) -> list[str]:
    """Return `name==version` of every distribution in `sites`, sorted."""
    import importlib.metadata  # 40 ms that `import o1_bench` does not need

    found = importlib.metadata.distributions(path=[str(site) for site in sites])
    return sorted({f"{one.name}=={one.version}" for one in found})


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector: a syntax tree has no cycles to look for."""
    was_running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_running:
            gc.enable()


@_collector_paused()  # it would take a quarter of the time of a build
def functions_in(path: Path, module: str) -> list[Function]:
    """Return the documented functions and methods of a source file, in file order.

    Functions inside functions belong to the outer one. Stubs, whose body beside the docstring is only
    `pass`, `...` or `raise`, are left out. Nothing is imported or run.

    Raises SyntaxError, ValueError (UnicodeDecodeError is one) or RecursionError for a file
    that this interpreter cannot parse, OSError for one that it cannot read.
    """
    with tokenize.open(path) as file:
        source = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escapes in other people's code
        tree = ast.parse(source)
    # ast counts columns in bytes, and its lines end at "\n" only, which reading has made of all line ends
    # (str.splitlines knows ten)
    lines = source.encode().splitlines(keepends=True)
    seen: dict[str, int] = {}
    functions = []
    for qualified, node in _definitions(tree.body, module):
        docstring = ast.get_docstring(node)
        if not docstring or _is_stub(node):
            continue
        try:
            docstring.encode()
        except UnicodeEncodeError:  # "\ud800" is a legal literal and not valid text
            continue
        seen[qualified] = number = seen.get(qualified, 0) + 1
        name = qualified if number == 1 else f"{qualified}#{number}"
        functions.append(Function(name, _source(node, lines), docstring))
    return functions


def _definitions(body: Iterable[ast.AST], prefix: str) -> Iterator[tuple[str, _Definition]]:
    for node in body:
        if isinstance(node, _Definition):
            yield f"{prefix}.{node.name}", node
        elif isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{prefix}.{node.name}")
        else:
            yield from _definitions(_inside(node), prefix)


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements, handlers and cases directly inside one; expressions contain no definitions."""
    for block in ("body", "handlers", "cases", "orelse", "finalbody"):
        yield from getattr(node, block, ())


def _source(node: _Definition, lines: list[bytes]) -> str:
    """Return the lines of a definition and its decorators, with docstrings cut out by their columns."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    kept = lines[first : node.end_lineno]
    for docstring in _docstrings(node):
        start, stop = docstring.lineno - 1 - first, (docstring.end_lineno or 0) - 1 - first
        after = kept[stop][docstring.end_col_offset :]
        kept[start] = kept[start][: docstring.col_offset] + after
        if not kept[start].strip(b" \t\f\n;"):
            kept[start] = b""
        kept[start + 1 : stop + 1] = [b""] * (stop - start)
    return textwrap.dedent(b"".join(kept).decode()).strip("\n")


def _docstrings(node: _Definition) -> list[ast.Expr]:
    """Return the docstrings of a function and of everything defined inside it, last first."""
    found = []
    todo: list[ast.AST] = [node]
    while todo:
        one = todo.pop()
        todo.extend(_inside(one))
        if isinstance(one, _Definition | ast.ClassDef) and ast.get_docstring(one, False) is not None:
            found.append(one.body[0])
    statements = [statement for statement in found if isinstance(statement, ast.Expr)]
    return sorted(statements, key=lambda one: (one.lineno, one.col_offset), reverse=True)


def _is_stub(node: _Definition) -> bool:
    return all(
        isinstance(one, ast.Pass | ast.Raise)
        or (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
        for one in node.body
    )


def _source_files(folder: Path, name: str) -> Iterator[Path]:
    """Yield the .py files of a package without its tests, in the same order on every file system."""
    module = folder / f"{name}.py"
    if module.is_file():
        yield module
    for root, folders, files in os.walk(folder / name):
        folders[:] = sorted(set(folders) - _NOT_ENTERED)
        for file in sorted(files):
            if file.endswith(".py") and not file.startswith(("test_", "conftest")):
                yield Path(root, file)
