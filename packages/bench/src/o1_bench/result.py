"""A result that verifies itself: a folder with the run, the judgements and `result.json`.

```
folder/run.trec        the hits                    folder/excluded.jsonl   documents not counted
folder/qrels.trec      the judgements              folder/thoughts.jsonl   thoughts, where there are some
folder/result.json     everything else
```
`result.json` is written last, so a folder that has one is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from o1_bench.collection import Collection
from o1_bench.machine import Hardware, hardware, versions
from o1_bench.score import DEFAULT, Measure, by_query, means, provider, score
from o1_records import (
    Exclusion,
    Hit,
    InputError,
    Record,
    Thought,
    atomic_write,
    sha256_file,
    write_jsonl,
)
from o1_records.jsonl import encode
from o1_records.trec import write_qrels, write_run
from o1_records.types import Count, NonBlank

Kind = Literal["system", "control", "oracle"]

RUN, QRELS, EXCLUDED = FILES = ("run.trec", "qrels.trec", "excluded.jsonl")
THOUGHTS = "thoughts.jsonl"


class Milliseconds(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean time per query of each stage; None: not measured or not a stage of this run."""

    think: float | None = None
    embed: float | None = None
    search: float | None = None

    @property
    def total(self) -> float | None:
        """The sum of the stages that were measured; None when none was."""
        known = [value for value in (self.think, self.embed, self.search) if value is not None]
        return sum(known) if known else None


class System(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What made the hits.

    A `control` shows what a gain is not due to (empty, shuffled, filler thoughts); an `oracle`
    looks at the answer. `note` says so in words, as "oracle: uses the answer's own docstring".
    `encoder` is the model's fingerprint, whatever names it: path, digest, layout, pooling, length.
    `prompts` are what stands before queries and documents, `sampling` is how thoughts were drawn.
    `index_seconds` is what embedding the documents and building the index took, all of it.
    None: not known or not measured.
    """

    name: NonBlank
    kind: Kind = "system"
    note: str = ""
    encoder: dict[str, Any] = msgspec.field(default_factory=dict)
    prompts: dict[str, str] = msgspec.field(default_factory=dict)
    sampling: dict[str, Any] = msgspec.field(default_factory=dict)
    milliseconds: Milliseconds = Milliseconds()
    thought_tokens: Count = 0
    index_bytes: Count | None = None
    index_seconds: float | None = None
    peak_memory_bytes: Count | None = None
    device: str = ""


class Stamp(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which collection it was: equal digests mean equal texts, judgements and exclusions."""

    name: str
    revision: str
    queries: Count
    documents: Count
    digests: dict[str, str]
    instruction: str = ""


class Result(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was run on what, the metrics, and enough to check them.

    `k` is how many hits a query may have, `measures` who computed each, `thought_words` how many
    words were thought about each query, all its thoughts together.
    """

    version: int = 1
    system: System
    collection: Stamp
    metrics: dict[str, float]
    per_query: dict[str, dict[str, float]]
    files: dict[str, str]
    packages: dict[str, str]
    hardware: Hardware
    created: str
    k: Count = 0
    measures: dict[str, str] = msgspec.field(default_factory=dict)
    thought_words: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.system.name


def save_result(
    folder: str | Path,
    system: System,
    *,
    collection: Collection,
    hits: Iterable[Hit],
    measures: Sequence[Measure] = DEFAULT,
    k: int = 0,
    thoughts: Iterable[Thought] = (),
    thought_words: Mapping[str, int] | None = None,
) -> Result:
    """Score the hits and write the folder; an older result in it is replaced once they are scored.

    Args:
        folder: where the files go.
        system: what made the hits.
        collection: what they are scored against.
        hits: in any order, as `score` takes them.
        measures: the first one is the main one in reports.
        k: how many hits were asked for a query; 0: not known.
        thoughts: kept beside the run.
        thought_words: words thought about each query; counted from `thoughts` by default.

    Raises InputError as `score` does, and for ids that a TREC file cannot hold.
    """
    folder = Path(folder)
    hits, thoughts = list(hits), list(thoughts)
    metrics = score(collection.qrels, hits, measures=measures, excluded=collection.excluded)
    (folder / "result.json").unlink(missing_ok=True)
    _write_files(folder, collection, hits, thoughts)
    result = Result(
        system=system,
        collection=stamp(collection),
        metrics=means(metrics),
        per_query=by_query(metrics),
        files={name: sha256_file(folder / name) for name in (*FILES, *([THOUGHTS] if thoughts else []))},
        packages=versions(),
        hardware=hardware(),
        created=datetime.now(UTC).date().isoformat(),
        k=k,
        measures={str(measure): f"ir-measures, {provider(measure)}" for measure in measures},
        thought_words=dict(_words(thoughts) if thought_words is None else thought_words),
    )
    with atomic_write(folder / "result.json") as file:
        line = encode(result, f"{folder / 'result.json'}")
        file.write(msgspec.json.format(line, indent=1) + b"\n")
    return result


def load_result(path: str | Path) -> Result:
    """Read a result by its folder or its file. Raises InputError for a damaged one."""
    path = _file(path)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"{path}: not a whole result: {error}; make it again") from error


def stamp(collection: Collection) -> Stamp:
    """Name a collection by what it holds."""
    return Stamp(
        name=collection.name,
        revision=collection.revision,
        queries=len(collection.queries),
        documents=len(collection),
        digests=collection.digests,
        instruction=collection.instruction,
    )


def excluded_ids(exclusions: Iterable[Exclusion]) -> dict[str, set[str]]:
    """The documents that are never counted, by query, as `score` takes them."""
    ids: dict[str, set[str]] = {}
    for exclusion in exclusions:
        ids.setdefault(exclusion.query_id, set()).add(exclusion.doc_id)
    return ids


def exclusions(excluded: Mapping[str, Set[str]]) -> Iterator[Exclusion]:
    """The same as records, sorted."""
    for query_id, doc_ids in sorted(excluded.items()):
        for doc_id in sorted(doc_ids):
            yield Exclusion(query_id=query_id, doc_id=doc_id)


def _write_files(
    folder: Path, collection: Collection, hits: Iterable[Hit], thoughts: Sequence[Thought]
) -> None:
    write_run(folder / RUN, hits)
    write_qrels(folder / QRELS, collection.qrels)
    write_jsonl(folder / EXCLUDED, exclusions(collection.excluded))
    if thoughts:
        write_jsonl(folder / THOUGHTS, thoughts)
    else:
        (folder / THOUGHTS).unlink(missing_ok=True)


def _words(thoughts: Iterable[Thought]) -> dict[str, int]:
    words: dict[str, int] = {}
    for thought in thoughts:
        words[thought.query_id] = words.get(thought.query_id, 0) + len(thought.text.split())
    return words


def _file(path: str | Path) -> Path:
    return Path(path) / "result.json" if Path(path).is_dir() else Path(path)
