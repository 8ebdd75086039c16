"""Options that several commands share."""

from __future__ import annotations

import argparse

from o1_model.think import Thinking


def model(command: argparse.ArgumentParser) -> None:
    """Which checkpoint, and where it runs."""
    command.add_argument("--model", required=True, help="folder of a checkpoint")
    command.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")


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
