"""The options that several commands share, what is made of them, and how a command reports its end."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from o1_records import (
    Example,
    InputError,
    Qrel,
    Thought,
    open_documents,
    open_qrels,
    open_queries,
    read_jsonl,
)
from o1_records.files import is_folder
from o1_records.kit.cluster import cluster_of, declare_cluster
from o1_records.kit.command import EVERYTHING, at_least, new_job, reads, writes
from o1_records.styles import DOCUMENT_STYLES, QUERY_STYLES
from o1_synth.chat.batch import BatchExpert
from o1_synth.chat.expert import ChatExpert
from o1_synth.chat.http import Retry
from o1_synth.chat.request import Request
from o1_synth.chat.throttle import Throttle
from o1_synth.checks import Checking, Checks, Passages
from o1_synth.engine import VLLMExpert
from o1_synth.expert import UNANSWERED, ExpertOn, ModelExpert, Reason, Sampling
from o1_synth.job.scheduler import Job, Previewed, Summary
from o1_synth.job.watch import Prices
from o1_synth.local import LocalExpert
from o1_synth.prompt import TASK, Prompt, Prompting, examples_of
from o1_synth.remix.domain import Domain, read_domain
from o1_synth.template import ABOUT_QUERIES, Kind, Template, read_template

_OF_A_SERVER = (
    ("--timeout", float, Retry.timeout, "seconds for an attempt"),
    (
        "--stall",
        float,
        Retry.stall,
        "give up a stream that brings no token for so many seconds after its first",
    ),
    ("--attempts", int, Retry.attempts, "attempts for a request"),
    (
        "--patience",
        float,
        Retry.patience,
        "seconds to go on with a server that is overloaded or away, whatever --attempts says",
    ),
    ("--requests-per-minute", float, math.inf, "never send more requests to a server"),
    (
        "--tokens-per-minute",
        float,
        math.inf,
        "never use more tokens of a server, prompts and answers alike",
    ),
)


# --- which model --------------------------------------------------------------------------------------


def declare_model(command: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Add the options that say which model writes, within which limits; return the group of the models."""
    models = command.add_mutually_exclusive_group(required=True)
    models.add_argument(
        "--base-url",
        action="append",
        help="an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; repeatable",
    )
    for flag, purpose in (
        ("--vllm", "a model that vLLM runs in this process: a folder, or an id of the hub"),
        ("--transformers", "a small model that transformers runs in this process"),
    ):
        reads(models, flag, metavar="MODEL", type=str, inside=EVERYTHING, help=purpose)
    writes(
        models,
        "--batch",
        folder=True,
        metavar="FOLDER",
        help="a batch API: write requests into this folder, read the results that are put there, run again",
    )
    command.add_argument(
        "--retry-failed",
        action="store_true",
        help="with --batch: write requests again that were refused, or whose result cannot be read",
    )
    add, engine = command.add_argument, "engine arguments of vLLM, such as '{\"max_model_len\": 8192}'"
    add("--vllm-options", type=_settings, default={}, metavar="JSON", help=engine)
    add("--model", help="with --base-url or --batch: the name of the model there")
    for flag, kind, default, purpose in _OF_A_SERVER:
        add(flag, type=kind, default=default, help=f"with --base-url: {purpose}")
    add("--no-stream", action="store_true", help="with --base-url: for servers that cannot stream")
    add(
        "--header",
        action="append",
        type=_header,
        default=[],
        metavar="NAME:VALUE",
        help="with --base-url: a header of all requests; VALUE env:X: read from the environment; repeatable",
    )
    add(
        "--omit",
        type=_names,
        default=(),
        metavar="FIELDS",
        help="fields to leave out of requests: seed,top_p",
    )
    add(
        "--rename",
        action="append",
        type=_renamed,
        default=[],
        metavar="FIELD=NAME",
        help="with --base-url or --batch: another name for a field, such as max_tokens=max_completion_tokens",
    )
    add(
        "--extra-body",
        type=_settings,
        default={},
        metavar="JSON",
        help="with --base-url or --batch: further fields of every request, such as '{\"top_k\": 40}'",
    )
    add(
        "--chat-template-kwargs",
        type=_settings,
        default={},
        metavar="JSON",
        help="for the model's chat template, such as '{\"enable_thinking\": false}'",
    )
    add(
        "--prefill",
        action="store_true",
        help="with --base-url or --batch: the server continues a message of the assistant (vLLM, SGLang), so "
        "begin the answer as the template says",
    )
    add("--concurrency", type=int, default=64, help="requests in flight at most")
    add("--n-per-request", type=int, default=1, help="samples in a request, where prompts are not cached")
    add("--deadline", type=float, help="seconds for the whole run; what is left then is listed as failed")
    add(
        "--give-up", type=int, default=Job.give_up, help="end after so many equal failures in a row; 0: never"
    )
    add("--price-prompt", type=float, default=0.0, help="price of a million prompt tokens, to show the cost")
    add("--price-completion", type=float, default=0.0, help="price of a million completion tokens")
    add("--preview", type=at_least(0), default=0, help="print so many prompts and answers, and write nothing")
    new_job(command)
    declare_cluster(command)
    return models


