"""`o1-vote decontaminate`: remove what overlaps with test queries and their relevant documents."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from o1_records import Example, open_documents, open_qrels, open_queries
from o1_records.command import at_least
from o1_vote.commands import kinds
from o1_vote.commands.kinds import KINDS, Kind, Removal
from o1_vote.commands.sieve import sieve
from o1_vote.contamination import Holdout
from o1_vote.paths import files_of


def declare(command: argparse.ArgumentParser) -> None:
    """What is cleaned, of what, and how much overlap is too much."""
    kinds.declare(command)
    add = command.add_argument
    add("--test-queries", required=True, help="JSONL of queries, or a BEIR folder")
    add("--test-qrels", help="qrels of them: their relevant documents are test texts too")
    add("--test-corpus", help="JSONL of documents, or a BEIR folder, that has those documents")
    add("--split", default="test", help="of BEIR folders: whose queries and qrels (test)")
    add("--ngram", type=at_least(1), default=8, help="words of a run (8)")
    add("--contained", type=float, default=0.5, help="share of a test text's runs that is too much (0.5)")
    add("--near", type=float, default=0.8, help="share of word triples in common that is too much (0.8)")


def run(args: argparse.Namespace) -> int:
    """Remove; an example goes when its query, its thought or one of its documents overlaps."""
    kind = KINDS[args.type]
    holdout = Holdout(_test_texts(args), ngram=args.ngram, contained=args.contained, near=args.near)

    def judge(file: str, record: Any) -> Removal | None:
        found = [overlap for text in _texts(record, kind) if (overlap := holdout.overlap(text))]
        if not found:
            return None
        worst = max(found, key=lambda overlap: overlap.share)
        name = kind.name(record)
        return Removal(file=file, name=name, reason=worst.kind, like=worst.name, share=worst.share)

    inside: dict[str, list[str]] = {
        "test_queries": ["queries.jsonl"],
        "test_corpus": ["corpus.jsonl"],
        "test_qrels": [],
    }
    given = {name: names for name, names in inside.items() if getattr(args, name)}
    inputs: dict[str, list[Path]] = {name: files_of(getattr(args, name), n) for name, n in given.items()}
    return sieve(args.files, kind, out=args.out, reasons=args.reasons, inputs=inputs, judge=judge)


def _texts(record: Any, kind: Kind) -> list[str]:
    if not isinstance(record, Example):
        return [kind.text(record)]
    thought = [record.thought.text] if record.thought else []
    return [record.query.text, *thought, *(document.full_text for document in record.positives)]


def _test_texts(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for query in open_queries(args.test_queries, args.split):
        yield f"query {query.query_id}", query.text
    if not args.test_qrels:
        return
    relevant = {q.doc_id for q in open_qrels(args.test_qrels, args.split) if q.relevance > 0}
    for document in open_documents(args.test_corpus or args.test_queries):
        if document.doc_id in relevant:
            yield f"document {document.doc_id}", document.full_text
