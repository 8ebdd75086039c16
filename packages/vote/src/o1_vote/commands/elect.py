"""`o1-vote elect`: a thought for each query, written into training examples."""

from __future__ import annotations

import argparse
import functools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from tqdm import tqdm

import o1_vote
from o1_records import (
    Ballot,
    Example,
    InputError,
    Thought,
    open_documents,
    open_qrels,
    open_queries,
    quoted,
    read_jsonl,
    write_jsonl,
)
from o1_vote import measure, rerun
from o1_vote.ballot import BLOCK, cast
from o1_vote.commands import committee, rules
from o1_vote.curate import conclude
from o1_vote.journal import Journal, clear
from o1_vote.measure import Measure
from o1_vote.paths import files_of_options, refuse_one_file_twice
from o1_vote.staging import Staging
from o1_vote.tally import Terms, winners

MEASURES = {
    "thought": measure.thought_similarity,
    "query-thought": measure.query_thought_similarity,
    "margin": measure.margin_to_negatives,
    "corpus-margin": measure.margin_to_corpus,
    "reciprocal-rank": measure.reciprocal_rank,
}
_OF_CORPUS = ("corpus-margin", "reciprocal-rank")
_MANY = 100_000
"""Documents that take a dense member long enough to say so."""
SEVERAL = {"best": measure.best, "mean": measure.mean}
OUTPUTS = ("out", "ballots", "reasons")
_OF_TALLY = {"rule", "abstain", "margin", "least_agreement", "weights", *OUTPUTS}
_ballots = msgspec.json.Decoder(list[Ballot])


def declare(command: argparse.ArgumentParser) -> None:
    """What stands for election, who votes, and what is counted."""
    add = command.add_argument
    add("--thoughts", required=True, help="JSONL of thoughts")
    add("--queries", required=True, help="JSONL of queries, or a BEIR folder")
    add("--corpus", required=True, help="JSONL of documents, or a BEIR folder")
    add("--qrels", required=True, help="JSONL, TREC or BEIR .tsv qrels, or a BEIR folder")
    add("--negatives", help="JSONL of examples with hard negatives, for --measure margin")
    add("--split", default="train", help="of BEIR folders: whose queries and qrels")
    committee.declare(command)
    add("--measure", choices=MEASURES, default="corpus-margin", help="what a ballot says (corpus-margin)")
    add("--several", choices=SEVERAL, default="best", help="what counts of several positives")
    rules.declare(command)
    add("--out", required=True, type=Path, help="JSONL of examples to write; the same command resumes it")
    add("--ballots", type=Path, help="JSONL of ballots to write; --member scores:BALLOTS counts them again")
    add("--reasons", type=Path, help="JSONL of queries that are left out, and why: no positive, no negative")


def run(args: argparse.Namespace) -> int:
    """Elect; what a killed run has measured is not measured again."""
    inputs = files_of_options(args, "thoughts", "queries", "corpus", "qrels", "negatives", "weights")
    inputs["member"] = [Path(member.argument) for member in args.member if member.kind == "scores"]
    refuse_one_file_twice(inputs, {name: getattr(args, name) for name in OUTPUTS})
    terms = rules.terms_of(args)
    _refuse_what_cannot_be_measured(args)
    outputs = [path for name in OUTPUTS if (path := getattr(args, name))]
    measured_from, counted_by = _made_from(args, inputs)
    made_from = measured_from | counted_by
    if rerun.is_up_to_date(args.out, made_from, outputs):
        clear(args.out)
        print(f"{args.out}: up to date", file=sys.stderr)
        return 0
    with Journal(args.out, measured_from) as journal:
        if journal.began_anew:
            print(f"{journal.folder}: was begun with something else; beginning again", file=sys.stderr)
        staging = Staging(journal)
        _fill(staging, args)
        members = committee.Committee(args, documents=staging.documents, scratch=journal.folder)
        rules.refuse_others(terms, members.names)
        for name in members.names:
            _poll(journal, staging, members, name, args)
        _write(journal, staging, members.names, args, terms)
        rerun.remember(args.out, made_from, outputs)
        journal.finish()
    return 0


def _embeds_corpus(args: argparse.Namespace) -> bool:
    """BM25 reads the corpus itself, and a score file nothing."""
    return args.measure in _OF_CORPUS and any(m.kind not in ("bm25", "scores") for m in args.member)


