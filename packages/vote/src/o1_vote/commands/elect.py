"""`o1-vote elect`: a thought for each query, written into training examples."""

from __future__ import annotations

import functools
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace

from o1_records import Example, InputError, Thought, quoted
from o1_records.kit.cluster import declare_cluster
from o1_records.kit.command import new_job, reads, writes
from o1_vote.commands import committee, inputs, rules
from o1_vote.commands.inputs import tell
from o1_vote.election.elect import elect
from o1_vote.measure import MEASURES, OF_CORPUS, SEVERAL
from o1_vote.settings import SUFFIX


def declare(command: ArgumentParser) -> None:
    """Add the candidates, the committee, and what is measured and counted."""
    reads(command, "--thoughts", required=True, once=True, help="JSONL of thoughts")
    inputs.declare(command, split="train")
    reads(
        command, "--negatives", once=True, help="JSONL of examples with hard negatives, for --measure margin"
    )
    committee.declare(command)
    add = command.add_argument
    add("--measure", choices=MEASURES, default="corpus-margin", help="what a ballot says")
    add("--several", choices=SEVERAL, default="best", help="how several positives count")
    rules.declare(command)
    add(
        "--controls",
        action=BooleanOptionalAction,
        help="measure thoughts without content on 200 queries, and count what gains no more as no gain; on "
        "where the query alone may be elected",
    )
    writes(command, "--out", required=True, help="JSONL of examples; the same command resumes it")
    writes(
        command,
        "--ballots",
        beside=[SUFFIX],
        help="JSONL of ballots; --member scores:BALLOTS counts them again",
    )
    writes(command, "--reasons", help="JSONL of queries that are left out, and why: no positive, no negative")
    new_job(command)
    declare_cluster(command)


def run(args: Namespace) -> int:
    """Elect, and say what was written."""
    _refuse_what_cannot_be_measured(args)
    if args.controls and not args.abstain:
        raise InputError("--controls has no effect with --no-abstain; leave one of them out")
    corpus = inputs.corpus(args)
    done = elect(
        inputs.queries(args),
        inputs.records(args.thoughts, Thought),
        qrels=inputs.qrels(args),
        documents=corpus,
        members=committee.members(args, corpus, whole_corpus=args.measure in OF_CORPUS),
        rule=rules.counting(args),
        measure=functools.partial(MEASURES[args.measure], several=SEVERAL[args.several]),
        negatives=inputs.records(args.negatives, Example) if args.negatives else None,
        relevance=args.relevance,
        controls=args.controls,
        out=args.out,
        ballots=args.ballots,
        reasons=args.reasons,
        cluster=committee.cluster(args),
        new_job=args.new_job,
        progress=True,
    )
    if tell(args.out, done):
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
        if member.kind == "ce" and args.measure in OF_CORPUS:
            raise InputError(
                f"member {quoted(member.name)} cannot search a corpus, which --measure {args.measure} "
                "needs; give --measure thought, query-thought or margin"
            )
