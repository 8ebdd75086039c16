"""Members whose scores another system wrote: a JSONL of ballots, or a TREC run."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from o1_records import Ballot, InputError, quoted, read_jsonl, trec
from o1_vote.measure import Candidate
from o1_vote.tally import Sheets, sheets_of

_SCHEMA = """CREATE TABLE score (
    member TEXT, query_id TEXT, item TEXT, value REAL, PRIMARY KEY (member, query_id, item)) WITHOUT ROWID"""
_AT_A_TIME = 10_000


class ScoreFileMember:
    """A member that says what a file says; made by `read_score_file`."""

    def __init__(self, name: str, path: Path, scores: sqlite3.Connection, written_as: str = "") -> None:
        self.name = name
        self._path, self._db, self._written_as = path, scores, written_as

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """The file's score of each candidate.

        Raises InputError for a candidate that the file does not mention.
        """
        score = self._of_ballots if self._written_as else self._of_run
        return [score(candidate) for candidate in candidates]

    def _of_ballots(self, candidate: Candidate) -> float:
        thought_id = candidate.thought.thought_id if candidate.thought else ""
        found = self._rows(candidate.query.query_id, [thought_id])
        if not found:
            raise InputError(
                f"{self._path}: no ballot of {quoted(self._written_as)} for query "
                f"{quoted(candidate.query.query_id)}, thought {quoted(thought_id or None)}; add it"
            )
        return found[thought_id]

    def _of_run(self, candidate: Candidate) -> float:
        name = candidate.query.query_id
        if candidate.thought:
            name = f"{name}#{candidate.thought.thought_id}"
        found = self._rows(name, [positive.doc_id for positive in candidate.positives])
        if found:
            return max(found.values())
        # the positive was not retrieved: the last hit bounds its score
        (least,) = self._db.execute(
            "SELECT min(value) FROM score WHERE member = '' AND query_id = ?", (name,)
        ).fetchone()
        if least is None:
            raise InputError(
                f"{self._path}: no hits under {quoted(name)}; a run names the query alone QUERY_ID and "
                "a thought QUERY_ID#THOUGHT_ID"
            )
        return float(least)

    def _rows(self, query_id: str, items: Sequence[str]) -> dict[str, float]:
        marks = ",".join("?" * len(items))
        sql = f"SELECT item, value FROM score WHERE member = ? AND query_id = ? AND item IN ({marks})"
        return dict(self._db.execute(sql, (self._written_as, query_id, *items)))


def read_score_file(path: str | Path, name: str = "") -> list[ScoreFileMember]:
    """The members of a score file, which memory need not hold.

    `.jsonl`: ballots, a member for each `retriever`, called so. Any other: a TREC run of one member
    called `name` (default: the file's), whose query ids are QUERY_ID for the query alone and
    QUERY_ID#THOUGHT_ID for a thought; the score of its best retrieved positive counts, and that of
    its last hit where it retrieved none.

    Raises InputError for a ballot that stands twice and for a `name` of a file with several members.
    """
    path = Path(path)
    # SQLite's own temporary file, removed with the connection
    scores = sqlite3.connect("", isolation_level=None)
    scores.execute(_SCHEMA)
    if path.suffix != ".jsonl":
        hits = (("", hit.query_id, hit.doc_id, hit.score) for hit in trec.read_run(path))
        _fill(scores, hits)
        return [ScoreFileMember(name or path.name, path, scores)]
    ballots = read_jsonl(path, Ballot)
    _fill(scores, ((b.retriever, b.query_id, b.thought_id or "", b.score) for b in ballots))
    names = [row[0] for row in scores.execute("SELECT DISTINCT member FROM score ORDER BY member")]
    if name and len(names) != 1:
        raise InputError(f"{path}: has the members {quoted(names)}; leave {quoted(name)} out")
    return [ScoreFileMember(name or own, path, scores, written_as=own) for own in names]


def sheets_by_query(path: str | Path) -> Iterator[tuple[str, Sheets]]:
    """Yield each query_id with what every member said, in the order of ids; memory holds one query.

    Raises InputError as a rule does.
    """
    scores = sqlite3.connect("", isolation_level=None)
    scores.execute(_SCHEMA)
    ballots = read_jsonl(path, Ballot)
    _fill(scores, ((b.retriever, b.query_id, b.thought_id or "", b.score) for b in ballots))
    rows = scores.execute("SELECT query_id, member, item, value FROM score ORDER BY query_id, member, item")
    for name, group in itertools.groupby(rows, key=lambda row: str(row[0])):
        own = [
            Ballot(query_id=name, retriever=member, thought_id=item or None, score=value)
            for _, member, item, value in group
        ]
        yield from sheets_of(own).items()


def _fill(scores: sqlite3.Connection, rows: Iterable[tuple[str, str, str, float]]) -> None:
    remaining = iter(rows)
    while some := list(itertools.islice(remaining, _AT_A_TIME)):
        scores.execute("BEGIN")
        scores.executemany("INSERT INTO score VALUES (?, ?, ?, ?)", some)
        scores.execute("COMMIT")
