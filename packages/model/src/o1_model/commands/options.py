"""Options that several commands share."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from o1_model.thinking.settings import Thinking
from o1_records import InputError
from o1_records.kit.command import EVERYTHING, at_least, between, reads, writes
from o1_records.kit.http import is_address

if TYPE_CHECKING:
    from o1_model.embedder import Embedder
    from o1_model.retriever.retriever import ThinkingRetriever
    from o1_model.thinking.engines import Engine

DTYPES = ("float32", "bfloat16", "float16", "auto")
READINGS = ("joint", "query", "document")
LAYOUT_SETTINGS = ("query_length", "thought_length", "document_length", "instruction")


def checkpoint(command: ArgumentParser, what: str = "a checkpoint") -> None:
    """Add which model."""
    reads(
        command, "--model", inside=EVERYTHING, type=str, required=True, help=f"{what}; a folder or a hub id"
    )
    command.add_argument("--revision", help="revision of the model, if it is a hub id")


def model(command: ArgumentParser, what: str = "a checkpoint") -> None:
    """Add which model to load, where and how."""
    checkpoint(command, what)
    command.add_argument(
        "--layout", choices=("reference", "instruct"), help="of a checkpoint that this package did not save"
    )
    reads(command, "--base", inside=EVERYTHING, type=str, help="where an adapter's base model is now")
    command.add_argument("--device", help="cpu, cuda, cuda:1; by default cuda if there is one")
    command.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the weights and the computation; auto is the checkpoint's own",
    )
    command.add_argument("--attn-implementation", help="transformers': sdpa, eager, flash_attention_2")
    command.add_argument(
        "--load-in-4bit", action="store_true", help="hold the weights in 4 bits (bitsandbytes)"
    )
    command.add_argument(
        "--gguf-file", help="in the checkpoint's folder: has the weights, as llama.cpp has them"
    )
    command.add_argument("--query-length", type=at_least(1), help="tokens of a query that are read")
    command.add_argument("--thought-length", type=at_least(1), help="tokens of a thought that are read")
    command.add_argument("--document-length", type=at_least(1), help="tokens of a document that are read")
    command.add_argument("--instruction", help="for queries without one of their own")


def loading(args: Namespace) -> dict[str, Any]:
    """Return the arguments of `Embedder.from_pretrained` beside the model's name."""
    how = {name: getattr(args, name) for name in ("revision", "layout", "base", "device", "dtype")}
    optional = ("attn_implementation", "gguf_file", *LAYOUT_SETTINGS)
    how |= {name: value for name in optional if (value := getattr(args, name)) is not None}
    if args.load_in_4bit:
        from o1_model.checkpoint.lora import nf4

        how["quantization"] = nf4()
    return how


def elsewhere(args: Namespace) -> dict[str, Any]:
    """Return what of `loading` is for models of others, which may run on a server.

    Raises InputError for what only a checkpoint of this package has, and for any of it with a server.
    """
    how = {name: value for name, value in loading(args).items() if value is not None}
    settings = {name for name in how if name in ("layout", *LAYOUT_SETTINGS)}
    if "base" in how and not has_adapter(args.model):
        settings.add("base")
    if is_address(args.model):
        settings |= {name for name in how if (name, how[name]) != ("dtype", "float32")}
        how.pop("dtype")
    if how.get("gguf_file"):
        raise InputError(
            f"{args.model}: a .gguf file of an instruct model is its --model; leave out --gguf-file"
        )
    if settings:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(settings))
        raise InputError(f"{args.model}: {flags} is for a checkpoint of this package; leave it out")
    return how


def has_adapter(model: str) -> bool:
    """Return whether a folder holds the adapter of an instruct model."""
    from o1_model.retriever.trained import is_tuned

    return is_tuned(Path(model))


def load(args: Namespace) -> Embedder:
    """Load the checkpoint that the options name."""
    from o1_model.embedder import Embedder

    return Embedder.from_pretrained(args.model, **loading(args))


def queries(command: ArgumentParser, group: Any = None) -> None:
    """Add which queries to read; `group` if something else may be read in their place."""
    about = "BEIR folder, its queries.jsonl, or JSONL of Query records"
    if group is None:
        reads(command, "--queries", required=True, help=about)
    else:
        reads(group, "--queries", help=about)
    command.add_argument("--split", help="of a BEIR folder, only the queries this split judges")


def thinking(command: ArgumentParser) -> None:
    """Add how to think."""
    add = command.add_argument
    usual = Thinking()  # a checkpoint's; the style of an instruct model has its own
    add("--samples", type=int, help=f"thoughts per query; of a checkpoint {usual.samples}, else 1")
    add("--max-tokens", type=int, help=f"most tokens of a thought; of a checkpoint {usual.max_tokens}")
    add("--temperature", type=float, help=f"0 is greedy; of a checkpoint {usual.temperature}, else 0")
    add("--top-p", type=float, help=f"probability mass of the nucleus; {usual.top_p} unless given")
    add("--seed", type=int, help=f"seed of the sampling; {usual.seed} unless given")


