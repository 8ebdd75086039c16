"""`o1-index hybrid`: dense hits and BM25's over the same documents, fused."""

from __future__ import annotations

import argparse
import sys

from o1_index.commands.search import exclusions, search_options
from o1_index.fusion import FUSIONS, LEXICAL, WEIGHT, fused_hits, hybrid
from o1_index.index import open_index
from o1_index.vectors import open_vectors
from o1_records import InputError, Thought, open_documents, open_qrels, open_queries, read_jsonl, trec
from o1_records.files import is_folder
from o1_records.kit.command import EVERYTHING, reads


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    reads(command, "--index", required=True, inside=EVERYTHING, help="folder of the index")
    search_options(command)
    reads(command, "--corpus", required=True, once=True, help="BEIR folder or JSONL of Document records")
    reads(command, "--queries", required=True, once=True, help="BEIR folder or JSONL of Query records")
    command.add_argument("--split", help="of BEIR folders, the queries that this split judges, and its qrels")
    reads(command, "--thoughts", once=True, help="JSONL of Thought records, for BM25")
    command.add_argument(
        "--lexical", choices=LEXICAL, help="what BM25 reads; by default both, where there are thoughts"
    )
    command.add_argument(
        "--fusion", choices=FUSIONS, default="rrf", help="by rank, by scaled or by calibrated scores"
    )
    command.add_argument("--weight", type=float, help=f"of the dense hits, 0 to 1; by default {WEIGHT}")
    reads(
        command, "--qrels", once=True, help="choose the weight on these judgements: BEIR folder or TREC file"
    )
    command.add_argument("--k1", type=float, default=0.9, help="BM25's k1")
    command.add_argument("--b", type=float, default=0.4, help="BM25's b")


def run(args: argparse.Namespace) -> int:
    """Search twice, fuse, write; the run appears whole or not at all."""
    if args.qrels and is_folder(args.qrels) and not args.split:
        raise InputError(f"--qrels {args.qrels} is a folder; name its judgements with --split, such as dev")
    found = hybrid(
        open_index(args.index, mmap=args.mmap, device=args.device),
        open_vectors(args.vectors, args.ids),
        open_queries(args.queries, args.split),
        open_documents(args.corpus),
        k=args.k,
        thoughts=read_jsonl(args.thoughts, Thought) if args.thoughts else None,
        lexical=args.lexical,
        fusion=args.fusion,
        weight=args.weight,
        qrels=open_qrels(args.qrels, args.split) if args.qrels else None,
        excluded=exclusions(args.excluded),
        k1=args.k1,
        b=args.b,
    )
    if found.tried:
        print(
            f"weight {found.weight:.2f}: nDCG@10 {found.tried[found.weight]:.4f}; dense alone "
            f"{found.tried[1.0]:.4f}, BM25 {found.tried[0.0]:.4f}; report it on other queries than these",
            file=sys.stderr,
        )
    count = trec.write_run(args.out, fused_hits(found.run, k=args.k), tag="hybrid")
    queries = len(found.run)
    print(f"{args.out}: {count} hits for {queries} queries, weight {found.weight:.2f}", file=sys.stderr)
    return 0
