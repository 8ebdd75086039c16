"""Options of the commands that ask a language model, and what they make."""

from __future__ import annotations

import argparse
import math
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from o1_records import Example, InputError, Qrel, Query, open_documents, open_qrels, read_jsonl
from o1_synth.asking import Prompting, Sampling
from o1_synth.chat import ChatExpert
from o1_synth.checks import NAMES, Checks
from o1_synth.engine import VLLMExpert
from o1_synth.expert import Expert
from o1_synth.generate import Job
from o1_synth.local import LocalExpert
from o1_synth.post import Retry
from o1_synth.prompt import TASK, Prompt, read_template
from o1_synth.throttle import Throttle
from o1_synth.watch import Prices


def declare_expert(command: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Which model writes, and the limits it is asked within; returns the group of the experts."""
    experts = command.add_mutually_exclusive_group(required=True)
    experts.add_argument("--base-url", help="an OpenAI-compatible server, http://127.0.0.1:8000/v1")
    experts.add_argument("--vllm", metavar="MODEL", help="a model that vLLM runs in this process")
    experts.add_argument("--transformers", metavar="MODEL", help="a small model in this process")
    add = command.add_argument
    add("--vllm-options", type=_settings, default={}, metavar="JSON", help="'{\"max_model_len\": 8192}', ...")
    add("--model", help="the model to ask for at --base-url")
    add("--concurrency", type=int, default=64, help="requests at a time (default 64)")
    add("--timeout", type=float, default=Retry.timeout, help="seconds per attempt (default 300)")
    add("--stall", type=float, default=Retry.stall, help="seconds without a token (default 60)")
    add("--attempts", type=int, default=Retry.attempts, help="attempts per request (default 5)")
    add("--patience", type=float, default=Retry.patience, help="seconds to go on after 429 and 503 (120)")
    add("--requests-per-minute", type=float, default=math.inf)
    add("--tokens-per-minute", type=float, default=math.inf, help="of prompts and answers")
    add("--n-per-request", type=int, default=1, help="samples per request, without prefix caching")
    add("--no-stream", action="store_true", help="for servers that cannot stream")
    add("--deadline", type=float, help="seconds for the whole run; what is left then is listed")
    add("--new-job", action="store_true", help="move a job of another model, prompt or sampling aside")
    add("--price-prompt", type=float, default=0.0, help="of a million prompt tokens, to show the cost")
    add("--price-completion", type=float, default=0.0, help="of a million written tokens")
    return experts


def declare_prompt(command: argparse.ArgumentParser) -> None:
    """What is asked about a query, and how the answer is drawn."""
    add = command.add_argument
    add("--template", default="paper", help="paper, reason, keywords, or a file with {query} in it")
    add("--task", default=TASK, help="what {task} stands for (default: the paper's sentence)")
    add("--exemplars", type=Path, help="JSONL of Example records to draw exemplars from")
    add("--exemplar-count", type=int, default=3, help="exemplars per prompt (default 3)")
    add("--exemplar-tokens", type=int, help="of all exemplars of a prompt, at most (estimated)")
    add("--qrels", type=Path, help="more positives that no exemplar may show: BEIR, TREC or JSONL")
    add("--corpus", type=Path, help="with --qrels: a thought that copies a positive is refused")
    add("--temperature", type=float, default=Sampling.temperature)
    add("--top-p", type=float, default=Sampling.top_p)
    add("--max-tokens", type=int, help=f"of a thought (default {Sampling.max_tokens}; keywords: 32)")
    add("--seed", type=int, default=Sampling.seed)


def declare_checks(command: argparse.ArgumentParser) -> None:
    """What a thought has to pass."""
    default = ",".join(Checks.names)
    command.add_argument(
        "--checks", default=default, help=f"of {', '.join(NAMES)}, or none (default: {default})"
    )
    command.add_argument("--redraws", type=int, default=2, help="draws more of what failed a check (2)")


def model_expert(args: argparse.Namespace, prompt: Prompting, sampling: Sampling) -> Expert:
    """The expert that the options of `declare_expert` name."""
    if args.vllm is not None:
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # not where data goes
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


def model_job(args: argparse.Namespace, stop: threading.Event, checks: Checks | None) -> Job:
    """How a job of that expert is worked on."""
    return Job(
        checks=checks,
        redraws=args.redraws,
        n_per_request=args.n_per_request,
        deadline=args.deadline,
        stop=stop,
        new_job=args.new_job,
        prices=Prices(prompt=args.price_prompt, completion=args.price_completion),
    )


def checks(args: argparse.Namespace) -> Checks | None:
    """The checks that were named; the passages that no thought may copy."""
    names = () if args.checks == "none" else tuple(name for name in args.checks.split(",") if name)
    return Checks(names=names, passages=_passages(args))


def judgements(path: Path, split: str | None) -> Iterator[Qrel]:
    """Judgements of a file or of a BEIR folder: of all its splits where none is named."""
    if split is not None or not path.is_dir():
        return open_qrels(path, split or "")
    files = sorted((path / "qrels").glob("*.tsv"))
    if not files:
        raise InputError(f"{path}: holds no qrels/*.tsv")
    return (qrel for file in files for qrel in open_qrels(file))


def prompt_of(args: argparse.Namespace) -> Prompt:
    """The prompt that the options of `declare_prompt` describe."""
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
    """How they say the answer is drawn."""
    short = 32 if args.template == "keywords" else Sampling.max_tokens
    return Sampling(
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens or short,
        seed=args.seed,
    )


def _settings(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object: {error}") from error


def _passages(args: argparse.Namespace) -> Callable[[Query], Iterable[str]]:
    """The texts of a query's positives, as far as exemplars, qrels and corpus tell them."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for example in read_jsonl(args.exemplars, Example) if args.exemplars else ():
        texts[example.query.query_id] += [document.full_text for document in example.positives]
    if args.qrels and args.corpus:
        asking: defaultdict[str, list[str]] = defaultdict(list)
        for qrel in judgements(args.qrels, args.split):
            if qrel.relevance > 0:
                asking[qrel.doc_id].append(qrel.query_id)
        for document in open_documents(args.corpus):
            for query_id in asking.get(document.doc_id, ()):
                texts[query_id].append(document.full_text)
    return lambda query: texts.get(query.query_id, ())
