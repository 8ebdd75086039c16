"""How ballots are counted, on the command line."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import Any

import msgspec

from o1_records import InputError
from o1_records.kit.command import reads
from o1_vote.settings import SUFFIX
from o1_vote.tally import RULES, Counting


def declare(command: ArgumentParser, *, recount: bool = False) -> None:
    """Add the rule and its terms; with `recount` those of the election hold where none are given."""
    default = Counting()
    add = command.add_argument
    add(
        "--rule",
        choices=RULES,
        default=None if recount else default.rule,
        help="how ballots are counted; borda is mean-rank",
    )
    add(
        "--abstain",
        action=BooleanOptionalAction,
        default=None if recount else default.abstain,
        help="whether the query without a thought may be elected too",
    )
    add(
        "--margin",
        type=float,
        default=None if recount else default.margin,
        help="points that a thought must be above the query alone",
    )
    add("--least-agreement", type=float, help="no thought where Krippendorff's alpha is lower")
    reads(command, "--weights", once=True, help="JSON of weights by member, as `calibrate` writes it")
    if recount:
        command.epilog = "What is not given is as in the election, whose settings are beside the ballots."


def declare_recount(command: ArgumentParser) -> None:
    """Add the files of an election that is counted again, and how."""
    reads(
        command,
        "--ballots",
        required=True,
        once=True,
        beside=[SUFFIX],
        help="JSONL of ballots that elect wrote",
    )
    reads(command, "--thoughts", required=True, once=True, help="JSONL of thoughts")
    reads(command, "--queries", required=True, once=True, help="JSONL of queries, or a BEIR folder")
    declare(command, recount=True)


def given(args: Namespace) -> dict[str, Any]:
    """Return the fields of `Counting` that were given; those that were not are None where it is a recount."""
    weights = _weights(args.weights) if args.weights else None
    names = ("rule", "abstain", "margin", "least_agreement")
    return {**{name: getattr(args, name) for name in names}, "weights": weights}


def counting(args: Namespace) -> Counting:
    """Return how ballots are counted."""
    return Counting(**{name: value for name, value in given(args).items() if value is not None})


def _weights(path: Path) -> dict[str, float]:
    try:
        weights = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f'{path}: {error}; it should be {{"MEMBER": 1.0, ...}}') from error
    return weights
