"""`o1-index hybrid`: dense hits and BM25's over the same documents, fused."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Set
from functools import partial
from typing import Literal

import msgspec

from o1_index.commands.search import dense_hits, exclusions, open_both, refuse_overwriting, search_options
from o1_index.hybrid import Fuse, as_run, calibrated_score, fused_hits, reciprocal_rank, tune_weight
from o1_index.index import Index
from o1_records import (
    Hit,
    InputError,
    MissingExtraError,
    Query,
    Thought,
    open_documents,
    open_qrels,
    open_queries,
    quoted,
    read_jsonl,
    trec,
)

# the floors are those of unit vectors and of BM25
FUSIONS: dict[str, Fuse] = {
    "rrf": reciprocal_rank,
    "scores": partial(calibrated_score, floors=(-1.0, 0.0)),
}


def declare(command: argparse.ArgumentParser) -> None:
    """What to search for, twice, and how to fuse."""
    search_options(command)
    command.add_argument("--corpus", required=True, help="BEIR folder or JSONL of Document records")
    command.add_argument("--queries", required=True, help="BEIR folder or JSONL of Query records")
    command.add_argument("--split", help="of a BEIR folder, only the queries this split judges")
    command.add_argument("--thoughts", help="JSONL of Thought records: BM25 searches for them too")
    command.add_argument(
        "--lexical", choices=("query", "thought", "both"), default="both", help="what BM25 reads (both)"
    )
    command.add_argument("--fusion", choices=FUSIONS, default="rrf", help="by rank, or by calibrated score")
    command.add_argument("--weight", type=float, default=0.5, help="of the dense hits, 0 to 1 (0.5)")
    command.add_argument("--qrels", help="choose the weight on these judgements: BEIR folder or TREC file")
    command.add_argument("--k1", type=float, default=0.9)
    command.add_argument("--b", type=float, default=0.4)


def run(args: argparse.Namespace) -> int:
    """Search twice, fuse, write."""
    if not 0 <= args.weight <= 1:
        raise InputError(f"--weight {args.weight}: give a number from 0 to 1")
    refuse_overwriting(args)
    index, queries = open_both(args)
    texts = _texts(open_queries(args.queries, args.split), args.thoughts, args.lexical)
    wanted = set(queries.owners())
    _refuse_unknown(wanted - {query.query_id for query in texts}, f"{args.queries}: has no text of queries")
    dense = as_run(dense_hits(args, index, queries))
    lexical = as_run(_lexical_hits(args, index, [query for query in texts if query.query_id in wanted]))
    fuse, weight = FUSIONS[args.fusion], args.weight
    if args.qrels:
        weight, tried = tune_weight(dense, lexical, open_qrels(args.qrels, args.split), fuse)
        print(
            f"weight {weight:.2f}: nDCG@10 {tried[weight]:.4f}; dense alone {tried[1.0]:.4f}, BM25 "
            f"{tried[0.0]:.4f}; report it on other queries than these",
            file=sys.stderr,
        )
    fused = fuse([dense, lexical], [weight, 1 - weight])
    count = trec.write_run(args.out, fused_hits(fused, k=args.k), tag="hybrid")
    print(f"{args.out}: {count} hits for {len(fused)} queries, weight {weight:.2f}", file=sys.stderr)
    return 0


def _lexical_hits(args: argparse.Namespace, index: Index, queries: list[Query]) -> Iterator[Hit]:
    """BM25's hits among the documents of the index: what was removed there is not found here."""
    try:
        from o1_records.bm25 import BM25
    except MissingExtraError as error:
        raise MissingExtraError("o1-index", "hybrid", "BM25") from error
    documents = [doc for doc in open_documents(args.corpus) if doc.doc_id in index.names.rows]
    missing = index.names.rows.keys() - {doc.doc_id for doc in documents}
    _refuse_unknown(missing, f"{args.corpus}: has no text of documents of the index")
    lexical = BM25(documents, k1=args.k1, b=args.b)
    return lexical.search(queries, args.k, excluded=exclusions(args.excluded))


def _refuse_unknown(names: Set[str], place: str) -> None:
    if names:
        raise InputError(f"{place}: {len(names)}, as {quoted(sorted(names)[:10])}; give the whole file")


def _texts(
    queries: Iterator[Query], thoughts: str | None, lexical: Literal["query", "thought", "both"]
) -> list[Query]:
    """The queries with the text that BM25 reads; one without thoughts keeps its own."""
    own: defaultdict[str, list[str]] = defaultdict(list)
    for thought in read_jsonl(thoughts, Thought) if thoughts and lexical != "query" else ():
        own[thought.query_id].append(thought.text)
    changed = []
    for query in queries:
        texts = own.get(query.query_id)
        if texts:
            text = "\n".join(texts if lexical == "thought" else [query.text, *texts])
            query = msgspec.structs.replace(query, text=text)
        changed.append(query)
    return changed
