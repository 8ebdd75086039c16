"""`o1-vote mine`: hard negatives for training, with teacher scores on request."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import defaultdict
from collections.abc import Mapping

from o1_records import Document, Example, Exclusion, InputError, read_jsonl
from o1_records.kit.cluster import declare_cluster
from o1_records.kit.command import at_least, new_job, reads, writes
from o1_vote._job import Files
from o1_vote.commands import committee, inputs
from o1_vote.curation.negatives import Mining, mine
from o1_vote.election.nominate import Nominations


def declare(command: ArgumentParser) -> None:
    """Add the queries, the committee, and what counts as a negative."""
    inputs.declare(command, split="train", required=False)
    reads(
        command,
        "--examples",
        once=True,
        help="JSONL of examples, instead of --queries and --qrels; what they hold beyond negatives is kept",
    )
    reads(
        command,
        "--excluded",
        once=True,
        help="JSONL of documents that are never a negative of a query, beside its positives and itself",
    )
    committee.declare(command)
    add = command.add_argument
    add("--count", type=at_least(1), default=15, help="negatives a query")
    add("--first", type=at_least(1), default=1, help="lowest rank, among documents that are not positive")
    add("--last", type=at_least(1), default=100, help="highest rank")
    add("--margin", type=float, help="how far a negative must score below the lowest positive that matches")
    add(
        "--relative",
        type=float,
        default=0.95,
        help="the share of the lowest positive's score that a negative may reach; 1 allows all below",
    )
    add(
        "--near",
        type=float,
        default=0.8,
        help="share of word triples that makes a near-duplicate",
    )
    for option, end in (("--max-score", "most"), ("--min-score", "least")):
        add(
            option,
            action="append",
            type=_bound,
            metavar="[NAME=]SCORE",
            help=f"the {end} that a negative may score (repeat); NAME is a member, where there are several",
        )
    add("--seed", type=int, help="take a random sample of the ranks, not the hardest")
    add("--only-full", action="store_true", help="leave out queries that get fewer than --count negatives")
    add("--keep-negatives", action="store_true", help="begin with the negatives that --examples have already")
    add("--with-thought", action="store_true", help="search with the query and its thought")
    add("--teacher", help="write teacher scores: a member's name, or committee")
    writes(command, "--out", required=True, help="JSONL of examples; the same command resumes it")
    writes(command, "--reasons", required=True, help="JSONL of queries that have no negatives, and why")
    new_job(command)
    declare_cluster(command)


def run(args: Namespace) -> int:
    """Mine, and say what was written."""
    asked = [args.queries, args.qrels]
    if any(asked) if args.examples else not all(asked):
        raise InputError("give --queries and --qrels, or --examples")
    if args.with_thought and not args.examples:
        raise InputError("--with-thought needs --examples, which bring the thoughts; leave it out")
    if args.keep_negatives and not args.examples:
        raise InputError("--keep-negatives needs --examples, which bring the negatives; leave it out")
    if args.examples and args.relevance != 1:
        raise InputError("--relevance has no effect with --examples, which hold positives; leave it out")
    mining = Mining(
        count=args.count,
        first=args.first,
        last=args.last,
        margin=args.margin,
        relative=args.relative,
        near=args.near,
        seed=args.seed,
        max_score=_bounds(args.max_score, "--max-score"),
        min_score=_bounds(args.min_score, "--min-score"),
        full=args.only_full,
        keep=args.keep_negatives,
    )
    corpus = inputs.corpus(args)
    excluded: defaultdict[str, set[str]] = defaultdict(set)
    for line in read_jsonl(args.excluded, Exclusion) if args.excluded else ():
        excluded[line.query_id].add(line.doc_id)
    with _nominations(args, corpus) as nominations:
        done = mine(
            nominations,
            committee.members(args, corpus, whole_corpus=True),
            nominations.documents,
            mining,
            excluded=excluded,
            with_thought=args.with_thought,
            teacher=args.teacher,
            out=args.out,
            reasons=args.reasons,
            cluster=committee.cluster(args),
            new_job=args.new_job,
            progress=True,
        )
    if inputs.tell(args.out, done):
        left_out = f"{args.reasons}: {done.left_out} queries left out"
        print(f"{args.out}: {done.examples} examples; {left_out}", file=sys.stderr)
    return 0


def _bound(text: str) -> tuple[str, float]:
    """Split `[NAME=]SCORE`."""
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither SCORE nor NAME=SCORE") from None


def _bounds(given: list[tuple[str, float]] | None, option: str) -> float | Mapping[str, float] | None:
    if not given:
        return None
    named = dict(given)
    if len(named) < len(given) or (len(given) > 1 and "" in named):
        raise InputError(f"{option}: give one score, or one for each of several members")
    return named.get("", named)


def _nominations(args: Namespace, corpus: Files[Document]) -> Nominations:
    if args.examples:
        return Nominations.of_examples(inputs.records(args.examples, Example), corpus)
    return Nominations(
        inputs.queries(args),
        (),
        inputs.qrels(args),
        corpus,
        every_document=True,
        relevance=args.relevance,
    )
