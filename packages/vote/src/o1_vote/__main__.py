"""The `o1-vote` command: elect a thought for each query by a committee of retrievers."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import o1_vote
from o1_records import (
    Document,
    InputError,
    Thought,
    open_documents,
    open_qrels,
    open_queries,
    quoted,
    read_jsonl,
    run_command,
    write_jsonl,
)
from o1_vote import rerun
from o1_vote.ballot import (
    Measure,
    Nomination,
    Reason,
    nominate,
    query_thought_similarity,
    thought_similarity,
)
from o1_vote.bm25 import LANGUAGES, BM25Member
from o1_vote.curate import conclude, poll, refuse_like_named
from o1_vote.dense import SentenceTransformerMember
from o1_vote.paths import files_of, refuse_one_file_twice
from o1_vote.retriever import Retriever
from o1_vote.static import StaticMember
from o1_vote.tally import Winners, majority, mean_rank

Corpus = Sequence[Document]
Options = argparse.Namespace

RULES: dict[str, Callable[..., Winners]] = {"majority": majority, "mean-rank": mean_rank}
MEASURES: dict[str, Measure] = {
    "thought": thought_similarity,
    "query-thought": query_thought_similarity,
}


def _bm25(name: str, argument: str, corpus: Corpus, options: Options) -> Retriever:
    split, language = options.split_identifiers, options.language
    return BM25Member(corpus, name=name, language=language, split_identifiers=split)


def _static(name: str, argument: str, corpus: Corpus, options: Options) -> Retriever:
    return StaticMember(corpus, name=name)


def _dense(name: str, argument: str, corpus: Corpus, options: Options) -> Retriever:
    return SentenceTransformerMember(
        argument,
        corpus,
        name=name,
        device=options.device,
        batch=options.batch,
        max_length=options.max_length,
    )


MEMBERS = {"bm25": _bm25, "static": _static, "st": _dense}
OUTPUTS = ("out", "ballots", "reasons")
PACKAGES = {"bm25": "bm25s", "static": "wordllama", "st": "sentence-transformers"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    refuse_like_named(name for name, _, _ in options.member)
    inputs = _inputs(options)
    refuse_one_file_twice(inputs, {name: getattr(options, name) for name in OUTPUTS})
    outputs = [path for name in OUTPUTS if (path := getattr(options, name))]
    made_from = _made_from(options, inputs)
    if rerun.is_up_to_date(options.out, made_from, outputs):
        print(f"{options.out}: up to date", file=sys.stderr)
        return 0
    _elect(options)
    rerun.remember(options.out, made_from, outputs)
    return 0


def _elect(options: Options) -> None:
    corpus = list(open_documents(options.corpus))
    nominations, reasons = _nominations(options, corpus)
    members = [MEMBERS[kind](name, what, corpus, options) for name, kind, what in options.member]
    ballots = poll(nominations, members, measure=MEASURES[options.measure], progress=True)
    winners = RULES[options.rule](ballots, abstain=options.abstain)
    if options.reasons:
        write_jsonl(options.reasons, reasons)
        print(f"{options.reasons}: {len(reasons)} queries left out", file=sys.stderr)
    if options.ballots:
        write_jsonl(options.ballots, ballots)
    examples = write_jsonl(options.out, conclude(nominations, winners))
    elected = sum(winner is not None for winner in winners.values())
    print(f"{options.out}: {examples} examples, {elected} with a thought", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-vote", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_vote.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    elect = commands.add_parser(
        "elect",
        help="elect a thought for each query and write training examples",
    )
    add = elect.add_argument
    add("--thoughts", required=True, help="JSONL of thoughts")
    add("--queries", required=True, help="JSONL of queries, or a BEIR folder")
    add("--corpus", required=True, help="JSONL of documents, or a BEIR folder")
    add("--qrels", required=True, help="JSONL, TREC or BEIR .tsv qrels, or a BEIR folder")
    add("--split", default="train", help="of BEIR folders: whose queries and qrels")
    add(
        "--member",
        required=True,
        action="append",
        type=_member_spec,
        metavar="[NAME=]bm25|static|st:MODEL",
        help="a member of the committee (repeat); MODEL is a folder or a hub id",
    )
    add("--rule", choices=RULES, default="majority")
    add("--measure", choices=MEASURES, default="thought", help="what is compared with positives")
    add("--abstain", action="store_true", help="let the query without a thought be elected too")
    add("--out", required=True, type=Path, help="JSONL of examples to write")
    add("--ballots", type=Path, help="JSONL of ballots to write")
    add("--reasons", type=Path, help="JSONL of queries without a positive, left out of the election")
    add("--split-identifiers", action="store_true", help="bm25: split snake_case and camelCase")
    add("--language", choices=LANGUAGES, default="english", help="bm25: stemmer and stop words")
    add("--device", help="st: cpu, cuda, cuda:1, ... (default: the best there is)")
    add("--batch", type=_positive, default=32, help="st: texts a batch")
    add("--max-length", type=_positive, help="st: tokens a text (default: the model's own)")
    return parser


def _nominations(options: Options, corpus: Corpus) -> tuple[list[Nomination], list[Reason]]:
    nominations, reasons = nominate(
        open_queries(options.queries, options.split),
        read_jsonl(options.thoughts, Thought),
        open_qrels(options.qrels, options.split),
        corpus,
    )
    if reasons and not options.reasons:
        raise InputError(
            f"{len(reasons)} queries have no positive document, the first is "
            f"{quoted(reasons[0].query_id)}; to leave them out and list them give --reasons FILE"
        )
    return nominations, reasons


def _member_spec(text: str) -> tuple[str, str, str]:
    """Split `[NAME=]KIND[:ARGUMENT]`; the whole text is the name where none is given."""
    head, equals, tail = text.partition("=")
    name, spec = (head, tail) if equals and ":" not in head else (text, text)
    kind, _, argument = spec.partition(":")
    if not name or kind not in MEMBERS or bool(argument) != (kind == "st"):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is none of bm25, static, st:MODEL, NAME=st:MODEL")
    return name, kind, argument


def _inputs(options: Options) -> dict[str, list[Path]]:
    """The files that each option reads; of a BEIR folder those inside."""
    qrels = f"qrels/{options.split}.tsv"
    inside = {
        "thoughts": [],
        "queries": ["queries.jsonl", qrels],
        "corpus": ["corpus.jsonl"],
        "qrels": [qrels],
    }
    return {name: files_of(getattr(options, name), names) for name, names in inside.items()}


def _made_from(options: Options, inputs: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """Everything that the outputs depend on; a changed input, model or version shows."""
    made_from = {name: str(value) for name, value in vars(options).items()}
    for name, files in inputs.items():
        made_from[f"{name} sha256"] = rerun.digest_of(files)
    made_from["version"] = o1_vote.__version__
    for name, kind, argument in options.member:
        made_from[f"member {name}"] = _version(PACKAGES[kind])
        if argument and Path(argument).is_dir():
            made_from[f"member {name} sha256"] = rerun.digest_of([Path(argument)])
    return made_from


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
