"""The `o1-synth` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import o1_synth
from o1_records import (
    Example,
    InputError,
    Qrel,
    Thought,
    open_qrels,
    open_queries,
    read_jsonl,
    run_command,
)
from o1_synth.chat import ChatExpert, Retry, Sampling
from o1_synth.docstring import DocstringExpert
from o1_synth.expert import Expert
from o1_synth.generate import Summary, path_of_failures, think
from o1_synth.prompt import TASK, Prompt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.base_url is not None and args.model is None:
        parser.error("--base-url needs --model")
    _refuse_overwriting(args)
    summary = think(
        open_queries(args.queries, args.split),
        _expert(args),
        out=args.out,
        samples=args.samples,
        concurrency=args.concurrency,
        progress=True,
    )
    print(_told(summary, args.out), file=sys.stderr)
    return 3 if summary.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-synth", description=o1_synth.__doc__)
    parser.add_argument("--version", action="version", version=o1_synth.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("think", help="write several thoughts about each query")
    add = command.add_argument
    add("--queries", required=True, type=Path, help="JSONL of Query records, or a BEIR folder")
    add("--split", help="of BEIR folders: whose queries and qrels (default: all)")
    add("--out", required=True, type=Path, help="JSONL of Thought records; the same command resumes it")
    expert = command.add_mutually_exclusive_group(required=True)
    expert.add_argument("--base-url", help="an OpenAI-compatible server, http://127.0.0.1:8000/v1")
    expert.add_argument("--docstrings", type=Path, help="JSONL of human-written Thought records to pick from")
    add("--model", help="the model to ask for at --base-url")
    add("--samples", type=int, default=3, help="thoughts per query (default 3)")
    add("--task", default=TASK, help="the prompt's first sentence (default: the paper's)")
    add("--exemplars", type=Path, help="JSONL of Example records to draw exemplars from")
    add("--exemplar-count", type=int, default=3, help="exemplars per prompt (default 3)")
    add("--qrels", type=Path, help="more positives that no exemplar may show: BEIR, TREC or JSONL")
    add("--temperature", type=float, default=Sampling.temperature)
    add("--top-p", type=float, default=Sampling.top_p)
    add("--max-tokens", type=int, default=Sampling.max_tokens)
    add("--seed", type=int, default=Sampling.seed)
    add("--concurrency", type=int, default=64, help="requests at a time (default 64)")
    add("--timeout", type=float, default=Retry.timeout, help="seconds per attempt (default 300)")
    add("--attempts", type=int, default=Retry.attempts, help="attempts per sample (default 5)")
    return parser


def _expert(args: argparse.Namespace) -> Expert:
    if args.docstrings is not None:
        return DocstringExpert.of_records(read_jsonl(args.docstrings, Thought))
    prompt = Prompt(
        args.task,
        examples=read_jsonl(args.exemplars, Example) if args.exemplars else (),
        qrels=_judgements(args.qrels, args.split) if args.qrels else (),
        exemplar_count=args.exemplar_count,
        seed=args.seed,
    )
    sampling = Sampling(
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        seed=args.seed,
    )
    retry = Retry(timeout=args.timeout, attempts=args.attempts)
    return ChatExpert(args.base_url, args.model, prompt=prompt, sampling=sampling, retry=retry)


def _judgements(path: Path, split: str | None) -> Iterator[Qrel]:
    """Judgements of a file or of a BEIR folder: of all its splits where none is named."""
    if split is not None or not path.is_dir():
        return open_qrels(path, split or "")
    files = _splits(path)
    if not files:
        raise InputError(f"{path}: holds no qrels/*.tsv")
    return (qrel for file in files for qrel in open_qrels(file))


def _splits(folder: Path) -> list[Path]:
    return sorted((folder / "qrels").glob("*.tsv"))


def _refuse_overwriting(args: argparse.Namespace) -> None:
    """Raise InputError where the output, or the list of failures beside it, is an input too."""
    written = {args.out.resolve(), path_of_failures(args.out).resolve()}
    for option in ("queries", "docstrings", "exemplars", "qrels"):
        path = getattr(args, option)
        if path is None:
            continue
        read = [path / "queries.jsonl", *_splits(path)] if path.is_dir() else [path]
        for file in read:
            if file.resolve() in written:
                raise InputError(
                    f"--out {args.out} would write over {file} of --{option}; choose another --out"
                )


def _told(summary: Summary, out: Path) -> str:
    told = f"{summary.thoughts} thoughts about {summary.queries} queries in {out}"
    if summary.exhausted:
        told += f"; {summary.exhausted} samples exhausted"
    if summary.failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.failures.items())
        told += (
            f"; {summary.failed} failed ({reasons}), listed in {summary.failures_path}; "
            "run the same command again to ask for them again"
        )
    return told


if __name__ == "__main__":
    sys.exit(main())
