"""Documented functions of Python source, read without running it.

A function is its source without docstrings (the document), the first sentence of its docstring
(the query) and the rest of it (a thought about the query, written by a human).
"""

from __future__ import annotations

import ast
import contextlib
import gc
import re
import textwrap
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# a full stop, unless it ends one of these, or a blank line
_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bcf)(?<!\bvs)[.!?](?=\s|$)|\n\s*\n")
_WORD = re.compile(r"\w+")
_LETTERS = re.compile(r"[^\W\d_]{2,}")
# signatures ("zip(*iterables) --> ..."), grammar, doctests and lists are not what a person asks
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
        source: The lines of the function without its docstring and those inside it, dedented.
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
        """What follows the first sentence, with its lines; empty when that is under ten words."""
        return self._parts[1]

    @cached_property
    def normalised(self) -> str:
        """The words of the first sentence in lower case: what makes two queries equal."""
        return normalised(self.sentence)

    @cached_property
    def can_be_query(self) -> bool:
        """Whether the first sentence can stand as a query: 3 to 40 words of prose."""
        words = len(_LETTERS.findall(self.sentence))
        return words in _SENTENCE_WORDS and not _NOT_PROSE.search(self.sentence)

    @cached_property
    def _parts(self) -> tuple[str, str]:
        end = _END.search(self.docstring)
        cut = end.end() if end else len(self.docstring)
        rest = self.docstring[cut:].strip()
        enough = len(_LETTERS.findall(rest)) >= _REST_WORDS
        return " ".join(self.docstring[:cut].split()), rest if enough else ""


def normalised(text: str) -> str:
    """The words of a text in lower case, without punctuation."""
    return " ".join(_WORD.findall(text.lower()))


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Leave what a syntax tree is made of to reference counts: it has no cycles to look for."""
    was_running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_running:
            gc.enable()


@_collector_paused()  # which takes a quarter of the time of a build
def functions_in(path: Path, module: str) -> list[Function]:
    """The documented functions and methods of a source file, in file order.

    Functions inside functions belong to the one around them. Stubs, which do nothing beside
    their docstring but `pass`, `...` or `raise`, are left out. Nothing is imported or run.

    Raises SyntaxError, ValueError (which UnicodeDecodeError is) or RecursionError for a file
    that this interpreter cannot parse, OSError for one that it cannot read.
    """
    with tokenize.open(path) as file:
        source = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        tree = ast.parse(source)
    # ast counts columns in bytes and knows no line end but "\n" here, to which all others were turned
    # on reading (splitlines of a str knows ten)
    lines = source.encode().splitlines(keepends=True)
    seen: dict[str, int] = {}
    functions = []
    for qualified, node in _definitions(tree.body, module):
        docstring = ast.get_docstring(node)
        if not docstring or not _is_text(docstring) or _is_stub(node):
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
    """The statements, handlers and cases directly inside one; expressions hold no definitions."""
    for block in ("body", "handlers", "cases", "orelse", "finalbody"):
        yield from getattr(node, block, ())


def _source(node: _Definition, lines: list[bytes]) -> str:
    """The lines of a definition with its decorators, docstrings cut out by their columns."""
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
    """The docstring of a function and of all that is defined inside it, last first."""
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


def _is_text(docstring: str) -> bool:
    # "\ud800" is a legal literal and no text
    try:
        docstring.encode()
    except UnicodeEncodeError:
        return False
    return True
