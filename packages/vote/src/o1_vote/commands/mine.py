"""`o1-vote mine`: hard negatives for training, with teacher scores where they are asked for."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from tqdm import tqdm

import o1_vote
from o1_records import (
    Document,
    Example,
    Exclusion,
    InputError,
    Qrel,
    open_documents,
    open_qrels,
    open_queries,
    quoted,
    read_jsonl,
    write_jsonl,
)
from o1_records.command import at_least
from o1_vote import rerun
from o1_vote.ballot import Reason
from o1_vote.commands import committee
from o1_vote.journal import Journal, clear
from o1_vote.negatives import Mining, Teacher, committee_teacher, mine
from o1_vote.paths import files_of_options, refuse_one_file_twice
from o1_vote.retriever import Searcher
from o1_vote.staging import Staging

_BLOCK = 64
_MINED = "mined"
_mined = msgspec.json.Decoder(tuple[Example | None, Reason | None])
_OUTPUTS = ("out", "reasons")


def declare(command: argparse.ArgumentParser) -> None:
    """Whose negatives, who says how hard they are, and which are safe."""
    add = command.add_argument
    add("--queries", help="JSONL of queries, or a BEIR folder")
    add("--qrels", help="JSONL, TREC or BEIR .tsv qrels, or a BEIR folder")
    add("--examples", help="instead of both: JSONL of examples, whose thoughts are kept")
    add("--corpus", required=True, help="JSONL of documents, or a BEIR folder")
    add("--split", default="train", help="of BEIR folders: whose queries and qrels")
    add("--excluded", help="JSONL of exclusions: documents that are never a negative of a query")
    committee.declare(command)
    add("--count", type=at_least(1), default=15, help="negatives a query (15)")
    add("--first", type=at_least(1), default=1, help="least rank among documents that are not positive (1)")
    add("--last", type=at_least(1), default=100, help="last rank (100)")
    add("--margin", type=float, help="how far a negative must score below the lowest positive")
    add(
        "--relative",
        type=float,
        default=0.95,
        help="and at most which share of it (0.95; 1 allows all below)",
    )
    add("--near", type=float, default=0.8, help="share of word triples that makes a near-duplicate (0.8)")
    add("--seed", type=int, help="take a random sample of the window, not the hardest")
    add("--with-thought", action="store_true", help="search with the query and its thought")
    add("--teacher", help="write teacher scores: a member's name, or committee")
    add("--out", required=True, type=Path, help="JSONL of examples to write; the same command resumes it")
    add("--reasons", required=True, type=Path, help="JSONL of queries that have no negatives, and why")


def run(args: argparse.Namespace) -> int:
    """Mine; what a killed run has found is kept."""
    if bool(args.examples) == bool(args.queries and args.qrels) or (args.examples and args.queries):
        raise InputError("give --queries and --qrels, or --examples")
    inputs = files_of_options(args, "queries", "corpus", "qrels", "examples", "excluded")
    refuse_one_file_twice(inputs, {name: getattr(args, name) for name in _OUTPUTS})
    made_from = _made_from(args, inputs)
    outputs = [args.out, args.reasons]
    if rerun.is_up_to_date(args.out, made_from, outputs):
        clear(args.out)
        print(f"{args.out}: up to date", file=sys.stderr)
        return 0
    mining = Mining(args.count, args.first, args.last, args.margin, args.relative, args.near, args.seed)
    with Journal(args.out, made_from) as journal:
        if journal.began_anew:
            print(f"{journal.folder}: was begun with something else; beginning again", file=sys.stderr)
        staging = Staging(journal)
        _fill(staging, args)
        _mine(journal, staging, mining, args)
        examples, left_out = _write(journal, staging, args)
        rerun.remember(args.out, made_from, outputs)
        journal.finish()
    print(f"{args.out}: {examples} examples; {args.reasons}: {left_out} queries left out", file=sys.stderr)
    return 0


def _fill(staging: Staging, args: argparse.Namespace) -> None:
    documents = open_documents(args.corpus)
    if not args.examples:
        queries, qrels = open_queries(args.queries, args.split), open_qrels(args.qrels, args.split)
        staging.fill(queries, (), qrels, documents, every_document=True)
        return
    staging.fill(
        (example.query for example in read_jsonl(args.examples, Example)),
        (example.thought for example in read_jsonl(args.examples, Example) if example.thought),
        _positives(args.examples),
        documents,
        every_document=True,
    )


def _positives(path: str) -> Iterator[Qrel]:
    for example in read_jsonl(path, Example):
        for document in example.positives:
            yield Qrel(query_id=example.query.query_id, doc_id=document.doc_id, relevance=1)


def _mine(journal: Journal, staging: Staging, mining: Mining, args: argparse.Namespace) -> None:
    done = journal.count(_MINED)
    if done == len(staging):
        return
    excluded: defaultdict[str, set[str]] = defaultdict(set)
    for line in read_jsonl(args.excluded, Exclusion) if args.excluded else ():
        excluded[line.query_id].add(line.doc_id)
    made = committee.Committee(args, documents=staging.documents, scratch=journal.folder)
    searchers, teacher = _members(made, args.teacher)
    documents: Mapping[str, Document] = staging.documents
    with tqdm(desc="mine", total=len(staging), initial=done, unit=" queries") as bar:
        while block := list(staging.nominations(journal.count(_MINED), _BLOCK)):
            found = mine(
                block,
                searchers,
                documents,
                mining,
                excluded=excluded,
                with_thought=args.with_thought,
                teacher=teacher,
            )
            journal.append(_MINED, [_body(record) for record in found])
            bar.update(len(block))


def _members(made: committee.Committee, teacher: str | None) -> tuple[list[Searcher], Teacher | None]:
    """The members that search, and the teacher; a member that cannot search may be the teacher."""
    if teacher not in (None, "committee", *made.names):
        raise InputError(f"--teacher {quoted(teacher)} is none of committee, {', '.join(made.names)}")
    members = [made.retriever(name) for name in made.names]
    searchers = [member for member in members if isinstance(member, Searcher)]
    silent = [member.name for member in members if not isinstance(member, Searcher)]
    if not searchers:
        raise InputError(f"none of {', '.join(silent)} can search a corpus; add bm25, static or st:MODEL")
    if useless := [name for name in silent if teacher not in (name, "committee")]:
        raise InputError(f"{', '.join(useless)} cannot search a corpus, but can be the --teacher")
    if teacher is None:
        return searchers, None
    taught_by = members if teacher == "committee" else [m for m in members if m.name == teacher]
    if teacher == "committee":
        return searchers, committee_teacher(taught_by)

    def teach(text: str, doc_ids: Sequence[str]) -> tuple[float, ...]:
        return tuple(taught_by[0].similarities([(text, doc_id) for doc_id in doc_ids]).tolist())

    return searchers, teach


def _body(record: Example | Reason) -> bytes:
    pair = (record, None) if isinstance(record, Example) else (None, record)
    return msgspec.json.encode(pair)


def _write(journal: Journal, staging: Staging, args: argparse.Namespace) -> tuple[int, int]:
    pairs = (_mined.decode(body) for body in journal.read(_MINED))
    examples = write_jsonl(args.out, (example for example, _ in pairs if example))
    pairs = (_mined.decode(body) for body in journal.read(_MINED))
    without = (reason for _, reason in pairs if reason)
    left_out = write_jsonl(
        args.reasons, (reason for group in (staging.reasons(), without) for reason in group)
    )
    return examples, left_out


def _made_from(args: argparse.Namespace, inputs: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    options = ("split", "count", "first", "last", "margin", "relative", "near", "seed", "with_thought")
    made = {name: str(getattr(args, name)) for name in (*options, "teacher", *_OUTPUTS)}
    made |= {f"{name} sha256": rerun.digest_of(files) for name, files in inputs.items()}
    return {**made, **committee.made_from(args), "version": o1_vote.__version__}