def _refuse_what_cannot_be_measured(args: argparse.Namespace) -> None:
    """Here, and not when the other members have voted for hours."""
    if args.measure == "margin" and not args.negatives:
        raise InputError("--measure margin needs --negatives: examples with hard negatives, as `mine` writes")
    for member in args.member:
        if member.kind == "ce" and args.measure in _OF_CORPUS:
            raise InputError(
                f"member {quoted(member.name)} cannot search a corpus, which --measure {args.measure} "
                "asks of it; give --measure thought, query-thought or margin"
            )


def _fill(staging: Staging, args: argparse.Namespace) -> None:
    staging.fill(
        open_queries(args.queries, args.split),
        read_jsonl(args.thoughts, Thought),
        open_qrels(args.qrels, args.split),
        open_documents(args.corpus),
        read_jsonl(args.negatives, Example) if args.negatives else (),
        every_document=_embeds_corpus(args),
        need_negatives=args.measure == "margin",
    )
    if _embeds_corpus(args) and (count := len(staging.documents)) >= _MANY:
        print(f"members embed all {count} documents; with --measure thought the positives", file=sys.stderr)
    reasons = list(staging.reasons()) if not args.reasons else []
    if reasons:
        raise InputError(
            f"{len(reasons)} queries take no part, the first is {quoted(reasons[0].query_id)} "
            f"({reasons[0].reason}); to leave them out and list them give --reasons FILE"
        )


def _poll(
    journal: Journal, staging: Staging, members: committee.Committee, name: str, args: argparse.Namespace
) -> None:
    """Let one member vote on what it has not voted on yet, block by block."""
    part = f"ballots {name}"
    done = journal.count(part)
    if done == len(staging):
        return
    chosen: Measure = functools.partial(MEASURES[args.measure], several=SEVERAL[args.several])
    member = members.member(name)
    total, cast_before = staging.ballots(len(staging)), staging.ballots(done)
    with tqdm(desc=name, total=total, initial=cast_before, unit=" ballots") as bar:
        while block := list(staging.nominations(journal.count(part), BLOCK)):
            ballots = iter(list(cast(block, member, measure=chosen)))
            sheets = [[next(ballots) for _ in range(1 + len(n.thoughts))] for n in block]
            journal.append(part, [msgspec.json.encode(sheet) for sheet in sheets])
            bar.update(sum(map(len, sheets)))


def _write(
    journal: Journal, staging: Staging, names: Sequence[str], args: argparse.Namespace, terms: Terms
) -> None:
    if args.reasons:
        left_out = write_jsonl(args.reasons, staging.reasons())
        print(f"{args.reasons}: {left_out} queries left out", file=sys.stderr)
    if args.ballots:
        bodies = (body for name in names for body in journal.read(f"ballots {name}"))
        write_jsonl(args.ballots, (ballot for body in bodies for ballot in _ballots.decode(body)))
    counts: Counter[bool] = Counter()
    examples = write_jsonl(args.out, _examples(journal, staging, names, args.rule, terms, counts))
    print(f"{args.out}: {examples} examples, {counts[True]} with a thought", file=sys.stderr)


def _examples(
    journal: Journal, staging: Staging, names: Sequence[str], rule: str, terms: Terms, counts: Counter[bool]
) -> Iterator[Example]:
    for start in range(0, len(staging), BLOCK):
        bodies = (body for name in names for body in journal.read(f"ballots {name}", start, BLOCK))
        ballots = (ballot for body in bodies for ballot in _ballots.decode(body))
        elected = winners(ballots, rules.RULES[rule], **terms)
        for example in conclude(staging.nominations(start, BLOCK), elected):
            counts[example.thought is not None] += 1
            yield example


def _made_from(
    args: argparse.Namespace, inputs: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, str], dict[str, str]]:
    """What the ballots depend on, and what the outputs depend on beside; all that changes shows."""
    counted = {name: str(getattr(args, name)) for name in _OF_TALLY}
    counted["weights sha256"] = rerun.digest_of(inputs.get("weights", []))
    measured = {
        f"{name} sha256": rerun.digest_of(files) for name, files in inputs.items() if name != "weights"
    }
    measured |= {name: getattr(args, name) for name in ("split", "measure", "several")}
    measured |= committee.made_from(args)
    return {**measured, "version": o1_vote.__version__}, counted
