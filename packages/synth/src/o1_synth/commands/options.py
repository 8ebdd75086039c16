"""The options that several commands share, what is made of them, and how a command reports its end."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from o1_records import Example, InputError, Qrel, open_documents, open_qrels, read_jsonl
from o1_records.kit.command import EVERYTHING, new_job, reads
from o1_synth.chat.expert import ChatExpert
from o1_synth.chat.http import Retry
from o1_synth.chat.throttle import Throttle
from o1_synth.checks import NAMES, Checks, positives_of
from o1_synth.engine import VLLMExpert
from o1_synth.expert import Expert, ExpertOf, Sampling
from o1_synth.job.scheduler import Job, Summary
from o1_synth.job.watch import Prices
from o1_synth.local import LocalExpert
from o1_synth.prompt import TASK, Prompt, Prompting, read_template
from o1_synth.remix.domain import Domain, read_domain

_OF_A_SERVER = (
    ("--timeout", float, Retry.timeout, "seconds for an attempt"),
    ("--stall", float, Retry.stall, "seconds that a stream may bring no token, once it brought one"),
    ("--attempts", int, Retry.attempts, "attempts for a request"),
    ("--patience", float, Retry.patience, "seconds to go on after 429 and 503, whatever --attempts says"),
    ("--requests-per-minute", float, math.inf, "never send more requests"),
    ("--tokens-per-minute", float, math.inf, "never use more tokens, of prompts and answers together"),
)


# --- which model --------------------------------------------------------------------------------------


def declare_model(command: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Add the options that say which model writes, within which limits; return the group of the models."""
    models = command.add_mutually_exclusive_group(required=True)
    models.add_argument("--base-url", help="an OpenAI-compatible server, such as http://127.0.0.1:8000/v1")
    for flag, purpose in (
        ("--vllm", "a model that vLLM runs in this process: a folder, or an id of the hub"),
        ("--transformers", "a small model that transformers runs in this process"),
    ):
        reads(models, flag, metavar="MODEL", type=str, inside=EVERYTHING, help=purpose)
    add, engine = command.add_argument, "engine arguments of vLLM, such as '{\"max_model_len\": 8192}'"
    add("--vllm-options", type=_settings, default={}, metavar="JSON", help=engine)
    add("--model", help="with --base-url: the name of the model there")
    for flag, kind, default, purpose in _OF_A_SERVER:
        add(flag, type=kind, default=default, help=f"with --base-url: {purpose}")
    add("--no-stream", action="store_true", help="with --base-url: for servers that cannot stream")
    add("--concurrency", type=int, default=64, help="requests in flight at most")
    add("--n-per-request", type=int, default=1, help="samples in a request, where prompts are not cached")
    add("--deadline", type=float, help="seconds for the whole run; what is left then is listed as failed")
    add("--price-prompt", type=float, default=0.0, help="price of a million prompt tokens, to show the cost")
    add("--price-completion", type=float, default=0.0, help="price of a million completion tokens")
    new_job(command)
    return models


def model_expert(args: argparse.Namespace, prompt: Prompting, sampling: Sampling) -> Expert:
    """Return the expert that the options of `declare_model` name."""
    if args.base_url is None:
        flags = ("--model", "--no-stream", *(flag for flag, *_ in _OF_A_SERVER))
        refuse_without_effect(args, flags, "without --base-url")
    if args.vllm is None:
        refuse_without_effect(args, ["--vllm-options"], "without --vllm")
    if args.vllm is not None:
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for data
        return VLLMExpert(args.vllm, prompt=prompt, sampling=sampling, **args.vllm_options)
    if args.transformers is not None:
        return LocalExpert(args.transformers, prompt=prompt, sampling=sampling)
    if args.model is None:
        raise InputError("--base-url needs --model")
    return ChatExpert(
        args.base_url,
        args.model,
        prompt=prompt,
        sampling=sampling,
        retry=Retry(timeout=args.timeout, attempts=args.attempts, stall=args.stall, patience=args.patience),
        throttle=Throttle(args.requests_per_minute, args.tokens_per_minute),
        stream=not args.no_stream,
    )


