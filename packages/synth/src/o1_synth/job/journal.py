"""The journal of a job: what is asked about, and how each sample ended. A file of `o1_records.kit.job`.

```
OUT.job/journal.sqlite  item(key, text, payload, wanted)          a query, document or pair; payload is JSON
                        outcome(key, sample, reason, body, run)   body is an encoded Thought or Failure
                        rejected(key, sample, draws, body)        how many draws failed a check, the last one
                        spent(run, ...)                           requests, tokens and seconds of each run
                        published(samples)                        of how many samples the output was made
```
Nothing is paired by position: every row carries its key, and an outcome also its sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import msgspec

from o1_records import InputError, Record, Thought, quoted
from o1_records.jsonl import encode
from o1_records.kit.job import Database, Job, job_folder, refuse_changed
from o1_synth.expert import Reason, key_of
from o1_synth.job.draw import Failure, Outcome, Rejected, Spent

RecordT = TypeVar("RecordT", bound=Record)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS item (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, payload TEXT NOT NULL, wanted INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcome (
    key TEXT NOT NULL, sample INTEGER NOT NULL, reason TEXT NOT NULL, body TEXT NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (key, sample)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejected (
    key TEXT NOT NULL, sample INTEGER NOT NULL, draws INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (key, sample)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (
    run INTEGER PRIMARY KEY, seconds REAL NOT NULL, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, uncounted INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS published (samples INTEGER PRIMARY KEY);
"""
_WANTED = "FROM outcome JOIN item USING (key) WHERE wanted AND sample < ?"
SETTLED = ("", Reason.EXHAUSTED, Reason.DUPLICATE)
"""How a sample ends that is not asked for again: a model that repeats itself has nothing else to say."""

ANSWERS_AS = "answers as"
"""The note with the model name that the server reports."""

_PAGE = 500


