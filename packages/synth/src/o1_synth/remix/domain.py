"""What kind of documents and queries a job is about: one table of a TOML file.

```toml
[biology]
topic = "biology"
task = "a question that a curious reader could post on a forum about biology"
instruction = "Given a post about biology, retrieve passages that help to answer it."
group_size = 16
```
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from o1_records import InputError, quoted

Text = Annotated[str, msgspec.Meta(pattern=r"\S")]


class Domain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A domain. `task` describes its queries to the writer, `instruction` describes them to the retriever.

    `topic` is what `clean` asks about (default: the name). `group_size` is how many documents of an example
    training takes, where datasets differ in that.
    """

    name: str = ""
    topic: str = ""
    task: Text = "a question whose answer takes more than one step of reasoning"
    instruction: str = "Given a query, retrieve passages that help to answer it."
    group_size: Annotated[int, msgspec.Meta(ge=1)] | None = None


def read_domain(path: str | Path, name: str) -> Domain:
    """Return the domain of that name. Raises InputError where the file has no such table, or a wrong one."""
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    if not isinstance(tables.get(name), dict):
        named = ", ".join(quoted(key) for key, table in tables.items() if isinstance(table, dict))
        raise InputError(f"{path}: no table [{name}]; it has {named or 'none'}")
    try:
        return msgspec.convert({"name": name, "topic": name, **tables[name]}, Domain)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: table [{name}]: {error}") from error
