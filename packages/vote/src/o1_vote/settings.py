"""How an election was counted and of what: a file beside its ballots, so that nobody recounts them otherwise.

```
BALLOTS                   what every member measured
BALLOTS.settings.json     the measure, the rule and its terms, the members, the inputs; the sha256 of BALLOTS
```
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from o1_records import InputError, atomic_write, sha256_file
from o1_records.files import is_file
from o1_vote.tally import RULES, Counting

SUFFIX = ".settings.json"


class Outcome(msgspec.Struct, frozen=True):
    """How often a control would have won as the only thought of its query, with the tolerance and without."""

    queries: int
    won: int
    without: int


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How an election was held.

    Attributes:
        ballots_sha256: of the file of ballots that this belongs to.
        version: of o1-vote.
        measure: what a ballot says.
        counting: how ballots were counted, the tolerance of each member included.
        controls: how often thoughts without content would have won; empty where they were not measured by
            every member.
        members: what each member is, by name and in words.
        inputs: the files, where they are known, by what they are.
        relevance: the lowest grade of a positive.
    """

    ballots_sha256: str = ""
    version: str = ""
    measure: str
    counting: Counting
    controls: dict[str, Outcome] = {}
    members: dict[str, dict[str, str]] = {}
    inputs: dict[str, str] = {}
    relevance: int = 1


def beside(ballots: str | Path) -> Path:
    """Return the file of the settings of ballots."""
    return Path(f"{ballots}{SUFFIX}")


def write_settings(ballots: str | Path, settings: Settings) -> None:
    """Write the settings beside the file of ballots that they belong to."""
    bound = msgspec.structs.replace(settings, ballots_sha256=sha256_file(ballots))
    with atomic_write(beside(ballots)) as file:
        file.write(msgspec.json.format(msgspec.json.encode(bound), indent=1) + b"\n")


def read_settings(ballots: str | Path) -> Settings | None:
    """Return the settings beside a file of ballots, or None.

    Raises InputError where they belong to other ballots, or cannot be read.
    """
    path = beside(ballots)
    if not path.is_file() or not is_file(ballots):
        return None
    try:
        settings = msgspec.json.decode(path.read_bytes(), type=Settings)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f"{path}: {error}; remove it to count with the options given") from error
    if settings.ballots_sha256 != sha256_file(ballots):
        raise InputError(
            f"{path}: belongs to other ballots than {ballots} holds now; "
            "remove it to count with the options given"
        )
    return settings


def recounted(settings: Settings | None, **given: object) -> tuple[Counting, str]:
    """Return how to count, and a sentence about it: as the election did, but for what is not None here.

    A margin is in points of a rule and needs abstention, so that of the election is left out where the
    rule has other points, and without abstention.
    """
    told = {name: value for name, value in given.items() if value is not None}
    base = settings.counting if settings else Counting()
    without = ""
    if base.margin and "margin" not in told:
        if not told.get("abstain", True):
            without = "; its margin has no effect without abstention and is left out"
        elif RULES.get(str(told.get("rule", base.rule))) is not RULES[base.rule]:
            without = f"; its margin is in points of {base.rule} and is left out"
        base = dataclasses.replace(base, margin=0.0) if without else base
    counting = dataclasses.replace(base, **told)  # type: ignore[arg-type]
    if settings is None:
        return counting, f"counted by {counting}; nothing beside the ballots says how the election counted"
    if counting != settings.counting:
        return counting, f"counted by {counting}; the election counted by {settings.counting}{without}"
    return counting, f"counted by {counting}, as in the election"
