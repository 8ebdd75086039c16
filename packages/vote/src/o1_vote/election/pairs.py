"""Preference pairs of thoughts, as TRL's trainers read them: what a committee prefers, and what it does not.

A row is `{"prompt": ..., "chosen": ..., "rejected": ...}`: texts, or with `chat` lists of messages.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from o1_records import InputError, Query, Thought, open_queries, quoted, read_jsonl
from o1_records.files import open_output
from o1_records.kit.job import Database
from o1_vote.members.scores import sheets_by_query
from o1_vote.settings import read_settings, recounted
from o1_vote.tally import Verdict, refuse_weights_of_nobody

REJECTED = ("worst", "all", "random")
"""Which thoughts of a query are rejected: the one with the fewest points, each, or one by the query's id."""

_SCHEMA = """
CREATE TABLE query (query_id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE thought (
    query_id TEXT, thought_id TEXT, body BLOB NOT NULL, PRIMARY KEY (query_id, thought_id)) WITHOUT ROWID;
"""


class Paired(NamedTuple):
    """How many pairs were written, how many queries have none and why, and how the ballots were counted."""

    pairs: int
    abstained: int
    level: int
    told: str


def preferred(
    verdict: Verdict, *, rejected: str = "worst", gap: float = 0.0, name: str = ""
) -> list[tuple[str, str]]:
    """Return pairs of thought_ids, (chosen, rejected), of one query.

    The winner of the election is chosen; where that is no thought, there is no pair. A thought is rejected
    only where it has fewer points, by `gap` or more. Ties go to the smaller thought_id. Raises InputError for
    a `rejected` that is none of `REJECTED`. `name`, the query's, decides what is drawn at random.
    """
    if rejected not in REJECTED:
        raise InputError(f"rejected must be one of {', '.join(REJECTED)}, got {quoted(rejected)}")
    winner = verdict.winner
    if winner is None:
        return []
    most = verdict.points[winner]
    others = {
        own: points
        for own, points in verdict.points.items()
        if own is not None and points < most and most - points >= gap
    }
    ordered = sorted(others, key=lambda own: (others[own], own))
    if rejected == "worst":
        ordered = ordered[:1]
    elif rejected == "random" and ordered:
        ordered = [random.Random(name).choice(ordered)]
    return [(winner, own) for own in ordered]


def write_pairs(
    ballots: str | Path,
    *,
    thoughts: str | Path,
    queries: str | Path,
    out: str | Path,
    rejected: str = "worst",
    gap: float = 0.0,
    prompt: str = "{query}",
    chat: bool = False,
    **counting: object,
) -> Paired:
    """Write the preference pairs of an election as JSONL for TRL; memory does not grow with the queries.

    Args:
        ballots: JSONL that `elect` wrote, with its settings beside it.
        thoughts: JSONL of the thoughts.
        queries: JSONL of the queries, or a BEIR folder.
        out: JSONL to write.
        rejected: as in `preferred`, and so is `gap`.
        gap: in points of the rule.
        prompt: what a model is asked; {query} and {instruction} stand for those of the query.
        chat: write messages, which a trainer puts into the template of its model.
        **counting: fields of `Counting` that are to be other than in the election; None is as there.

    Raises InputError for a prompt without {query}, a weight of nobody, ballots about a query or thought that
    is not there, and settings of other ballots.
    """
    if "{query}" not in prompt:
        raise InputError(f"the prompt {quoted(prompt)} has no {{query}}, so all queries would have the same")
    how, told = recounted(read_settings(ballots), **counting)
    pairs = abstained = level = 0
    members: set[str] = set()
    with Database("", _SCHEMA) as db, open_output(out) as file:
        with db.transaction():
            for query in open_queries(queries):
                db.execute("INSERT INTO query VALUES (?,?)", query.query_id, msgspec.json.encode(query))
            for each in read_jsonl(thoughts, Thought):
                db.execute("INSERT INTO thought VALUES (?,?,?)", *each.key, msgspec.json.encode(each))
        for query_id, sheets in sheets_by_query(ballots):
            members.update(sheets)
            verdict = how.decide(sheets)
            found = preferred(verdict, rejected=rejected, gap=gap, name=query_id)
            abstained += verdict.winner is None
            level += verdict.winner is not None and not found
            for row in _rows(db, query_id, found, prompt, chat):
                file.write(msgspec.json.encode(row) + b"\n")
                pairs += 1
        refuse_weights_of_nobody(how.weights, sorted(members))  # before the file is there
    return Paired(pairs, abstained, level, told)


def _rows(
    db: Database, query_id: str, found: list[tuple[str, str]], prompt: str, chat: bool
) -> Iterator[Mapping[str, Any]]:
    for names in found:
        row = db.row("SELECT body FROM query WHERE query_id = ?", query_id)
        if row is None:
            raise InputError(f"there are ballots about query {quoted(query_id)}, which is not in the queries")
        query = msgspec.json.decode(row[0], type=Query)
        asked = prompt.replace("{instruction}", query.instruction).replace("{query}", query.text)
        chosen, rejected = (_text(db, query_id, name) for name in names)
        if chat:
            yield {
                "prompt": [{"role": "user", "content": asked}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        else:
            yield {"prompt": asked, "chosen": chosen, "rejected": rejected}


def _text(db: Database, query_id: str, thought_id: str) -> str:
    row = db.row("SELECT body FROM thought WHERE query_id = ? AND thought_id = ?", query_id, thought_id)
    if row is None:
        raise InputError(
            f"there are ballots about thought {quoted(thought_id)} of query {quoted(query_id)}, which is not "
            "in the thoughts"
        )
    return msgspec.json.decode(row[0], type=Thought).text