def model_expert(args: argparse.Namespace, prompt: Prompting, sampling: Sampling) -> ModelExpert:
    """Return the expert that the options of `declare_model` name."""
    if args.base_url is None:
        flags = ("--no-stream", "--header", *(flag for flag, *_ in _OF_A_SERVER))
        refuse_without_effect(args, flags, "without --base-url")
    if args.base_url is None and args.batch is None:
        flags = ("--model", "--rename", "--extra-body", "--prefill")
        refuse_without_effect(args, flags, "without --base-url or --batch")
    if args.batch is None:
        refuse_without_effect(args, ["--retry-failed"], "without --batch")
    if args.vllm is None:
        refuse_without_effect(args, ["--vllm-options"], "without --vllm")
    if args.prefill and not prompt.template.prefix:
        raise InputError(
            "--prefill has no effect: the template does not say how an answer begins; leave it out"
        )
    kwargs = args.chat_template_kwargs
    if args.vllm is not None:
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for data
        return VLLMExpert(
            args.vllm,
            prompt=prompt,
            sampling=sampling,
            chat_template_kwargs=kwargs,
            omit=args.omit,
            **args.vllm_options,
        )
    if args.transformers is not None:
        refuse_without_effect(args, ["--omit"], "with --transformers")
        return LocalExpert(args.transformers, prompt=prompt, sampling=sampling, chat_template_kwargs=kwargs)
    if args.model is None:
        raise InputError(f"{'--batch' if args.batch else '--base-url'} needs --model")
    request = Request(
        omit=args.omit,
        rename=dict(args.rename),
        extra=args.extra_body,
        chat_template_kwargs=kwargs,
        continues=args.prefill,
    )
    if args.batch is not None:
        return BatchExpert(
            args.batch,
            args.model,
            prompt=prompt,
            sampling=sampling,
            request=request,
            retry_failed=args.retry_failed,
        )
    return ChatExpert(
        args.base_url,
        args.model,
        prompt=prompt,
        sampling=sampling,
        retry=Retry(timeout=args.timeout, attempts=args.attempts, stall=args.stall, patience=args.patience),
        throttle=Throttle(args.requests_per_minute, args.tokens_per_minute),
        stream=not args.no_stream,
        request=request,
        headers=dict(args.header),
    )


def model_job(args: argparse.Namespace, stop: threading.Event, checks: Checking[Any] | None = None) -> Job:
    """Return how the job of that expert is run."""
    return Job(
        checks=checks,
        redraws=args.redraws,
        n_per_request=args.n_per_request,
        deadline=args.deadline,
        give_up=args.give_up,
        stop=stop,
        new_job=args.new_job,
        prices=Prices(prompt=args.price_prompt, completion=args.price_completion),
        cluster=cluster_of(args, "o1-synth"),
        preview=args.preview,
        show=show,
    )