class JournalReader:
    """Reads the journal of a job, also while another process writes it; a context manager.

    `path` is the output of the job, or the job's folder. Raises InputError where there is no job, or a
    damaged one.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = Path(path) if Path(path).suffix == ".job" else job_folder(path)
        file = self.folder / "journal.sqlite"
        if not file.exists():
            raise InputError(
                f"{path}: there is no job at {self.folder}; name the --out of an o1-synth command"
            )
        self.db = Database.read_only(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def counts(self, samples: int) -> dict[str, int]:
        """Return how many wanted samples ended with each reason; thoughts count under ""."""
        return dict(self.db.rows(f"SELECT reason, count(*) {_WANTED} GROUP BY reason", samples))

    def details(self, samples: int) -> dict[str, str]:
        """Return the detail of one failure of each reason."""
        rows = self.db.rows(
            f"SELECT reason, min(body) {_WANTED} AND reason NOT IN ({_listed(SETTLED)}) GROUP BY reason",
            samples,
        )
        return {reason: msgspec.json.decode(body, type=Failure).detail for reason, body in rows}

    def items(self) -> int:
        """Return how many items are wanted."""
        (count,) = self.db.row("SELECT count(*) FROM item WHERE wanted")
        return int(count)

    def thoughts(self, samples: int) -> Iterator[Thought]:
        """Yield the wanted thoughts, ordered by key and sample."""
        decoder = msgspec.json.Decoder(Thought)
        for (body,) in self.db.rows(f"SELECT body {_WANTED} AND reason = '' ORDER BY key, sample", samples):
            yield decoder.decode(body)

    def spent(self) -> tuple[Spent, float, int]:
        """Return what all runs together spent, their seconds, and how many runs there were."""
        names = ("requests", "prompt_tokens", "completion_tokens", "uncounted", "seconds")
        sums = ", ".join(f"sum({name})" for name in names)
        *counts, seconds, runs = self.db.row(f"SELECT {sums}, count(*) FROM spent")
        return Spent(*(count or 0 for count in counts)), seconds or 0.0, runs

    def note(self, name: str) -> str | None:
        """Return what was noted under a name: `samples`, `status`, `answers as`."""
        row = self.db.row("SELECT value FROM note WHERE name = ?", name)
        return row[0] if row else None

    def made_from(self, name: str) -> str | None:
        """Return one of the things that the job depends on."""
        row = self.db.row("SELECT value FROM made_from WHERE name = ?", name)
        return row[0] if row else None


class Journal(JournalReader, Generic[RecordT]):
    """The journal beside `out`, opened by one process at a time; a context manager.

    Args:
        out: what the job publishes.
        kind: the records that are asked about, each with a `text` among its fields.
        made_from: what all outcomes depend on, by name: model, prompt, sampling.
        outputs: everything that the job publishes (default: `out`).
        new_job: move earlier work that was made from something else aside, with its outputs.

    Raises InputError as `o1_records.kit.job.Job` does.
    """

    def __init__(
        self,
        out: str | Path,
        kind: type[RecordT],
        made_from: Mapping[str, str],
        *,
        outputs: Iterable[str | Path] = (),
        new_job: bool = False,
    ) -> None:
        self._job = Job(out, made_from, schema=_SCHEMA, outputs=outputs, inputs=("item",), new_job=new_job)
        self._kind, self._line = kind, msgspec.json.Decoder(kind)
        self.folder, self.db, self.moved = self._job.folder, self._job.db, self._job.moved
        (last,) = self.db.row("SELECT max(run) FROM spent")
        self.run = (last or 0) + 1

    def __exit__(self, *_: object) -> None:
        self._job.close()

    def plan(self, records: Iterable[RecordT]) -> int:
        """Note which records are wanted from now on; return how many.

        Raises InputError for a duplicate key, and for a record that differs from the one of that key which
        has thoughts. Nothing is changed then.
        """
        count = 0
        with self.db.transaction():
            self.db.execute("UPDATE item SET wanted = 0 WHERE wanted")
            for record in records:
                self._want(record)
                count += 1
        return count

    def remaining(
        self, samples: int, together: int, *, record_by_record: bool = False
    ) -> Iterator[tuple[RecordT, tuple[int, ...], int]]:
        """Yield the samples that have no thought, and the number of the draw that is next; lazily.

        Up to `together` samples of a record at a time, ordered by key: first what was never asked for, so
        that nothing that fails again and again is in its way, then what failed in an earlier run. Or
        `record_by_record`, both at once.
        """
        passes = [(True, True)] if record_by_record else [(True, False), (False, True)]
        for never_asked, failed in passes:
            for record, ends in self._wanted(not never_asked, samples):
                left = [
                    sample
                    for sample in range(samples)
                    if (failed and self._failed_before(*ends[sample]) if sample in ends else never_asked)
                ]
                if left:
                    draws = self._draws(key_of(record))
                    for start in range(0, len(left), together):
                        chosen = tuple(left[start : start + together])
                        yield record, chosen, max(draws.get(sample, 0) for sample in chosen)

    def _failed_before(self, reason: str, run: int) -> bool:
        return reason not in SETTLED and run < self.run

    def _wanted(self, failed: bool, samples: int) -> Iterator[tuple[RecordT, dict[int, tuple[str, int]]]]:
        """Yield the wanted records, or those with a sample that `failed`, and how their samples ended."""
        some = (
            f"AND EXISTS (SELECT 1 FROM outcome WHERE outcome.key = item.key AND sample < {samples} AND "
            f"reason NOT IN ({_listed(SETTLED)}))"
        )
        sql = f"SELECT key, text, payload FROM item WHERE wanted AND key > ? {some if failed else ''}"
        after = ""
        while page := list(self.db.rows(f"{sql} ORDER BY key LIMIT ?", after, _PAGE)):
            for after, text, payload in page:
                ends = self.db.rows("SELECT sample, reason, run FROM outcome WHERE key = ?", after)
                yield self._record(text, payload), {sample: (reason, run) for sample, reason, run in ends}

    def _draws(self, key: str) -> dict[int, int]:
        return dict(self.db.rows("SELECT sample, draws FROM rejected WHERE key = ?", key))

    def record(
        self,
        outcomes: Iterable[Outcome],
        *,
        rejected: Iterable[Rejected] = (),
        spent: Spent | None = None,
        seconds: float = 0.0,
        status: str | None = None,
        earlier: bool = False,
    ) -> None:
        """Commit outcomes and what this run spent so far, in one transaction; no thought is replaced.

        `earlier`: they came of a run before this one, which asks again for those that failed.
        """
        run = 0 if earlier else self.run
        with self.db.transaction():
            self.db.execute_many(
                "INSERT INTO outcome VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
                "SET reason = excluded.reason, body = excluded.body, run = excluded.run WHERE reason != ''",
                ((made.key, made.sample, made.reason, made.body, run) for made in outcomes),
            )
            self._reject(rejected)
            if spent is not None:
                counts = (spent.requests, spent.prompt_tokens, spent.completion_tokens, spent.uncounted)
                self.db.execute(
                    "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?, ?)", self.run, seconds, *counts
                )
            if status is not None:
                self.db.execute("INSERT OR REPLACE INTO note VALUES ('status', ?)", status)

    def holds(self, outcomes: Iterable[Outcome]) -> bool:
        """Return whether all of these very outcomes were committed."""
        sql = "SELECT 1 FROM outcome WHERE key = ? AND sample = ? AND body = ?"
        return all(self.db.row(sql, made.key, made.sample, made.body) for made in outcomes)

    def _reject(self, rejected: Iterable[Rejected]) -> None:
        self.db.execute_many(
            "INSERT OR REPLACE INTO rejected VALUES (?, ?, ?, ?)",
            ((it.key, it.sample, it.draws, it.body) for it in rejected),
        )

    def texts_of_all(self) -> Iterator[tuple[RecordT, list[tuple[int, Thought, bool]]]]:
        """Yield each item with its texts: (sample, text, whether it is a thought or failed a check)."""
        decoder = msgspec.json.Decoder(Thought)
        sql = (
            "SELECT item.key, item.text, payload, sample, found.body, passed FROM ("
            "SELECT key, sample, body, 1 AS passed FROM outcome WHERE reason = '' UNION ALL "
            "SELECT rejected.key, sample, rejected.body, 0 FROM rejected "
            "LEFT JOIN outcome USING (key, sample) "
            "WHERE rejected.body != '' AND (outcome.reason IS NULL OR outcome.reason != '')"
            ") AS found JOIN item USING (key) WHERE wanted ORDER BY item.key, passed DESC, sample"
        )
        for _, group in groupby(self.db.rows(sql), itemgetter(0)):
            rows = list(group)
            yield (
                self._record(*rows[0][1:3]),
                [(s, decoder.decode(body), bool(passed)) for *_, s, body, passed in rows],
            )

    def change(self, changes: Iterable[tuple[Outcome, Rejected | None]], *, notes: Mapping[str, str]) -> None:
        """Replace outcomes: a thought that fails a check now, with its text, or a text that passes now.

        The `notes` say by what they were changed. All of it is one transaction.
        """
        with self.db.transaction():
            for outcome, text in list(changes):  # the tables are read meanwhile
                if text is not None:
                    draws = self._draws(text.key).get(text.sample, 0) + 1
                    self._reject([Rejected(text.key, text.sample, draws, text.body)])
                self.db.execute(
                    "INSERT OR REPLACE INTO outcome VALUES (?, ?, ?, ?, 0)",
                    outcome.key, outcome.sample, outcome.reason, outcome.body,
                )  # fmt: skip
            self.db.execute_many("INSERT OR REPLACE INTO note VALUES (?, ?)", notes.items())

    def ask_for_duplicates(self) -> None:
        """Let samples that were near-copies of others be asked for again."""
        with self.db.transaction():
            self.db.execute("DELETE FROM outcome WHERE reason = ?", Reason.DUPLICATE)

    def set_note(self, name: str, value: str) -> None:
        """Note something about the job."""
        self._job.set_note(name, value)

    def publishing(self, samples: int) -> None:
        """Note that outputs are going to be written; from now on the job stays, even without an outcome."""
        with self.db.transaction():
            self.db.execute("DELETE FROM published")
            self.db.execute("INSERT INTO published VALUES (?)", samples)

    def answers(self, samples: int) -> Iterator[tuple[RecordT, Thought]]:
        """Yield the wanted thoughts with what they are about, ordered by key and sample."""
        decoder, last = msgspec.json.Decoder(Thought), ""
        sql = f"SELECT key, text, payload, body {_WANTED} AND reason = '' ORDER BY key, sample"
        for key, text, payload, body in self.db.rows(sql, samples):
            if key != last:
                last, record = key, self._record(text, payload)
            yield record, decoder.decode(body)

    def failures(self, samples: int) -> Iterator[Failure]:
        """Yield the wanted samples without a thought and their reasons, ordered by key and sample."""
        decoder = msgspec.json.Decoder(Failure)
        for record, ends in self._wanted(False, samples):
            key = key_of(record)
            for sample in range(samples):
                if sample not in ends:
                    yield Failure(query_id=key, sample=sample, reason=Reason.NOT_ASKED)
                elif ends[sample][0] not in SETTLED:
                    (body,) = self.db.row(
                        "SELECT body FROM outcome WHERE key = ? AND sample = ?", key, sample
                    )
                    yield decoder.decode(body)

    def texts(self, key: str) -> list[str]:
        """Return the texts of the thoughts about one item."""
        decoder = msgspec.json.Decoder(Thought)
        rows = self.db.rows("SELECT body FROM outcome WHERE key = ? AND reason = ''", key)
        return [decoder.decode(body).text for (body,) in rows]

    def _begun(self, key: str) -> bool:
        sql = f"SELECT 1 FROM outcome WHERE key = ? AND reason IN ({_listed(SETTLED)})"
        return self.db.row(sql, key) is not None

    def _want(self, record: RecordT) -> None:
        key, text, payload = self._row(record)
        execute = self.db.connection.execute  # the transaction explains its errors
        begun = execute("SELECT text, payload, wanted FROM item WHERE key = ?", (key,)).fetchone()
        if begun and begun[2]:
            raise InputError(f"duplicate {' and '.join(record.key_fields)} {quoted(key)}; keep one of them")
        if begun and begun[:2] != (text, payload) and self._begun(key):
            before = self._record(*begun[:2])
            refuse_changed(
                f"{self.folder}: {type(record).__name__.lower()} {quoted(key)}",
                _fields(before),
                _fields(record),
                remedy="leave it out, give it another id, or choose another --out",
            )
        execute("INSERT OR REPLACE INTO item VALUES (?, ?, ?, 1)", (key, text, payload))

    def _row(self, record: RecordT) -> tuple[str, str, str]:
        """Return key, text and payload: the JSON of all other fields."""
        key = key_of(record)
        encode(record, f"{type(record).__name__.lower()} {key!r}", self._line)  # refuses what is invalid
        fields = {name: getattr(record, name) for name in record.__struct_fields__}
        text: str = fields.pop("text")
        return key, text, msgspec.json.encode(fields).decode()

    def _record(self, text: str, payload: str) -> RecordT:
        fields: dict[str, Any] = msgspec.json.decode(payload)
        return msgspec.convert({**fields, "text": text}, self._kind)


def _listed(reasons: Iterable[str]) -> str:
    return ", ".join(f"'{reason}'" for reason in reasons)


def _fields(record: Record) -> dict[str, str]:
    return {name: str(value) for name, value in msgspec.to_builtins(record).items()}