def model_job(args: argparse.Namespace, stop: threading.Event, checks: Checks | None = None) -> Job:
    """Return how the job of that expert is run."""
    return Job(
        checks=checks,
        redraws=args.redraws,
        n_per_request=args.n_per_request,
        deadline=args.deadline,
        stop=stop,
        new_job=args.new_job,
        prices=Prices(prompt=args.price_prompt, completion=args.price_completion),
    )


def remember_defaults(command: argparse.ArgumentParser) -> None:
    """Keep the defaults of the options declared so far, by flag, for `refuse_without_effect`."""
    options = {flag: action for action in command._actions for flag in action.option_strings}
    command.set_defaults(defaults={flag: (action.dest, action.default) for flag, action in options.items()})


def refuse_without_effect(args: argparse.Namespace, flags: Iterable[str], why: str) -> None:
    """Raise InputError where an option has another value than its default and would not be used."""
    for flag in flags:
        name, default = args.defaults[flag]
        if getattr(args, name, default) != default:
            raise InputError(f"{flag} has no effect {why}; leave it out")


def _settings(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object: {error}") from error


# --- the prompt and the checks of think ---------------------------------------------------------------


def declare_prompt(command: argparse.ArgumentParser) -> None:
    """Add the options that say what is asked about a query, and how the model samples."""
    add = command.add_argument
    declare_template(command, "paper", "paper, reason, keywords, or a file with {query} in it")
    add("--task", default=TASK, help="the sentence that stands for {task}")
    reads(command, "--exemplars", help="JSONL of Example records to draw exemplars from")
    add("--exemplar-count", type=int, default=3, help="exemplars in a prompt")
    add("--exemplar-tokens", type=int, help="tokens of all exemplars of a prompt at most (estimated)")
    reads(command, "--qrels", help="more positives that no exemplar may show: BEIR, TREC or JSONL")
    reads(command, "--corpus", once=True, help="with --qrels: refuse thoughts that copy a positive from here")
    declare_sampling(command, Sampling(), default_tokens=None)


def declare_template(command: argparse.ArgumentParser, default: str, purpose: str) -> None:
    """Add `--template`, the name of a prompt or a file."""
    files = lambda name: [name] if Path(name).suffix else []  # noqa: E731
    reads(command, "--template", type=str, default=default, once=True, paths=files, help=purpose)


def declare_sampling(
    command: argparse.ArgumentParser, sampling: Sampling, default_tokens: int | None
) -> None:
    """Add the options that say how the model samples."""
    add = command.add_argument
    add("--temperature", type=float, default=sampling.temperature, help="0: always the most likely token")
    add("--top-p", type=float, default=sampling.top_p, help="sample from this much of the probability")
    unless = "" if default_tokens else f" ({Sampling.max_tokens}; with --template keywords 32)"
    add("--max-tokens", type=int, default=default_tokens, help=f"tokens of an answer at most{unless}")
    add("--seed", type=int, default=sampling.seed, help="what the seed of each request is derived from")
    add("--redraws", type=int, default=Job.redraws, help="draw what fails a check so many times again")


def declare_checks(command: argparse.ArgumentParser) -> None:
    """Add `--checks`, what a thought has to pass."""
    known = f"of {', '.join(NAMES)}, separated by commas; or none"
    command.add_argument("--checks", default=",".join(Checks.names), help=known)


def prompt_of(args: argparse.Namespace) -> Prompt:
    """Return the prompt that the options of `declare_prompt` describe."""
    if args.exemplars is None:
        refuse_without_effect(args, ["--exemplar-count", "--exemplar-tokens"], "without --exemplars")
        if args.corpus is None:
            refuse_without_effect(args, ["--qrels"], "without --exemplars or --corpus")
    return Prompt(
        args.task,
        examples=read_jsonl(args.exemplars, Example) if args.exemplars else (),
        qrels=judgements(args.qrels, args.split) if args.qrels else (),
        exemplar_count=args.exemplar_count,
        exemplar_tokens=args.exemplar_tokens,
        template=read_template(args.template),
        seed=args.seed,
    )


def sampling_of(args: argparse.Namespace) -> Sampling:
    """Return the sampling that the options of `declare_sampling` describe."""
    short = 32 if args.template == "keywords" else Sampling.max_tokens
    return Sampling(
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=short if args.max_tokens is None else args.max_tokens,
        seed=args.seed,
    )


def checks_of(args: argparse.Namespace) -> Checks:
    """Return the checks that were named, with the passages that no thought may copy."""
    if args.qrels is None:
        refuse_without_effect(args, ["--corpus"], "without --qrels, which say what is a positive")
    names = () if args.checks == "none" else tuple(name for name in args.checks.split(",") if name)
    passages = positives_of(
        read_jsonl(args.exemplars, Example) if args.exemplars else (),
        judgements(args.qrels, args.split) if args.corpus else (),
        open_documents(args.corpus) if args.corpus else (),
    )
    return Checks(names=names, passages=passages)


def judgements(path: Path, split: str | None = None) -> Iterator[Qrel]:
    """Yield the judgements of a file or of a BEIR folder; of a folder, all splits unless one is named."""
    if split is not None or not path.is_dir():
        return open_qrels(path, split or "")
    files = sorted((path / "qrels").glob("*.tsv"))
    if not files:
        raise InputError(f"{path}: there is no qrels/*.tsv in it")
    return (qrel for file in files for qrel in open_qrels(file))


# --- the steps of remix -------------------------------------------------------------------------------


def declare_step(command: argparse.ArgumentParser, template: str, sampling: Sampling) -> None:
    """Add the options that the steps of remix share: domain, model, prompt and sampling."""
    reads(command, "--domains", metavar="TOML", once=True, help="a file with a table for each domain")
    command.add_argument("--domain", metavar="NAME", help="the table of --domains to take")
    declare_model(command)
    declare_template(command, template, "another prompt: a file (the README lists the markers)")
    declare_sampling(command, sampling, sampling.max_tokens)
    remember_defaults(command)


def declare_never(command: argparse.ArgumentParser) -> None:
    """Add `--never`, documents that are not used."""
    reads(
        command,
        "--never",
        action="append",
        default=[],
        metavar="QRELS",
        once=True,
        help="leave out the documents of these qrels (a file, or all splits of a BEIR folder); repeatable",
    )


def banned_by(paths: Iterable[Path]) -> frozenset[str]:
    """Return the documents of `--never`, whatever their relevance."""
    return frozenset(qrel.doc_id for path in paths for qrel in judgements(path))


def step_expert(args: argparse.Namespace) -> ExpertOf:
    """Return what makes the expert of a step, once its prompt is known."""
    return partial(model_expert, args, sampling=sampling_of(args))


def domain_of(args: argparse.Namespace) -> Domain | None:
    """Return the domain, where one is named."""
    if args.domains is None and args.domain is None:
        return None
    if args.domains is None or args.domain is None:
        raise InputError("--domains and --domain go together: the file, and the name of a table in it")
    return read_domain(args.domains, args.domain)


# --- the end ------------------------------------------------------------------------------------------


def report(summary: Summary, did: str, out: Path, typed: Sequence[str]) -> int:
    """Print what was done, what was not and how to go on to stderr; return 0 (done) or 3 (partly done)."""
    report_moved(summary.moved)
    said = f"{did} in {out}"
    if summary.interrupted:
        said = f"interrupted: {summary.thoughts} answers about {summary.queries} inputs so far, in {out}.job"
    if summary.exhausted:
        said += f"; {summary.exhausted} samples exhausted"
    if summary.failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.failures.items())
        listed = "" if summary.interrupted else f", listed in {summary.failures_path}"
        said += f"; {summary.failed} failed ({reasons}){listed}; to ask for them again:\n"
        said += f"  o1-synth {shlex.join(typed)}"
    print(said, file=sys.stderr)
    return 3 if summary.failed else 0


def report_moved(moved: Sequence[Path]) -> None:
    """Print where earlier work was moved to."""
    if moved:
        print(f"earlier work was moved to {', '.join(map(str, moved))}", file=sys.stderr)
