"""`o1-synth remix mine`: candidates for written queries."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Set
from pathlib import Path

from o1_records import Exclusion, open_documents, open_queries, read_jsonl, refuse_overwriting
from o1_records.command import at_least
from o1_records.trec import read_run, write_run
from o1_synth.commands.remix.options import banned_of, declare_banned, inputs_of
from o1_synth.remix.mine import Retrieve, bm25, hits_of_run, mine
from o1_synth.remix.write import path_of_sources


def declare(command: argparse.ArgumentParser) -> None:
    """For which queries, found by what."""
    add = command.add_argument
    add("--queries", required=True, type=Path, help="JSONL of Query records that `write` wrote")
    add("--sources", type=Path, help="Exclusion records (default: <queries>.sources.jsonl)")
    found = command.add_mutually_exclusive_group(required=True)
    found.add_argument("--run", type=Path, help="a TREC run of any retriever, deeper than --depth")
    found.add_argument("--corpus", type=Path, help="search it with BM25: JSONL or a BEIR folder")
    declare_banned(command)
    add("--depth", type=at_least(2), default=100, help="candidates a query at most (default 100)")
    add("--out", required=True, type=Path, help="a TREC run")


def run(args: argparse.Namespace) -> int:
    """Find them; 0 done."""
    sources = args.sources or path_of_sources(args.queries)
    refuse_overwriting(
        {**inputs_of(args, "queries", "run", "corpus"), "--sources": sources}, {"--out": args.out}
    )
    banned = banned_of(args)
    candidates = mine(
        open_queries(args.queries),
        _retrieve(args, banned),
        sources=read_jsonl(sources, Exclusion),
        banned=banned,
        depth=args.depth,
    )
    count = write_run(args.out, candidates)
    print(f"{args.out}: {count} candidates", file=sys.stderr)
    return 0


def _retrieve(args: argparse.Namespace, banned: Set[str]) -> Retrieve:
    if args.run is not None:
        return hits_of_run(read_run(args.run))
    return bm25(open_documents(args.corpus), 2 * args.depth, banned)
