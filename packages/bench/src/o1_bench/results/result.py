"""A result that verifies itself: a folder with the run, the judgements and `result.json`.

```
folder/run.trec        the hits                    folder/excluded.jsonl   documents not counted
folder/qrels.trec      the judgements              folder/thoughts.jsonl   thoughts, if there are any
folder/result.json     everything else
```
`result.json` is written last, so a folder that has one is complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from o1_bench.collection import Collection
from o1_bench.protocol import Protocol
from o1_bench.results.machine import Hardware, hardware, versions
from o1_bench.score import Measure, by_query, computed_by, means, parse_measure, parse_measures, score
from o1_records import (
    Hit,
    InputError,
    Record,
    Thought,
    atomic_write,
    quoted,
    sha256_file,
    write_jsonl,
)
from o1_records.jsonl import encode
from o1_records.trec import write_qrels, write_run
from o1_records.types import Count, NonBlank

Kind = Literal["system", "control", "oracle"]

RUN, QRELS, EXCLUDED = FILES = ("run.trec", "qrels.trec", "excluded.jsonl")
THOUGHTS = "thoughts.jsonl"
RESULT = "result.json"
STAGES = "stages.sqlite"
"""What `o1_bench.evaluate` keeps beside its result; no other result is written into such a folder."""

CURVE: dict[int, Measure] = {k: parse_measure(f"nDCG@{k}") for k in (1, 3, 5, 10, 20, 50, 100)}
"""The points of the curve of nDCG@k."""


class Milliseconds(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean time per query of each stage; None: not measured, or not a stage of this run."""

    think: float | None = None
    embed: float | None = None
    search: float | None = None

    @property
    def total(self) -> float | None:
        """The sum of the stages that were measured; None if none was."""
        return known_sum([self.think, self.embed, self.search])


