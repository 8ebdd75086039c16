"""`o1-vote report`: one HTML page about an election."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from o1_records import InputError, Thought, atomic_write, open_queries, read_jsonl
from o1_vote.commands import rules
from o1_vote.page import page
from o1_vote.paths import files_of, refuse_one_file_twice
from o1_vote.scores import sheets_by_query
from o1_vote.survey import Survey
from o1_vote.tally import decide


def declare(command: argparse.ArgumentParser) -> None:
    """The files of the election, how to count, where to write."""
    add = command.add_argument
    add("--ballots", required=True, help="JSONL of ballots that elect wrote")
    add("--thoughts", required=True, help="JSONL of thoughts")
    add("--queries", required=True, help="JSONL of queries, or a BEIR folder")
    rules.declare(command)
    add("--out", required=True, type=Path, help="HTML page to write")


def run(args: argparse.Namespace) -> int:
    """Count and write."""
    inputs = {
        name: files_of(getattr(args, name), ["queries.jsonl"]) for name in ("ballots", "thoughts", "queries")
    }
    inputs["weights"] = [args.weights] if args.weights else []
    refuse_one_file_twice(inputs, {"out": args.out})
    survey, terms = Survey(), rules.terms_of(args)
    for query_id, sheets in sheets_by_query(args.ballots):
        survey.add(query_id, sheets, decide(sheets, rules.RULES[args.rule], **terms))
    if not survey.queries:
        raise InputError(f"{args.ballots}: has no ballot, so there is nothing to report; is it elect's file?")
    survey.measure_lengths(read_jsonl(args.thoughts, Thought))
    shown = {dispute.query_id for dispute in survey.disputed}
    queries = {q.query_id: q.text for q in open_queries(args.queries) if q.query_id in shown}
    thoughts: defaultdict[str, dict[str, Thought]] = defaultdict(dict)
    for thought in read_jsonl(args.thoughts, Thought):
        if thought.query_id in shown:
            thoughts[thought.query_id][thought.thought_id] = thought
    with atomic_write(args.out) as file:
        file.write(page(survey, queries, thoughts, rule=args.rule).encode())
    print(f"{args.out}: {survey.queries} queries", file=sys.stderr)
    return 0
