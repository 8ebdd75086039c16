"""What kind of documents and queries a job is about: one table of a TOML file.

```toml
[biology]
topic = "Biology"
task = "a question that a curious reader could post on a forum about biology"
instruction = "Given a Biology post, retrieve relevant passages that help answer the post."
query_type = "biology post"
document_type = "passage"
relevance = "The document explains a concept or a theory that an expert would use to answer the post."
group_size = 16
```
`domains.toml` beside this file has the twelve domains of BRIGHT (arXiv 2407.12883).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from o1_records import InputError, quoted

Text = Annotated[str, msgspec.Meta(pattern=r"\S")]
_OF_BRIGHT = Path(__file__).parent / "domains.toml"


class Domain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A domain.

    Args:
        name: becomes the dataset of its examples.
        topic: what `clean` asks about (default: the name).
        task: describes its queries to the writer.
        instruction: describes them to the retriever.
        query_type: what the annotator calls a query.
        document_type: what it calls a document.
        relevance: when a document is relevant to a query, in a sentence for the annotator.
        group_size: how many documents of an example training takes, where datasets differ in that.
        batch_size: how many examples a batch of this dataset has on each device, where datasets differ.
    """

    name: str = ""
    topic: str = ""
    task: Text = "a question whose answer takes more than one step of reasoning"
    instruction: str = "Given a query, retrieve passages that help to answer it."
    query_type: Text = "query"
    document_type: Text = "document"
    relevance: Text = (
        "The document is relevant if somebody who knows the subject would use it to answer the query."
    )
    group_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    batch_size: Annotated[int, msgspec.Meta(ge=1)] | None = None


def read_domain(path: str | Path | None, name: str) -> Domain:
    """Return the domain of that name: of a file, or (None) one of BRIGHT's.

    Raises InputError where the file has no such table, or a wrong one.
    """
    path = _OF_BRIGHT if path is None else path
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