class System(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What produced the hits.

    A `control` shows what a gain is not due to (empty, shuffled, filler thoughts, the query again); an
    `oracle` reads the answer. `note` says so in words, such as "oracle: uses the answer's own docstring".
    `seed` tells apart several trainings or samplings of one system; their results are shown as one, with the
    spread. `encoder` is the model's fingerprint, whatever identifies it: path, digest, layout, pooling,
    length. `prompts` go before queries and documents, `sampling` says how thoughts were drawn.
    `index_seconds` is the time for embedding the documents and building the index. None: unknown or not
    measured.
    """

    name: NonBlank
    kind: Kind = "system"
    note: str = ""
    seed: int | None = None
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
    """Which collection it was: equal digests mean equal texts, judgements and exclusions.

    `protocol` is how it was evaluated; None: not known, which only older results say.
    """

    name: str
    revision: str
    queries: Count
    documents: Count
    digests: dict[str, str]
    instruction: str = ""
    protocol: Protocol | None = None


class Sent(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The texts that a system read for the first queries and documents; `how` says where they were taken."""

    queries: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    how: str = ""

    def has(self, instruction: str) -> bool | None:
        """Return whether an instruction reached the queries; None where it cannot be told.

        Case, spaces and punctuation do not count, as tokenizers change them.
        """
        if not self.queries or not instruction:
            return None
        return all(_letters(instruction) in _letters(text) for text in self.queries)


class Result(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was run on what, the metrics, and enough to check them.

    Attributes:
        k: the largest number of hits a query may have; 0: unknown.
        measures: which package computed each measure.
        thought_words: the number of words thought about each query, all its thoughts together.
        measured: whether `evaluate` made the run and looked at what made it; else the caller said so.
        sent: what the system really read.
        said: what a reader of the metrics should know, such as hits that are in no corpus.
        curve: mean nDCG@k by k.
        spread: standard deviation of each measure over `seeds`, where the result stands for several.
        seeds: of the results that it stands for.
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
    measured: bool = False
    sent: Sent = Sent()
    said: tuple[str, ...] = ()
    curve: dict[int, float] = msgspec.field(default_factory=dict)
    spread: dict[str, float] = msgspec.field(default_factory=dict)
    seeds: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The name of the system."""
        return self.system.name


def save_result(
    folder: str | Path,
    system: System,
    *,
    collection: Collection,
    hits: Iterable[Hit],
    measures: Sequence[Measure | str] | None = None,
    k: int = 0,
    thoughts: Iterable[Thought] = (),
    thought_words: Mapping[str, int] | None = None,
    sent: Sent | None = None,
) -> Result:
    """Score the hits, write the folder and return the result; an older result in it is then replaced.

    Args:
        folder: where the files go.
        system: what produced the hits.
        collection: what they are scored against.
        hits: in any order, as `score` takes them.
        measures: the first one is the main one in reports; those of the collection's protocol by default.
        k: how many hits were asked for per query; 0: unknown.
        thoughts: kept beside the run.
        thought_words: words thought about each query; counted from `thoughts` by default.
        sent: what the system read, where `evaluate` looked; without it, the caller says what made the hits.

    Raises InputError as `score` does, for ids that a TREC file cannot hold, and where none of the documents
    that were found is in the corpus.
    """
    folder = Path(folder)
    hits, thoughts = list(hits), list(thoughts)
    measures = parse_measures(measures or collection.protocol.measures)
    said = warnings(hits, measures, collection, k=k)
    together = score(
        collection.qrels, hits, measures=[*measures, *CURVE.values()], excluded=collection.excluded
    )
    names = set(map(str, measures))
    metrics = [metric for metric in together if metric.measure in names]
    curve = means(together)
    (folder / RESULT).unlink(missing_ok=True)
    write_run(folder / RUN, hits)
    write_qrels(folder / QRELS, collection.qrels)
    write_jsonl(folder / EXCLUDED, collection.exclusions())
    if thoughts:
        write_jsonl(folder / THOUGHTS, thoughts)
    else:
        (folder / THOUGHTS).unlink(missing_ok=True)
    if thought_words is None:
        counted: dict[str, int] = {}
        for thought in thoughts:
            counted[thought.query_id] = counted.get(thought.query_id, 0) + len(thought.text.split())
        thought_words = counted
    result = Result(
        system=system,
        collection=Stamp(
            name=collection.name,
            revision=collection.revision,
            queries=len(collection.queries),
            documents=len(collection),
            digests=collection.digests,
            instruction=collection.instruction,
            protocol=collection.protocol,
        ),
        metrics=means(metrics),
        per_query=by_query(metrics),
        files={name: sha256_file(folder / name) for name in (*FILES, *([THOUGHTS] if thoughts else []))},
        packages=versions(),
        hardware=hardware(),
        created=datetime.now(UTC).date().isoformat(),
        k=k,
        measures={str(measure): computed_by(measure) for measure in measures},
        thought_words=dict(thought_words),
        measured=sent is not None,
        sent=sent or Sent(),
        said=tuple(said),
        curve={cutoff: curve[str(measure)] for cutoff, measure in CURVE.items()},
    )
    with atomic_write(folder / RESULT) as file:
        line = encode(result, f"{folder / RESULT}")
        file.write(msgspec.json.format(line, indent=1) + b"\n")
    return result


def warnings(
    hits: Sequence[Hit], measures: Sequence[Measure], collection: Collection, *, k: int = 0
) -> list[str]:
    """Return what a reader of metrics should know: hits outside the corpus, measures deeper than the run.

    Raises InputError where none of the documents that were found is in the corpus.
    """
    found: dict[str, int] = {}
    for hit in hits:
        found[hit.query_id] = found.get(hit.query_id, 0) + 1
    lacking = set(collection.lacking(hit.doc_id for hit in hits))
    said = []
    if lacking:
        count = sum(hit.doc_id in lacking for hit in hits)
        if count == len(hits):
            raise InputError(
                f"none of the {count:,} hits is a document of {collection.name}, such as "
                f"{quoted(min(lacking))}; do the run and the collection belong together?"
            )
        said.append(
            f"{count:,} of {len(hits):,} hits are no documents of the corpus, such as {quoted(min(lacking))}"
        )
    deepest = max(found.values(), default=0)
    said += shallow(measures, max(deepest, k), len(collection))
    return said


def shallow(measures: Sequence[Measure], depth: int, documents: int | None = None) -> list[str]:
    """Return a sentence for the measures that look deeper than a run with `depth` hits a query at most."""
    deeper = [
        str(measure)
        for measure in measures
        if depth and (measure.params.get("cutoff") or 0) > depth and (documents is None or depth < documents)
    ]
    hits = f"{depth:,} hit{'s' if depth > 1 else ''}"
    return [f"{', '.join(deeper)}: no query has more than {hits} in the run"] if deeper else []


def load_result(path: str | Path) -> Result:
    """Return the result in a folder or a file. Raises InputError for a damaged one."""
    path = Path(path)
    path = path / RESULT if path.is_dir() else path
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"{path}: not a complete result: {error}; make it again") from error


def load_results(paths: Iterable[str | Path]) -> list[Result]:
    """Return the results in paths, see `find_results`. Raises InputError for a damaged one."""
    return [load_result(path) for path in find_results(paths).results]


class Found(NamedTuple):
    """Paths of results, and of those that were left out because `--new-job` moved them aside."""

    results: list[Path]
    moved_aside: list[Path]


def find_results(paths: Iterable[str | Path]) -> Found:
    """Find results; a path is one (its folder or `result.json`) or a folder of them, two levels deep.

    Raises InputError for a folder without any.
    """
    found = Found([], [])
    for path in map(Path, paths):
        if not path.is_dir() or (path / RESULT).is_file():
            found.results.append(path)
            continue
        inside = sorted([*path.glob(f"*/{RESULT}"), *path.glob(f"*/*/{RESULT}")])
        if not inside:
            raise InputError(f"{path}: no {RESULT} in it or in a folder of it")
        for each in inside:
            moved = any(map(_was_moved_aside, (each.parent, each.parent.parent)))
            (found.moved_aside if moved else found.results).append(each)
    return found


def refuse_unlike(results: Sequence[Result]) -> None:
    """Raise InputError unless all results were measured on the same collection by the same protocol.

    The protocol is what counts, the instruction, the depth of the runs and the package that computed each
    measure. What a result does not say (older ones do not) is not compared.
    """
    for result in results:
        first = results[0]
        shared = result.measures.keys() & first.measures.keys()
        said = [("hits per query", str(result.k or ""), str(first.k or ""))]
        said += [("instruction", result.collection.instruction, first.collection.instruction)]
        ours, theirs = first.collection.protocol, result.collection.protocol
        said += [("protocol", theirs.family if theirs else "", ours.family if ours else "")]
        said += [
            (f"provider of {name}", result.measures[name], first.measures[name]) for name in sorted(shared)
        ]
        for what, that, this in said:
            if that and this and that != this:
                raise InputError(
                    f"{quoted(result.name)} and {quoted(first.name)} were measured by different protocols: "
                    f"{what} {that}, {this}; run both the same way"
                )
        for part, digest in first.collection.digests.items():
            if result.collection.digests.get(part) != digest:
                raise InputError(
                    f"{quoted(result.name)} and {quoted(first.name)} were measured on different "
                    f"{part} ({result.collection.name}, {first.collection.name}); compare them separately"
                )


def _letters(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def known_sum(values: Iterable[float | None]) -> float | None:
    """Return the sum of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _was_moved_aside(folder: Path) -> bool:
    """Whether `--new-job` renamed a folder; a system may have such a name of its own."""
    before = re.fullmatch(r"(.+)\.old\d+", folder.name)
    return before is not None and folder.with_name(before[1]).exists()
