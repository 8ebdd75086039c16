"""Candidates for written queries, without the documents they were written of.

ReasonEmbed, section 3.2: the source answers its query by construction and teaches nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence, Set
from itertools import islice

import msgspec

from o1_records import Document, Exclusion, Hit, InputError, MissingExtraError, Query, quoted

Retrieve = Callable[[Sequence[Query]], Iterable[Hit]]
_BATCH = 256


def mine(
    queries: Iterable[Query],
    retrieve: Retrieve,
    *,
    sources: Iterable[Exclusion],
    banned: Container[str] = frozenset(),
    depth: int = 100,
) -> Iterator[Hit]:
    """Yield at most `depth` candidates a query, ranked anew.

    `retrieve` finds the best documents of some queries at a time, as many as it likes. The
    `sources` of a query and `banned` documents are left out.

    Raises InputError for a query that `sources` does not know, and for hits of another query.
    """
    written_of: defaultdict[str, set[str]] = defaultdict(set)
    for source in sources:
        written_of[source.query_id].add(source.doc_id)
    rest = iter(queries)
    while batch := list(islice(rest, _BATCH)):
        hits: dict[str, list[Hit]] = {query.query_id: [] for query in batch}
        for hit in retrieve(batch):
            if hit.query_id not in hits:
                raise InputError(f"a hit of query {quoted(hit.query_id)}, which was not asked for")
            hits[hit.query_id].append(hit)
        for query_id, found in hits.items():
            if query_id not in written_of:
                raise InputError(
                    f"query {quoted(query_id)} has no source document; give the .sources.jsonl that was "
                    "written with the queries"
                )
            yield from _candidates(found, written_of[query_id], banned, depth)


def hits_of_run(run: Iterable[Hit]) -> Retrieve:
    """A `retrieve` that looks the hits up in a run, which it holds in memory."""
    by_query: defaultdict[str, list[Hit]] = defaultdict(list)
    for hit in run:
        by_query[hit.query_id].append(hit)
    return lambda queries: (hit for query in queries for hit in by_query.get(query.query_id, ()))


def bm25(documents: Iterable[Document], depth: int, banned: Set[str] = frozenset()) -> Retrieve:
    """A `retrieve` by BM25, of documents that are not banned. Raises MissingExtraError without `[bm25]`."""
    try:
        from o1_records.bm25 import BM25
    except MissingExtraError as error:
        raise MissingExtraError("o1-synth", "bm25", "candidates by BM25") from error

    index = BM25(documents)

    def retrieve(queries: Sequence[Query]) -> Iterable[Hit]:
        return index.search(queries, depth, excluded={query.query_id: banned for query in queries})

    return retrieve


def _candidates(hits: list[Hit], own: set[str], banned: Container[str], depth: int) -> Iterator[Hit]:
    ranked = sorted(hits, key=lambda hit: hit.rank)
    kept = (hit for hit in ranked if hit.doc_id not in own and hit.doc_id not in banned)
    for rank, hit in enumerate(islice(kept, depth), 1):
        yield msgspec.structs.replace(hit, rank=rank)
