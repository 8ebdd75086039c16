"""Candidates for written queries, without the documents they were written from.

ReasonEmbed, section 3.2: the source of a query answers it by construction, and teaches nothing.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from o1_records import (
    Document,
    Exclusion,
    Hit,
    InputError,
    MissingExtraError,
    Query,
    open_documents,
    open_queries,
    open_run,
    quoted,
    read_jsonl,
    sha256_file,
)
from o1_records.files import is_folder
from o1_records.kit.command import BEIR
from o1_records.kit.job import Job
from o1_records.kit.models import digest_of_files
from o1_records.trec import write_run
from o1_synth.job.scheduler import path_beside
from o1_synth.remix.write import SOURCES

Retrieve = Callable[[Sequence[Query]], Iterable[Hit]]
_BATCH = 256
_COUNT = "candidates"  # the note with how many there are


def mine(
    queries: Iterable[Query],
    retrieve: Retrieve,
    *,
    sources: Iterable[Exclusion],
    banned: Container[str] = frozenset(),
    depth: int = 100,
) -> Iterator[Hit]:
    """Yield at most `depth` candidates for each query, ranked anew.

    `retrieve` returns the best documents for some queries at a time, as many as it likes. The `sources` of a
    query and `banned` documents are left out.

    Raises InputError for a query without a source, and for a hit of a query that was not asked for.
    """
    written_from: defaultdict[str, set[str]] = defaultdict(set)
    for source in sources:
        written_from[source.query_id].add(source.doc_id)
    rest = iter(queries)
    while batch := list(islice(rest, _BATCH)):
        hits: dict[str, list[Hit]] = {query.query_id: [] for query in batch}
        for hit in retrieve(batch):
            if hit.query_id not in hits:
                raise InputError(f"got a hit for query {quoted(hit.query_id)}, which was not asked for")
            hits[hit.query_id].append(hit)
        for query_id, found in hits.items():
            if query_id not in written_from:
                raise InputError(
                    f"query {quoted(query_id)} has no source document; give the {SOURCES} file that was "
                    "written with the queries"
                )
            ranked = sorted(found, key=lambda hit: hit.rank)
            left_out = written_from[query_id]
            kept = (hit for hit in ranked if hit.doc_id not in left_out and hit.doc_id not in banned)
            for rank, hit in enumerate(islice(kept, depth), 1):
                yield msgspec.structs.replace(hit, rank=rank)


def hits_of_run(run: Iterable[Hit]) -> Retrieve:
    """Return a `retrieve` that looks hits up in a run, which it holds in memory."""
    by_query: defaultdict[str, list[Hit]] = defaultdict(list)
    for hit in run:
        by_query[hit.query_id].append(hit)
    return lambda queries: (hit for query in queries for hit in by_query.get(query.query_id, ()))


def bm25(documents: Iterable[Document], depth: int, banned: Set[str] = frozenset()) -> Retrieve:
    """Return a `retrieve` by BM25, without banned documents. Raises MissingExtraError without `[bm25]`."""
    try:
        from o1_records.bm25 import BM25
    except MissingExtraError as error:
        raise MissingExtraError("o1-synth", "bm25", "candidates by BM25") from error

    index = BM25(documents)

    def retrieve(queries: Sequence[Query]) -> Iterable[Hit]:
        return index.search(queries, depth, excluded={query.query_id: banned for query in queries})

    return retrieve


@dataclass(frozen=True, kw_only=True)
class Mined:
    """How many candidates there are; `searched` is False where they were there already."""

    candidates: int
    searched: bool
    moved: tuple[Path, ...] = ()


def mine_files(
    queries: str | Path,
    *,
    out: str | Path,
    sources: str | Path | None = None,
    run: str | Path | None = None,
    corpus: str | Path | None = None,
    banned: Set[str] = frozenset(),
    depth: int = 100,
    new_job: bool = False,
) -> Mined:
    """Write candidates for a file of queries to `out`, a TREC run, unless it has them already.

    Args:
        queries: Query records that `write` wrote.
        out: the candidates.
        sources: Exclusion records; default: the ones that `write` wrote beside the queries.
        run: a TREC run of any retriever, deeper than `depth`.
        corpus: documents to search with BM25, in the place of a run.
        banned: doc_ids that are never candidates.
        depth: candidates for each query at most.
        new_job: move candidates that were made from other files or settings aside, instead of refusing.

    Raises InputError as `mine` does, and where `out` was made from other files or settings.
    """
    if (run is None) == (corpus is None):
        raise InputError("give either a run or a corpus")
    sources = path_beside(queries, SOURCES) if sources is None else sources
    read = {"queries": queries, "sources": sources, "run": run, "corpus": corpus}
    made_from = {name: _digest(path) for name, path in read.items() if path is not None}
    made_from |= {"command": "remix mine", "depth": str(depth)}
    made_from["banned"] = hashlib.sha256(msgspec.json.encode(sorted(banned))).hexdigest()
    with Job(out, made_from, new_job=new_job) as job:
        searched = not job.finished
        if searched:
            found = mine(
                open_queries(queries),
                hits_of_run(open_run(run)) if run else bm25(open_documents(str(corpus)), 2 * depth, banned),
                sources=read_jsonl(sources, Exclusion),
                banned=banned,
                depth=depth,
            )
            job.set_note(_COUNT, str(write_run(out, found)))
            job.finish()
        return Mined(candidates=int(job.note(_COUNT) or 0), searched=searched, moved=tuple(job.moved))


def _digest(path: str | Path) -> str:
    """Return the digest of a file, or of what is read in a BEIR folder."""
    path = Path(path)
    if not is_folder(path):
        return sha256_file(path)
    files = {file for pattern in BEIR for file in path.glob(pattern) if file.is_file()}
    return digest_of_files({file.relative_to(path).as_posix(): sha256_file(file) for file in files})
