"""Options that several commands share."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from o1_model.thinking.settings import Thinking
from o1_records.kit.command import EVERYTHING, reads

if TYPE_CHECKING:
    from o1_model.embedder import Embedder


def checkpoint(command: ArgumentParser) -> None:
    """Add which checkpoint."""
    name = "folder or hub id of a checkpoint"
    reads(command, "--model", inside=EVERYTHING, type=str, required=True, help=name)
    command.add_argument("--revision", help="of a hub id")


def model(command: ArgumentParser) -> None:
    """Add which checkpoint to load, where and how."""
    checkpoint(command)
    command.add_argument(
        "--layout", choices=("reference", "instruct"), help="of a checkpoint that this package did not save"
    )
    reads(command, "--base", inside=EVERYTHING, type=str, help="where an adapter's base model is now")
    command.add_argument("--device", help="cpu, cuda, cuda:1; by default cuda if there is one")
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the weights and the computation",
    )


def loading(args: Namespace) -> dict[str, Any]:
    """Return the arguments of `Embedder.from_pretrained` beside the model's name."""
    import torch

    return {
        "revision": args.revision,
        "layout": args.layout,
        "base": args.base,
        "device": args.device,
        "dtype": getattr(torch, args.dtype),
    }


def load(args: Namespace) -> Embedder:
    """Load the checkpoint that the options name."""
    from o1_model.embedder import Embedder

    return Embedder.from_pretrained(args.model, **loading(args))


def queries(command: ArgumentParser) -> None:
    """Add which queries to read."""
    reads(command, "--queries", required=True, help="BEIR folder or JSONL of Query records")
    command.add_argument("--split", help="of a BEIR folder, only the queries this split judges")


def thinking(command: ArgumentParser) -> None:
    """Add how to think."""
    add = command.add_argument
    add("--samples", type=int, default=Thinking.samples, help="thoughts a query")
    add("--max-tokens", type=int, default=Thinking.max_tokens, help="of a thought; the layout may keep fewer")
    add("--temperature", type=float, default=Thinking.temperature, help="of the sampling; 0 is greedy")
    add("--top-p", type=float, default=Thinking.top_p, help="probability mass of the nucleus")
    add("--seed", type=int, default=Thinking.seed, help="of the sampling")


def thinking_of(args: Namespace) -> Thinking:
    """Return how to think."""
    return Thinking(
        samples=args.samples,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
    )
