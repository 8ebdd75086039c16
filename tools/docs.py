"""What mkdocs does before it reads a page: package READMEs come in, folders go into the navigation.

`@include packages/vote/README.md`, alone on a line, stands for that file. Its links into `docs/` are made
relative to the page, and directives of doctest, which tell readers nothing, are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = re.compile(r"^@include (\S+)$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Put all pages of a folder where the navigation names the folder: a new one needs no line there."""
    config.nav = [_listed(entry) for entry in config.nav]
    return config


def _listed(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    [(title, inside)] = entry.items()
    if isinstance(inside, list):
        return {title: [_listed(each) for each in inside]}
    if not inside.endswith("/"):
        return entry
    return {title: sorted(f"{inside}{path.name}" for path in (ROOT / "docs" / inside).glob("*.md"))}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put included files into a page."""
    return INCLUDE.sub(lambda found: _included(ROOT / found[1]), markdown)


def _included(path: Path) -> str:
    text = re.sub(r"[ \t]*# doctest: \+SKIP$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = re.sub(r"^\.\.\.$\n", "", text, flags=re.MULTILINE)  # where a directive stood alone
    return text.replace("](../../docs/", "](../")
