"""`o1-vote elect`: a thought for each query, written into training examples."""

from __future__ import annotations

import functools
import sys
from argparse import ArgumentParser, Namespace

from o1_records import Example, InputError, Thought, quoted
from o1_records.kit.command import new_job, reads, writes
from o1_vote import measure
from o1_vote.commands import committee, inputs, rules
from o1_vote.election.elect import elect
from o1_vote.tally import winners

MEASURES = {
    "thought": measure.thought_similarity,
    "query-thought": measure.query_thought_similarity,
    "margin": measure.margin_to_negatives,
    "corpus-margin": measure.margin_to_corpus,
    "reciprocal-rank": measure.reciprocal_rank,
}
_OF_CORPUS = ("corpus-margin", "reciprocal-rank")
SEVERAL = {"best": measure.best, "mean": measure.mean}


def declare(command: ArgumentParser) -> None:
    """Add the candidates, the committee, and what is measured and counted."""
    reads(command, "--thoughts", required=True, help="JSONL of thoughts")
    inputs.declare(command, split="train")
    reads(command, "--negatives", help="JSONL of examples with hard negatives, for --measure margin")
    committee.declare(command)
    add = command.add_argument
    add("--measure", choices=MEASURES, default="corpus-margin", help="what a ballot says")
    add("--several", choices=SEVERAL, default="best", help="how several positives count")
    rules.declare(command)
    writes(command, "--out", required=True, help="JSONL of examples; the same command resumes it")
    writes(command, "--ballots", help="JSONL of ballots; --member scores:BALLOTS counts them again")
    writes(command, "--reasons", help="JSONL of queries that are left out, and why: no positive, no negative")
    new_job(command)


def run(args: Namespace) -> int:
    """Elect, and say what was written."""
    _refuse_what_cannot_be_measured(args)
    rule = functools.partial(winners, points=rules.RULES[args.rule], **rules.terms_of(args))
    corpus = inputs.corpus(args)
    done = elect(
        inputs.queries(args),
        inputs.records(args.thoughts, Thought),
        qrels=inputs.qrels(args),
        documents=corpus,
        members=committee.members(args, corpus, whole_corpus=args.measure in _OF_CORPUS),
        rule=rule,
        measure=functools.partial(MEASURES[args.measure], several=SEVERAL[args.several]),
        negatives=inputs.records(args.negatives, Example) if args.negatives else None,
        out=args.out,
        ballots=args.ballots,
        reasons=args.reasons,
        new_job=args.new_job,
        progress=True,
    )
    for path in done.moved:
        print(f"{path}: earlier work, moved aside", file=sys.stderr)
    if done.up_to_date:
        print(f"{args.out}: up to date", file=sys.stderr)
        return 0
    if args.reasons:
        print(f"{args.reasons}: {done.left_out} queries left out", file=sys.stderr)
    print(f"{args.out}: {done.examples} examples, {done.with_thought} with a thought", file=sys.stderr)
    return 0


def _refuse_what_cannot_be_measured(args: Namespace) -> None:
    """Raise InputError now, and not when the other members have voted for hours."""
    if args.measure == "margin" and not args.negatives:
        raise InputError("--measure margin needs --negatives: examples with hard negatives, as `mine` writes")
    if args.negatives and args.measure != "margin":
        raise InputError("--negatives has no effect without --measure margin; leave it out")
    for member in args.member:
        if member.kind == "ce" and args.measure in _OF_CORPUS:
            raise InputError(
                f"member {quoted(member.name)} cannot search a corpus, which --measure {args.measure} "
                "needs; give --measure thought, query-thought or margin"
            )
