"""How ballots are counted, on the command line."""

from __future__ import annotations

import math
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path

import msgspec

from o1_records import InputError
from o1_records.kit.command import reads
from o1_vote import tally
from o1_vote.tally import Points, Terms

RULES: dict[str, Points] = {
    "majority": tally.first_places,
    "mean-rank": tally.borda_points,
    "borda": tally.borda_points,
    "rrf": tally.reciprocal_points,
    "z-scores": tally.standard_scores,
    "softmax-sum": tally.softmax,
}


def declare(command: ArgumentParser) -> None:
    """Add the rule and its terms."""
    add = command.add_argument
    add(
        "--rule",
        choices=RULES,
        default="mean-rank",
        help="how ballots are counted; borda is mean-rank",
    )
    add(
        "--abstain",
        action=BooleanOptionalAction,
        default=True,
        help="whether the query without a thought may be elected too",
    )
    add("--margin", type=float, default=0.0, help="points that a thought must be above the query alone")
    add("--least-agreement", type=float, help="no thought where Krippendorff's alpha is lower")
    reads(command, "--weights", once=True, help="JSON of weights by member, as `calibrate` writes it")


def terms_of(args: Namespace) -> Terms:
    """Return the terms of the rule."""
    for name in ("margin", "least_agreement"):
        value = getattr(args, name)
        if value is not None and not math.isfinite(value):
            raise InputError(f"--{name.replace('_', '-')} must be a finite number, got {value}")
    if args.margin and not args.abstain:
        raise InputError("--margin has no effect with --no-abstain; leave one of them out")
    terms = Terms(abstain=args.abstain, margin=args.margin)
    if args.least_agreement is not None:
        terms["least_agreement"] = args.least_agreement
    if args.weights:
        terms["weights"] = _weights(args.weights)
    return terms


def _weights(path: Path) -> dict[str, float]:
    try:
        weights = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f'{path}: {error}; it should be {{"MEMBER": 1.0, ...}}') from error
    if bad := {name: weight for name, weight in weights.items() if not weight >= 0}:
        raise InputError(f"{path}: weights must be 0 or more, got {bad}")
    if not any(weights.values()):
        raise InputError(f"{path}: no weight is above 0, so no vote would count")
    return weights
