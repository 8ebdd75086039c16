"""Options that several commands share."""

from __future__ import annotations

import argparse

import torch

from o1_model.embedder import Embedder
from o1_model.think import Thinking


def model(command: argparse.ArgumentParser) -> None:
    """Which checkpoint, and where and how it runs."""
    command.add_argument("--model", required=True, help="folder or hub id of a checkpoint")
    command.add_argument("--revision", help="of a hub id")
    command.add_argument(
        "--layout", choices=("reference", "instruct"), help="of a checkpoint that this package did not save"
    )
    command.add_argument("--base", help="where an adapter's base model is now")
    command.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")


def load(args: argparse.Namespace, device: str | None = None) -> Embedder:
    """The checkpoint that the options name, on `device` or the one they say."""
    return Embedder.from_pretrained(
        args.model,
        revision=args.revision,
        layout=args.layout,
        base=args.base,
        device=device or args.device,
        dtype=getattr(torch, args.dtype),
    )


def thinking(command: argparse.ArgumentParser) -> None:
    """How to think."""
    command.add_argument("--samples", type=int, default=3)
    command.add_argument("--max-tokens", type=int, default=64, help="the layout may keep fewer")
    command.add_argument("--temperature", type=float, default=0.7)
    command.add_argument("--top-p", type=float, default=0.9)
    command.add_argument("--seed", type=int, default=0)


def thinking_of(args: argparse.Namespace) -> Thinking:
    """The same as a value."""
    return Thinking(
        samples=args.samples,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
    )
