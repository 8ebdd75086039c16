"""Options that the steps of remix share, and what they make."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from o1_records import InputError
from o1_synth.asking import Sampling
from o1_synth.commands.options import declare_expert, judgements, model_expert
from o1_synth.remix.documents import ExpertOf
from o1_synth.remix.domain import Domain, read_domain


def declare_corpus(command: argparse.ArgumentParser) -> None:
    """The documents."""
    command.add_argument(
        "--corpus", required=True, type=Path, help="JSONL of Document records, or a BEIR folder"
    )


def declare_banned(command: argparse.ArgumentParser) -> None:
    """Documents that are never used."""
    command.add_argument(
        "--never",
        type=Path,
        action="append",
        default=[],
        metavar="QRELS",
        help="documents of these qrels (a file, or all splits of a BEIR folder) are not used; repeatable",
    )


def declare_domain(command: argparse.ArgumentParser) -> None:
    """What the documents and queries are about."""
    command.add_argument("--domains", type=Path, metavar="TOML", help="a table for each domain")
    command.add_argument("--domain", metavar="NAME", help="the table of --domains to take")


def declare_model(command: argparse.ArgumentParser, template: str, sampling: Sampling) -> None:
    """Which model is asked, with which template and sampling by default."""
    declare_expert(command)
    add = command.add_argument
    add("--template", default=template, help=f"a file in the place of {template} (see the README)")
    add("--temperature", type=float, default=sampling.temperature)
    add("--top-p", type=float, default=sampling.top_p)
    add("--max-tokens", type=int, default=sampling.max_tokens, help="of an answer")
    add("--seed", type=int, default=sampling.seed)
    add("--redraws", type=int, default=2, help="draws more of an answer that is of no use (default 2)")


def expert_of(args: argparse.Namespace) -> ExpertOf:
    """What makes the expert, once its prompt is known."""
    sampling = Sampling(
        temperature=args.temperature, top_p=args.top_p, max_tokens=args.max_tokens, seed=args.seed
    )
    return partial(model_expert, args, sampling=sampling)


def domain_of(args: argparse.Namespace) -> Domain | None:
    """The domain, where one is named."""
    if args.domains is None and args.domain is None:
        return None
    if args.domains is None or args.domain is None:
        raise InputError("--domains and --domain go together: the file, and the table in it")
    return read_domain(args.domains, args.domain)


def banned_of(args: argparse.Namespace) -> frozenset[str]:
    """The documents of `--never`, whatever their relevance."""
    return frozenset(qrel.doc_id for path in args.never for qrel in judgements(path, None))


def inputs_of(args: argparse.Namespace, *names: str) -> dict[str, Path]:
    """The files that a step reads, by option: these, and those of the options that steps share."""
    shared = [name for name in ("domains", "template") if getattr(args, name, None)]
    given = {f"--{name}": Path(path) for name in (*names, *shared) if (path := getattr(args, name))}
    return {**given, **{f"--never {path}": path for path in getattr(args, "never", ())}}
