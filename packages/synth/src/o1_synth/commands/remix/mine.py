"""`o1-synth remix mine`: candidates for written queries."""

from __future__ import annotations

import argparse
import sys

from o1_records.kit.command import at_least, new_job, reads, writes
from o1_synth.commands.options import banned_by, declare_never, report_moved
from o1_synth.remix.mine import mine_files
from o1_synth.remix.write import SOURCES


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options: for which queries, found by what."""
    reads(command, "--queries", required=True, beside=[SOURCES], help="Query records that `write` wrote")
    reads(command, "--sources", help=f"Exclusion records, if not those in <queries>{SOURCES}")
    found = command.add_mutually_exclusive_group(required=True)
    reads(found, "--run", help="a run (TREC, or JSONL of Hit records) of any retriever, deeper than --depth")
    reads(found, "--corpus", help="documents to search with BM25: JSONL or a BEIR folder")
    declare_never(command)
    command.add_argument("--depth", type=at_least(2), default=100, help="candidates for each query at most")
    writes(command, "--out", required=True, help="a TREC run")
    new_job(command)


def run(args: argparse.Namespace) -> int:
    """Find them; return 0."""
    made = mine_files(
        args.queries,
        out=args.out,
        sources=args.sources,
        run=args.run,
        corpus=args.corpus,
        banned=banned_by(args.never),
        depth=args.depth,
        new_job=args.new_job,
    )
    report_moved(made.moved)
    again = "" if made.searched else ", which were there already, from the same files"
    print(f"{args.out}: {made.candidates} candidates{again}", file=sys.stderr)
    return 0
