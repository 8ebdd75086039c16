"""The list of modules in docs/structure.md, made from the first lines of their docstrings.

```
python tools/structure.py            # print what would be written
python tools/structure.py --write    # write it into docs/structure.md
```
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "structure.md"
PACKAGES = ("records", "synth", "vote", "model", "index", "bench")
_BEGIN, _END = "<!-- modules: made by tools/structure.py -->\n", "<!-- end of modules -->\n"


def modules() -> str:
    """Return a table for each package: every module with the first line of its docstring."""
    return "\n".join(_table(package) for package in PACKAGES)


def page() -> str:
    """Return docs/structure.md with the list of modules as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{modules()}\n{_END}{after}"


def _table(package: str) -> str:
    source = ROOT / "packages" / package / "src" / f"o1_{package}"
    paths = [path for path in source.rglob("*.py") if path.name != "__init__.py"]
    order = sorted(paths, key=lambda path: (path.parent != source, path.relative_to(source).as_posix()))
    rows = [f"| `{path.relative_to(source).as_posix()}` | {_purpose(path)} |" for path in order]
    return "\n".join([f"### o1_{package}", "", "| module | what it is |", "|---|---|", *rows, ""])


def _purpose(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(modules())
