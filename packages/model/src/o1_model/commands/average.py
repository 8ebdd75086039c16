"""`o1-model average`: one checkpoint out of several, by the mean of their weights."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace

from o1_records import InputError
from o1_records.kit.command import EVERYTHING, reads, writes


def declare(command: ArgumentParser) -> None:
    """Add the checkpoints, their weights and the new one."""
    reads(
        command,
        "checkpoints",
        inside=EVERYTHING,
        nargs="+",
        type=str,
        help="folders or hub ids of checkpoints that began as the same model; its lengths and prompts are "
        "those of the first",
    )
    command.add_argument(
        "--weights",
        nargs="+",
        type=float,
        default=[],
        help="one for each, divided by their sum; else equal",
    )
    writes(command, "--out", folder=True, required=True, help="the folder of the new checkpoint")


def run(args: Namespace) -> int:
    """Average and save, whole or not at all."""
    if args.out.exists():
        raise InputError(f"{args.out} exists; choose another --out, or remove it")
    from o1_model.average import average

    mean = average(args.checkpoints, weights=args.weights)
    partial = args.out.with_name(f"{args.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    mean.save_pretrained(partial)
    partial.rename(args.out)
    print(f"{args.out}: the mean of {len(args.checkpoints)} checkpoints")
    return 0
