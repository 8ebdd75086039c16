"""`o1-vote decontaminate`: remove what overlaps with test queries and their relevant documents."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from o1_records import Example, InputError, open_documents, open_qrels, open_queries, quoted
from o1_records.command import at_least
from o1_vote.commands import kinds
from o1_vote.commands.kinds import KINDS, Kind, Removal
from o1_vote.commands.sieve import refuse_overwriting, sieve
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
    if args.test_corpus and not args.test_qrels:
        raise InputError("--test-corpus needs --test-qrels, which say what of it is relevant; give both")
    refuse_overwriting(args, _inputs(args))
    kind = KINDS[args.type]
    holdout = Holdout(_test_texts(args), ngram=args.ngram, contained=args.contained, near=args.near)

    def judge(file: str, record: Any) -> Removal | None:
        found = [overlap for text in _texts(record, kind) if (overlap := holdout.overlap(text))]
        if not found:
            return None
        worst = max(found, key=lambda overlap: overlap.share)
        name = kind.name(record)
        return Removal(file=file, name=name, reason=worst.kind, like=worst.name, share=worst.share)

    return sieve(args.files, kind, out=args.out, reasons=args.reasons, judge=judge)


def _inputs(args: argparse.Namespace) -> dict[str, list[Path]]:
    """What is read of the test set, by option; the folder of its queries may be that of its corpus."""
    qrels = f"qrels/{args.split}.tsv"
    inside = {
        "test-queries": (args.test_queries, ["queries.jsonl", qrels, "corpus.jsonl"]),
        "test-corpus": (args.test_corpus, ["corpus.jsonl"]),
        "test-qrels": (args.test_qrels, [qrels]),
    }
    return {name: files_of(place, names) for name, (place, names) in inside.items() if place}


def _texts(record: Any, kind: Kind) -> list[str]:
    if not isinstance(record, Example):
        return [kind.text(record)]
    thought = [record.thought.text] if record.thought else []
    return [record.query.text, *thought, *(document.full_text for document in record.positives)]


def _test_texts(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The texts by name. Raises InputError where one is missing: it would be found in no training text."""
    queries = list(open_queries(args.test_queries, args.split))
    if not queries:
        raise InputError(f"{args.test_queries}: has no test query, so nothing could be found; give another")
    yield from ((f"query {query.query_id}", query.text) for query in queries)
    if args.test_qrels:
        yield from _relevant_texts(args)


def _relevant_texts(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    corpus = args.test_corpus or args.test_queries
    relevant = {q.doc_id for q in open_qrels(args.test_qrels, args.split) if q.relevance > 0}
    if not relevant:
        raise InputError(f"{args.test_qrels}: judges no document relevant; leave --test-qrels out")
    missing = set(relevant)
    for document in open_documents(corpus):
        if document.doc_id in relevant:
            missing.discard(document.doc_id)
            yield f"document {document.doc_id}", document.full_text
    if missing:
        raise InputError(
            f"{corpus}: lacks {len(missing)} of the {len(relevant)} relevant documents of {args.test_qrels}, "
            f"the first is {quoted(min(missing))}; give the corpus that has them as --test-corpus"
        )
