"""`o1-vote mine`: hard negatives for training, with teacher scores on request."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from o1_records import Document, Example, Exclusion, InputError, Qrel, Query, Thought, read_jsonl
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
        help="JSONL of examples, instead of --queries and --qrels; thoughts are kept",
    )
    reads(
        command,
        "--excluded",
        once=True,
        help="JSONL of documents that are never a negative of a query",
    )
    committee.declare(command)
    add = command.add_argument
    add("--count", type=at_least(1), default=15, help="negatives a query")
    add("--first", type=at_least(1), default=1, help="lowest rank, among documents that are not positive")
    add("--last", type=at_least(1), default=100, help="highest rank")
    add("--margin", type=float, help="how far a negative must score below the lowest positive")
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
    add("--seed", type=int, help="take a random sample of the ranks, not the hardest")
    add("--with-thought", action="store_true", help="search with the query and its thought")
    add("--teacher", help="write teacher scores: a member's name, or committee")
    writes(command, "--out", required=True, help="JSONL of examples; the same command resumes it")
    writes(command, "--reasons", required=True, help="JSONL of queries that have no negatives, and why")
    new_job(command)


def run(args: Namespace) -> int:
    """Mine, and say what was written."""
    asked = [args.queries, args.qrels]
    if any(asked) if args.examples else not all(asked):
        raise InputError("give --queries and --qrels, or --examples")
    if args.with_thought and not args.examples:
        raise InputError("--with-thought needs --examples, which bring the thoughts; leave it out")
    mining = Mining(args.count, args.first, args.last, args.margin, args.relative, args.near, args.seed)
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
            new_job=args.new_job,
            progress=True,
        )
    for path in done.moved:
        print(f"{path}: earlier work, moved aside", file=sys.stderr)
    if done.up_to_date:
        print(f"{args.out}: up to date", file=sys.stderr)
        return 0
    left_out = f"{args.reasons}: {done.left_out} queries left out"
    print(f"{args.out}: {done.examples} examples; {left_out}", file=sys.stderr)
    return 0


def _nominations(args: Namespace, corpus: Files[Document]) -> Nominations:
    if not args.examples:
        return Nominations(inputs.queries(args), (), inputs.qrels(args), corpus, every_document=True)
    path: Path = args.examples

    def queries() -> Iterator[Query]:
        return (example.query for example in read_jsonl(path, Example))

    def thoughts() -> Iterator[Thought]:
        return (example.thought for example in read_jsonl(path, Example) if example.thought)

    def qrels() -> Iterator[Qrel]:
        for example in read_jsonl(path, Example):
            for document in example.positives:
                yield Qrel(query_id=example.query.query_id, doc_id=document.doc_id, relevance=1)

    return Nominations(
        Files([path], queries), Files([path], thoughts), Files([path], qrels), corpus, every_document=True
    )
