"""What a job's journal says, read beside whoever writes it: counts, thoughts, failures, notes."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from o1_records import InputError, Query, Record, Thought
from o1_records.sqlite import explained
from o1_synth.expert import Reason

WANTED = "JOIN query USING (query_id) WHERE wanted AND sample < ?"
SETTLED = ("", Reason.EXHAUSTED)  # reasons of rows that are not asked for again; "" is a thought
_PAGE = 500
_REMEDY = (
    "if the disk is full, free space and run the same command again; "
    "if the file is damaged, remove its folder"
)
RecordT = TypeVar("RecordT", bound=Record)


class Failure(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sample that has no thought yet; running the same command again asks for it again."""

    key_fields = ("query_id", "sample")
    query_id: str
    sample: int
    reason: Reason
    detail: str = ""


def folder_of(out: str | Path) -> Path:
    """The job's folder, beside the file that it writes."""
    out = Path(out)
    return out.with_name(out.name + ".job")


class Ledger:
    """Reads a journal; a context manager. `Journal` writes it as well.

    `path` is the file that the job writes, or the job's folder. Raises InputError when there is no
    job, or a damaged one.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = Path(path) if Path(path).suffix == ".job" else folder_of(path)
        file = self.folder / "journal.sqlite"
        if not file.exists():
            raise InputError(f"{path}: there is no job at {self.folder}; name the --out of o1-synth")
        with self.explained():
            self._db = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._db.close)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def counts(self, samples: int) -> dict[str, int]:
        """How many wanted samples ended in each reason; thoughts stand under the empty string."""
        sql = f"SELECT reason, count(*) FROM outcome {WANTED} GROUP BY reason"
        return dict(self._rows(sql, samples))

    def queries(self) -> int:
        """How many queries are wanted."""
        ((count,),) = self._rows("SELECT count(*) FROM query WHERE wanted")
        return int(count)

    def thoughts(self, samples: int) -> Iterator[Thought]:
        """The wanted thoughts, ordered by query_id and sample."""
        return (thought for _, thought in self.answers(samples))

    def answers(self, samples: int) -> Iterator[tuple[Query, Thought]]:
        """The wanted thoughts with their queries, ordered by query_id and sample."""
        decoder = msgspec.json.Decoder(Thought)
        sql = f"SELECT query_id, text, instruction, body FROM outcome {WANTED} AND reason = '' "
        for query_id, text, instruction, body in self._rows(f"{sql} ORDER BY query_id, sample", samples):
            yield Query(query_id=query_id, text=text, instruction=instruction), decoder.decode(body)

    def texts(self, query_id: str) -> list[str]:
        """The texts of a query's thoughts."""
        decoder = msgspec.json.Decoder(Thought)
        sql = "SELECT body FROM outcome WHERE query_id = ? AND reason = ''"
        return [decoder.decode(body).text for (body,) in self._rows(sql, query_id)]

    def failures(self, samples: int) -> Iterator[Failure]:
        """The wanted samples without a thought, ordered by query_id and sample, with their reasons."""
        decoder = msgspec.json.Decoder(Failure)
        sql = "SELECT body FROM outcome WHERE query_id = ? AND sample = ?"
        for query, (sample,) in self.remaining(samples, 1):
            row = next(self._rows(sql, query.query_id, sample), None)
            if row is None:
                yield Failure(query_id=query.query_id, sample=sample, reason=Reason.NOT_ASKED)
            else:
                yield decoder.decode(row[0])

    def remaining(self, samples: int, together: int) -> Iterator[tuple[Query, tuple[int, ...]]]:
        """Yield what has no thought yet and is not exhausted, in order of query_id; lazily.

        Up to `together` samples of a query at a time.
        """
        after = ""
        while page := self._page(after):
            for query_id, text, instruction in page:
                query = Query(query_id=query_id, text=text, instruction=instruction)
                done = self.settled(query_id)
                left = [sample for sample in range(samples) if sample not in done]
                for start in range(0, len(left), together):
                    yield query, tuple(left[start : start + together])
            after = page[-1][0]

    def settled(self, query_id: str) -> set[int]:
        """The samples of a query that have a thought or are exhausted."""
        sql = "SELECT sample FROM outcome WHERE query_id = ? AND reason IN (?, ?)"
        return {sample for (sample,) in self._rows(sql, query_id, *SETTLED)}

    def note(self, name: str) -> str | None:
        """What was noted under a name: `samples`, `status`, the fingerprint."""
        row = next(self._rows("SELECT value FROM note WHERE name = ?", name), None)
        return row[0] if row else None

    def explained(self) -> contextlib.AbstractContextManager[None]:
        """Errors of SQLite as InputError, with the file and what may mend it."""
        return explained(self.folder / "journal.sqlite", _REMEDY)

    def _page(self, after: str) -> list[tuple[str, str, str]]:
        sql = (
            "SELECT query_id, text, instruction FROM query "
            "WHERE wanted AND query_id > ? ORDER BY query_id LIMIT ?"
        )
        return list(self._rows(sql, after, _PAGE))

    def _rows(self, sql: str, *values: object) -> Iterator[Any]:
        with self.explained():
            # not `yield from`: left in the middle, it would close the cursor, perhaps after the database
            for row in self._db.execute(sql, values):  # noqa: UP028
                yield row
