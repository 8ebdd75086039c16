"""What mkdocs does before it reads a page: package READMEs come in, patterns of the navigation become pages.

`@include packages/vote/README.md`, alone on a line, stands for that file. Its links into `docs/` are made
relative to the page, and directives of doctest, which tell readers nothing, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
INCLUDE = re.compile(r"^@include (\S+)$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Put pages in the place of patterns of the navigation: those that nothing else in it names."""
    named = set(_named(config.nav))
    config.nav = _listed(config.nav, named)
    return config


def _named(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from _named(each)


def _listed(nav: Any, named: Collection[str]) -> Any:
    if isinstance(nav, dict):
        return {title: _listed(inside, named) for title, inside in nav.items()}
    if isinstance(nav, str):
        return nav
    listed: list[Any] = []
    for each in nav:
        if isinstance(each, str) and "*" in each:
            found = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob(each))
            listed += [page for page in found if page not in named]
        else:
            listed.append(_listed(each, named))
    return listed


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put included files into a page."""
    return INCLUDE.sub(lambda found: _included(ROOT / found[1]), markdown)


def _included(path: Path) -> str:
    text = re.sub(r"[ \t]*# doctest: \+SKIP$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = re.sub(r"^\.\.\.$\n", "", text, flags=re.MULTILINE)  # where a directive stood alone
    return text.replace("](../../docs/", "](../")