def show(previewed: Previewed) -> None:
    """Print one sample that was asked for to be looked at."""
    print(f"=== {previewed.key} sample {previewed.sample}")
    for message in previewed.messages:
        print(f"--- {message['role']}\n{message['content']}")
    outcome = previewed.outcome
    if isinstance(outcome, Thought):
        source = outcome.source
        print(f"--- answer ({source.finish_reason}, {source.completion_tokens} tokens)\n{outcome.text}")
    else:
        print(f"--- no answer: {outcome.reason}\n{outcome.detail}")


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


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _renamed(text: str) -> tuple[str, str]:
    field, _, name = text.partition("=")
    if not field or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=NAME")
    return field, name


def _header(text: str) -> tuple[str, str]:
    name, _, value = (part.strip() for part in text.partition(":"))
    if value.startswith("env:"):
        variable = value.removeprefix("env:")
        value = os.environ.get(variable, "")
        if not value:
            raise argparse.ArgumentTypeError(f"the environment variable {variable} is not set")
    if not name or not value or not (name + value).isascii() or not value.isprintable():
        raise argparse.ArgumentTypeError("a header is NAME:VALUE, in printable ASCII")
    return name, value


# --- the prompt and the checks of think ---------------------------------------------------------------


def declare_prompt(command: argparse.ArgumentParser) -> None:
    """Add the options that say what is asked about a query, and how the model samples."""
    add = command.add_argument
    queries = f"about queries paper (the default), o1, reason, {', '.join(QUERY_STYLES)}"
    documents = f"about documents {', '.join(DOCUMENT_STYLES)}"
    declare_template(command, None, f"{queries}; {documents}; or a file of your own")
    add("--task", default=TASK, help="the sentence that stands for {task}")
    reads(
        command,
        "--exemplars",
        help="where exemplars are drawn from: JSONL of Example records, or a BEIR folder with a train split",
    )
    add("--exemplar-count", type=int, default=3, help="exemplars in a prompt")
    add("--exemplar-tokens", type=int, help="tokens of all exemplars of a prompt at most (estimated)")
    add("--exemplar-seed", type=int, default=0, help="of the draw of exemplars")
    reads(command, "--qrels", help="more positives that no exemplar may show: BEIR, TREC or JSONL")
    declare_sampling(command, Sampling(), default_tokens=None)


def declare_template(command: argparse.ArgumentParser, default: str | None, purpose: str) -> None:
    """Add `--template`, the name of a prompt or a file, and what replaces parts of it."""
    files = lambda name: [name] if Path(name).suffix else []  # noqa: E731
    reads(command, "--template", type=str, default=default, once=True, paths=files, help=purpose)
    command.add_argument(
        "--system", help="the message of the system, in the place of the template's; '' for none"
    )
    command.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="where an answer ends (\\n: a line break), not where the template says; '': nowhere; repeatable",
    )


def template_of(args: argparse.Namespace, kind: Kind, default: str = "") -> Template:
    """Return the template that the options of `declare_template` describe."""
    template = read_template(args.template or default, kind)
    changed: dict[str, Any] = {}
    if args.system is not None:
        changed["system"] = args.system
    if args.stop is not None:
        changed["stop"] = tuple(text.replace("\\n", "\n") for text in args.stop if text)
    return msgspec.structs.replace(template, **changed)