HOW = ("samples", "max_tokens", "temperature", "top_p", "seed")


def mixture(command: ArgumentParser, group: Any) -> None:
    """Add who else may think, and how thoughts are mixed into queries."""
    reads(
        group,
        "--thinker",
        inside=EVERYTHING,
        type=str,
        help="let another model write the thoughts: an instruct model, a .gguf file, http://HOST/v1#NAME",
    )
    command.add_argument("--style", help="what the thinker is asked for: snippet, passage, ...")
    command.add_argument(
        "--weight",
        type=between(0, 1),
        help="mix thoughts in: (1 - weight) * v_q + weight * mean of thoughts; by default as trained",
    )
    command.add_argument(
        "--reading",
        choices=READINGS,
        help="how a thought that is mixed in is read; by default as trained",
    )
    reads(command, "--calibration", once=True, help="mix thoughts in as this file of `calibrate` says")


def mixes(args: Namespace) -> bool:
    """Return whether a ThinkingRetriever is needed: thoughts are mixed in, or the model is another one's."""
    from o1_model.jobs import is_checkpoint

    mixing = (args.thinker, args.weight, args.reading, args.calibration)
    return any(value is not None for value in mixing) or not is_checkpoint(args.model, loading(args))


def retriever(args: Namespace) -> ThinkingRetriever:
    """Open the retriever that the options name; with `--think` the checkpoint is its own thinker."""
    from o1_model.jobs import is_checkpoint
    from o1_model.retriever.calibration import load_calibration
    from o1_model.retriever.embedders import open_embedder, usual_mixture
    from o1_model.retriever.retriever import ThinkingRetriever

    ours = is_checkpoint(args.model, loading(args))
    if args.think and not ours:
        raise InputError(f"{args.model} does not think; give --thinker")
    if args.calibration and (args.weight is not None or args.reading):
        raise InputError("--calibration has a weight and a reading; leave out --weight and --reading")
    if args.style and not args.thinker:
        raise InputError("--style is for --thinker; give them together")
    model: Any = load(args) if ours else open_embedder(args.model, **elsewhere(args))
    given = {name: value for name in ("weight", "reading") if (value := getattr(args, name)) is not None}
    thinker = model if args.think else args.thinker
    usual = usual_mixture(open_embedder(model))
    trained = ours and model.mixture is not None and len(given) < 2 and not args.calibration
    if trained and (thinker is not None or getattr(args, "queries", None)):
        kept = {"weight": f"the weight {usual.weight:g}", "reading": f"the reading {usual.reading}"}
        said = " and ".join(words for name, words in kept.items() if name not in given)
        print(f"thoughts are mixed in with {said} that {model.name} was trained with", file=sys.stderr)
    return ThinkingRetriever(
        model,
        thinker,
        style=args.style,
        thinking=given_thinking(args),
        mixture=None if args.calibration else replace(usual, **given),
        document_weight=None if args.calibration else args.weight,
        calibration=None if args.calibration is None else load_calibration(args.calibration),
        device=args.device if args.thinker is not None else None,
    )


def thinking_of(args: Namespace) -> Thinking:
    """Return how a checkpoint thinks; what is not given is as Thinking has it."""
    return Thinking(**given_thinking(args))


def given_thinking(args: Namespace) -> dict[str, Any]:
    """Return what is given of how to think."""
    return {name: value for name in HOW if (value := getattr(args, name)) is not None}


def refuse_idle_thinking(args: Namespace) -> None:
    """Raise InputError for settings of thinking where nothing thinks."""
    if given_thinking(args) and not (args.think or args.thinker):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given_thinking(args))
        raise InputError(f"{flags}: for --think or --thinker; give one, or leave it out")


def engine(command: ArgumentParser) -> None:
    """Add what writes the thoughts in the model's place, and where they are kept."""
    group = command.add_mutually_exclusive_group()
    group.add_argument("--vllm", action="store_true", help="let vLLM in this process write them")
    group.add_argument("--base-url", help="let an OpenAI-compatible server with this checkpoint write them")
    command.add_argument("--served-name", help="what the checkpoint is called at --base-url, if not --model")
    writes(
        command,
        "--cache",
        beside=("-wal", "-shm"),
        help="keep thoughts and their vectors in this file, for other runs too",
    )


def engine_of(args: Namespace) -> Engine | None:
    """Return what writes the thoughts in the model's place, if anything does."""
    from o1_model.thinking.engines import VLLM, CompletionServer
    from o1_records.kit.models import model_folder

    if args.served_name and not args.base_url:
        raise InputError("--served-name is for --base-url; give them together")
    if args.vllm:
        return VLLM(model_folder(args.model, args.revision))
    return CompletionServer(args.base_url, args.served_name or args.model) if args.base_url else None
