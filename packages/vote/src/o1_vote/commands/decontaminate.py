"""`o1-vote decontaminate`: remove what overlaps with test queries and their relevant documents."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from o1_records import InputError
from o1_records.files import open_output
from o1_records.kit.command import at_least, reads, writes
from o1_vote.commands import inputs, sieve
from o1_vote.curation.contamination import Holdout, decontaminate, read_test_set
from o1_vote.curation.sieve import KINDS

_NAMED = 10
"""Names that are told; all of them go to --unchecked."""


def declare(command: ArgumentParser) -> None:
    """Add what is cleaned, of what, and how much overlap is too much."""
    sieve.declare(command)
    reads(command, "--test-queries", required=True, once=True, help="JSONL of queries, or a BEIR folder")
    reads(
        command,
        "--test-qrels",
        once=True,
        help="qrels of them: their relevant documents are test texts, too",
    )
    reads(
        command,
        "--test-corpus",
        once=True,
        help="JSONL of documents, or a BEIR folder, that has those documents",
    )
    inputs.relevance(command)
    add = command.add_argument
    add("--split", default="test", help="of BEIR folders: whose queries and qrels")
    add("--ngram", type=at_least(1), default=8, help="words of a run")
    add(
        "--shortest",
        type=at_least(1),
        default=4,
        help="words of the shortest text that is found inside others",
    )
    add("--contained", type=float, default=0.5, help="share of a test text's runs that is too much")
    add("--near", type=float, default=0.8, help="share of word triples in common that is too much")
    writes(
        command,
        "--unchecked",
        help="text file of the names of test texts that are too short to be found inside others",
    )


def run(args: Namespace) -> int:
    """Remove; an example goes when its query, its thought or a positive overlaps, a negative alone."""
    if args.test_corpus and not args.test_qrels:
        raise InputError("--test-corpus needs --test-qrels, which say what of it is relevant; give both")
    texts = read_test_set(
        args.test_queries, args.test_qrels, args.test_corpus, split=args.split, relevance=args.relevance
    )
    holdout = Holdout(
        texts, ngram=args.ngram, shortest=args.shortest, contained=args.contained, near=args.near
    )
    done = decontaminate(args.files, KINDS[args.type], holdout, out=args.out, reasons=args.reasons)
    what = f"{args.shortest} words (twice as many characters where there are no spaces)"
    _tell_unchecked(
        holdout.short, f"have fewer than {what} and are found only where a whole text is near them"
    )
    _tell_unchecked(holdout.blank, "have no word and cannot be found")
    if args.unchecked:
        with open_output(args.unchecked) as file:
            file.write("".join(f"{name}\n" for name in (*holdout.short, *holdout.blank)).encode())
    return sieve.tell(args, done)


def _tell_unchecked(names: list[str], why: str) -> None:
    if names:
        more = f" and {len(names) - _NAMED} more (--unchecked FILE)" if len(names) > _NAMED else ""
        print(f"{len(names)} test texts {why}: {', '.join(names[:_NAMED])}{more}", file=sys.stderr)