def declare_sampling(
    command: argparse.ArgumentParser, sampling: Sampling, default_tokens: int | None
) -> None:
    """Add the options that say how the model samples."""
    add = command.add_argument
    add("--temperature", type=float, default=sampling.temperature, help="0: always the most likely token")
    add(
        "--top-p",
        type=float,
        default=sampling.top_p,
        help="sample from the most likely tokens that make up this probability",
    )
    unless = "" if default_tokens else f"; if not given, as the template says, else {Sampling.max_tokens}"
    add("--max-tokens", type=int, default=default_tokens, help=f"tokens of an answer at most{unless}")
    add(
        "--seed",
        type=int,
        default=sampling.seed,
        help="what the seed of each request is derived from; it may change within a job",
    )
    add(
        "--redraws",
        type=int,
        default=Job.redraws,
        help="how often a run draws again what failed a check",
    )


def declare_checks(command: argparse.ArgumentParser, names: Sequence[str], chosen: Sequence[str]) -> None:
    """Add `--checks`, what an answer has to pass; `chosen` are the defaults."""
    known = (
        f"of {', '.join(names)}, with commas between, or none; +refusal adds it to the default; if they "
        "change, finished work is checked again"
    )
    command.add_argument("--checks", default=",".join(chosen), help=known)


def names_of(checks: str, chosen: Sequence[str]) -> tuple[str, ...]:
    """Return the names in a value of `--checks`; those that `+` comes before are added to the `chosen`."""
    if checks == "none":
        return ()
    names = _names(checks)
    added = [name.removeprefix("+") for name in names if name.startswith("+")]
    if not added:
        return names
    if len(added) < len(names):
        raise InputError(f"--checks {checks}: + adds to the default; give it to every name, or to none")
    return (*chosen, *(name for name in added if name not in chosen))


def prompt_of(args: argparse.Namespace) -> Prompt:
    """Return the prompt that the options of `declare_prompt` describe."""
    if args.exemplars is None:
        flags = ["--exemplar-count", "--exemplar-tokens", "--exemplar-seed"]
        refuse_without_effect(args, flags, "without --exemplars")
        if args.corpus is None:
            refuse_without_effect(args, ["--qrels"], "without --exemplars or --corpus")
    known = [judgements(args.qrels, args.split)] if args.qrels else []
    if args.exemplars is not None and is_folder(args.exemplars):
        known.append(judgements(args.exemplars))  # of all splits: what no query may be shown
    return Prompt(
        args.task,
        examples=exemplars_of(args.exemplars),
        qrels=chain.from_iterable(known),
        exemplar_count=args.exemplar_count,
        exemplar_tokens=args.exemplar_tokens,
        template=template_of(args, ABOUT_QUERIES, "paper"),
        seed=args.exemplar_seed,
    )


def exemplars_of(path: Path | None) -> Iterator[Example]:
    """Yield the examples of `--exemplars`: records, or the train split of a BEIR folder."""
    if path is None:
        return iter(())
    if not is_folder(path):
        return read_jsonl(path, Example)
    return examples_of(open_queries(path, "train"), open_qrels(path, "train"), open_documents(path))


def sampling_of(args: argparse.Namespace, template: Template | None = None) -> Sampling:
    """Return the sampling that the options of `declare_sampling` describe."""
    tokens = args.max_tokens or (template and template.max_tokens) or Sampling.max_tokens
    return Sampling(temperature=args.temperature, top_p=args.top_p, max_tokens=tokens, seed=args.seed)


def checks_of(args: argparse.Namespace, prompt: Prompt) -> Checks:
    """Return the checks that were named, with the texts that no thought may copy."""
    if args.qrels is None:
        refuse_without_effect(args, ["--corpus"], "without --qrels, which say what is a positive")
    passages = Passages(
        exemplars_of(args.exemplars),
        judgements(args.qrels, args.split) if args.corpus else (),
        open_documents(args.corpus) if args.corpus else (),
    )
    names = names_of(args.checks, Checks.names)
    return Checks(names=names, passages=passages, prompt=prompt)


