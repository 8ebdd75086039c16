"""`o1-vote decontaminate`: remove what overlaps with test queries and their relevant documents."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from o1_records import InputError
from o1_records.kit.command import at_least, reads
from o1_vote.commands import sieve
from o1_vote.curation.contamination import Holdout, decontaminate, read_test_set
from o1_vote.curation.sieve import KINDS


def declare(command: ArgumentParser) -> None:
    """Add what is cleaned, of what, and how much overlap is too much."""
    sieve.declare(command)
    reads(command, "--test-queries", required=True, help="JSONL of queries, or a BEIR folder")
    reads(command, "--test-qrels", help="qrels of them: their relevant documents are test texts, too")
    reads(command, "--test-corpus", help="JSONL of documents, or a BEIR folder, that has those documents")
    add = command.add_argument
    add("--split", default="test", help="of BEIR folders: whose queries and qrels")
    add("--ngram", type=at_least(1), default=8, help="words of a run")
    add("--contained", type=float, default=0.5, help="share of a test text's runs that is too much")
    add("--near", type=float, default=0.8, help="share of word triples in common that is too much")


def run(args: Namespace) -> int:
    """Remove; an example goes when its query, its thought or one of its documents overlaps."""
    if args.test_corpus and not args.test_qrels:
        raise InputError("--test-corpus needs --test-qrels, which say what of it is relevant; give both")
    texts = read_test_set(args.test_queries, args.test_qrels, args.test_corpus, split=args.split)
    holdout = Holdout(texts, ngram=args.ngram, contained=args.contained, near=args.near)
    done = decontaminate(args.files, KINDS[args.type], holdout, out=args.out, reasons=args.reasons)
    return sieve.tell(args, done)
