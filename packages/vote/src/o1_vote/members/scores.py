"""Members whose scores another system wrote: a JSONL of ballots, or a TREC run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from o1_records import Ballot, InputError, quoted, read_jsonl, sha256_file, trec
from o1_records.files import plain_name
from o1_records.kit.job import Database
from o1_records.lines import is_json, lines_by_first
from o1_vote.members.protocol import Candidate
from o1_vote.settings import beside, read_settings
from o1_vote.tally import Sheets, sheets_of

_SCHEMA = """CREATE TABLE score (
    member TEXT, query_id TEXT, item TEXT, value REAL, PRIMARY KEY (member, query_id, item)) WITHOUT ROWID"""
_AT_A_TIME = 10_000


class ScoreFileMember:
    """A member that says what a file says; made by `read_score_file`."""

    def __init__(
        self,
        name: str,
        path: Path,
        scores: Database,
        *,
        digest: str,
        written_as: str = "",
        tolerance: float = 0.0,
    ) -> None:
        self.name = name
        self.files = [path, beside(path)]
        self.tolerance = tolerance
        self.fingerprint = f"scores {digest} {written_as} {tolerance!r}"
        self.about = {"scores": f"{path}, as {written_as}" if written_as else str(path)}
        self._path, self._db, self._written_as = path, scores, written_as

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return the file's score of each candidate.

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
        # no positive was retrieved, so its score is at most that of the last hit
        sql = "SELECT min(value) FROM score WHERE member = '' AND query_id = ?"
        (least,) = self._db.row(sql, name)
        if least is None:
            raise InputError(
                f"{self._path}: no hits under {quoted(name)}; a run names the query alone QUERY_ID and "
                "a thought QUERY_ID#THOUGHT_ID"
            )
        return float(least)

    def _rows(self, query_id: str, items: Sequence[str]) -> dict[str, float]:
        marks = ",".join("?" * len(items))
        sql = f"SELECT item, value FROM score WHERE member = ? AND query_id = ? AND item IN ({marks})"
        return dict(self._db.rows(sql, self._written_as, query_id, *items))


def read_score_file(path: str | Path, name: str = "") -> list[ScoreFileMember]:
    """Return the members of a score file; the scores stay in a temporary file.

    JSON lines: ballots, with a member for each `retriever`, under that name. Anything else: a TREC run of one
    member called `name` (default: the file's), whose query ids are QUERY_ID for the query alone and
    QUERY_ID#THOUGHT_ID for a thought. The score of the best retrieved positive counts, and where none was
    retrieved that of the last hit. Members of ballots have the tolerance that is noted beside them
    (`o1_vote.settings`).

    Raises InputError for a repeated ballot, for a `name` where the file has several members, and for settings
    of other ballots.
    """
    path = Path(path)
    digest = sha256_file(path)
    scores = Database("", _SCHEMA)
    if not _holds_ballots(path):
        hits = (("", hit.query_id, hit.doc_id, hit.score) for hit in trec.read_run(path))
        _fill(scores, hits)
        return [ScoreFileMember(name or path.name, path, scores, digest=digest)]
    _fill(scores, _rows_of(path))
    names = [row[0] for row in scores.rows("SELECT DISTINCT member FROM score ORDER BY member")]
    if name and len(names) != 1:
        raise InputError(f"{path}: has the members {quoted(names)}; leave {quoted(name)} out")
    settings = read_settings(path)
    tolerance = settings.counting.tolerance if settings else {}
    return [
        ScoreFileMember(
            name or own, path, scores, digest=digest, written_as=own, tolerance=tolerance.get(own, 0.0)
        )
        for own in names
    ]


def sheets_by_query(path: str | Path) -> Iterator[tuple[str, Sheets]]:
    """Yield each query_id, in order, with the scores of every member; memory holds one query.

    Raises InputError as a rule does.
    """
    with Database("", _SCHEMA) as scores:
        _fill(scores, _rows_of(path))
        rows = scores.rows("SELECT query_id, member, item, value FROM score ORDER BY query_id, member, item")
        for name, group in itertools.groupby(rows, key=lambda row: str(row[0])):
            own = [
                Ballot(query_id=name, retriever=member, thought_id=item or None, score=value)
                for _, member, item, value in group
            ]
            yield from sheets_of(own).items()


def _holds_ballots(path: Path) -> bool:
    """Return whether the first line is a JSON object; an empty file is named as what it is."""
    first = next(lines_by_first(path, lambda _: lambda line, place: line), None)
    return Path(plain_name(path)).suffix == ".jsonl" if first is None else is_json(first)


def _rows_of(path: str | Path) -> Iterator[tuple[str, str, str, float]]:
    for ballot in read_jsonl(path, Ballot):
        yield ballot.retriever, ballot.query_id, ballot.thought_id or "", ballot.score


def _fill(scores: Database, rows: Iterable[tuple[str, str, str, float]]) -> None:
    remaining = iter(rows)
    while some := list(itertools.islice(remaining, _AT_A_TIME)):
        with scores.transaction():
            scores.execute_many("INSERT INTO score VALUES (?, ?, ?, ?)", some)