def judgements(path: Path, split: str | None = None) -> Iterator[Qrel]:
    """Yield the judgements of a file or of a BEIR folder; of a folder, all splits unless one is named."""
    if split is not None or not is_folder(path):
        return open_qrels(path, split or "")
    files = sorted((path / "qrels").glob("*.tsv"))
    if not files:
        raise InputError(f"{path}: there is no qrels/*.tsv in it")
    return (qrel for file in files for qrel in open_qrels(file))


# --- the steps of remix -------------------------------------------------------------------------------


def declare_step(command: argparse.ArgumentParser, template: str, sampling: Sampling) -> None:
    """Add the options that the steps of remix share: domain, model, prompt and sampling."""
    reads(
        command,
        "--domains",
        metavar="TOML",
        once=True,
        help="a file with a table for each domain, in the place of the tables of BRIGHT's",
    )
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


class StepExpert:
    """Makes the expert of a step, once its prompt is known; `last` is the one that it made."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.last: ExpertOn[Any] | None = None

    def __call__(self, *, prompt: Prompting) -> ExpertOn[Any]:
        """Return the expert that the options name."""
        sampling = sampling_of(self._args, prompt.template)
        self.last = model_expert(self._args, prompt, sampling)
        return self.last


def domain_of(args: argparse.Namespace) -> Domain | None:
    """Return the domain, where one is named."""
    if args.domain is None:
        refuse_without_effect(args, ["--domains"], "without --domain, the name of a table in it")
        return None
    return read_domain(args.domains, args.domain)


# --- the end ------------------------------------------------------------------------------------------


def report(summary: Summary, did: str, out: Path, typed: Sequence[str], expert: object = None) -> int:
    """Print what was done, what was not and how to go on to stderr; return 0 (done) or 3 (partly done)."""
    report_moved(summary.moved)
    if summary.withdrawn or summary.restored:
        print(
            f"the checks changed: {summary.withdrawn} thoughts fail them now and are asked for again, "
            f"{summary.restored} texts pass now",
            file=sys.stderr,
        )
    said = f"{did} in {out}"
    if summary.interrupted:
        said = f"interrupted: {summary.thoughts} answers about {summary.queries} inputs so far, in {out}.job"
    if summary.exhausted:
        said += f"; {summary.exhausted} samples exhausted"
    pending = summary.failures.get(Reason.PENDING, 0)
    if summary.failed - pending:
        listed = "" if summary.interrupted else f", listed in {summary.failures_path}"
        said += f"; {summary.failed - pending} failed ({_reasons(summary)}){listed}"
    if isinstance(expert, BatchExpert) and expert.failed:
        said += f"; {len(expert.failed)} requests of the batch are written again with --retry-failed only"
    if pending:
        files = ", ".join(map(str, expert.written)) if isinstance(expert, BatchExpert) else ""
        said += f"; {pending} wait for the results of a batch"
        said += f"; send {files} and put the results beside it" if files else ""
    if summary.failed:
        said += f"; to ask for what is missing, or read what came:\n  o1-synth {shlex.join(typed)}"
    spent = summary.spent
    if spent.requests:
        counts = f"{spent.requests} requests, {spent.prompt_tokens} + {spent.completion_tokens} tokens"
        unknown = f" (of {spent.uncounted} answers the server did not count them)" if spent.uncounted else ""
        print(f"in all runs: {counts}{unknown}", file=sys.stderr)
    print(said, file=sys.stderr)
    return 3 if summary.failed else 0


def _reasons(summary: Summary) -> str:
    """Return the counts of failures, each with what was said about one of them."""
    told = []
    for reason, count in summary.failures.items():
        example = summary.examples.get(reason, "")
        example = f", such as {example[:200]}" if example and reason in UNANSWERED else ""
        if reason != Reason.PENDING:
            told.append(f"{count} {reason}{example}")
    return "; ".join(told) if any("such as" in text for text in told) else ", ".join(told)


def report_moved(moved: Sequence[Path]) -> None:
    """Print where earlier work was moved to."""
    if moved:
        print(f"earlier work was moved to {', '.join(map(str, moved))}", file=sys.stderr)
