"""`o1-synth remix annotate`: scores of candidates, and the examples they make."""

from __future__ import annotations

import argparse
import sys
import threading

from o1_records import Thought, open_documents, open_queries, open_run, read_jsonl
from o1_records.kit.command import at_least, between, gentle, reads, writes
from o1_synth.commands.options import (
    StepExpert,
    declare_step,
    domain_of,
    model_job,
    report,
    template_of,
)
from o1_synth.expert import Sampling
from o1_synth.job.scheduler import FAILURES
from o1_synth.remix.annotate import DROPPED, POSITIVE, annotate
from o1_synth.template import ANNOTATE


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options: which candidates, and what to write about their scores."""
    reads(command, "--queries", required=True, once=True, help="JSONL of Query records, or a BEIR folder")
    reads(command, "--candidates", required=True, once=True, help="a run, TREC or JSONL, as `mine` writes")
    reads(command, "--corpus", required=True, once=True, help="JSONL of Document records, or a BEIR folder")
    reads(command, "--thoughts", once=True, help="Thought records; the first of a query is its reasoning")
    writes(command, "--out", required=True, beside=[FAILURES, DROPPED], help="JSONL of Example records")
    writes(command, "--flagembedding", metavar="OUT", help="the same examples in FlagEmbedding's format")
    writes(
        command, "--judgements", metavar="OUT", help="the scores of every pair, each with its justification"
    )
    writes(
        command,
        "--distill",
        metavar="OUT",
        help="what the annotator wrote, without the hidden thinking of a reasoning model, as chat JSONL",
    )
    add = command.add_argument
    add("--scores", type=at_least(1), default=1, help="scores of each pair; their mean counts")
    add(
        "--positive-score",
        type=between(1, 5, open_low=True),
        default=POSITIVE,
        help="lowest score of a positive",
    )
    add(
        "--negative-score",
        type=between(1, 5),
        help="the highest of a negative, if not all below the positives",
    )
    # the sampling of the released annotation, whose thinking is off; a reasoning model needs more tokens
    declare_step(command, "remix_annotate", Sampling(temperature=0.7, top_p=0.95, max_tokens=2048))


def run(args: argparse.Namespace) -> int:
    """Annotate; return 0 when done, 3 when scores are missing."""
    stop, expert = threading.Event(), StepExpert(args)
    with gentle(stop):
        made = annotate(
            open_queries(args.queries),
            open_run(args.candidates),
            open_documents(args.corpus),
            expert,
            out=args.out,
            domain=domain_of(args),
            scores=args.scores,
            positive=args.positive_score,
            negative=args.negative_score,
            thoughts=read_jsonl(args.thoughts, Thought) if args.thoughts else (),
            judgements=args.judgements,
            distill=args.distill,
            flagembedding=args.flagembedding,
            template=template_of(args, ANNOTATE),
            concurrency=args.concurrency,
            progress=True,
            job=model_job(args, stop),
        )
    if args.preview:
        return 0
    if made.agreement is not None:
        print(f"all scores of a pair are equal for {made.agreement:.0%} of the pairs", file=sys.stderr)
    if made.undecided:
        print(f"{made.undecided} documents are neither positive nor negative", file=sys.stderr)
    if made.dropped:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in sorted(made.dropped.items()))
        count, listed = sum(made.dropped.values()), f"{args.out}{DROPPED}"
        print(f"{count} queries made no example ({reasons}), listed in {listed}", file=sys.stderr)
    did = f"{made.examples} examples of {made.summary.thoughts} scores"
    return report(made.summary, did, args.out, args.typed, expert.last)
