"""The job behind `elect` and `mine`: what it was made from, in words, and what it published.

Inputs are identified by their content, functions and members by their names, and anything that has a
`fingerprint` by that.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from o1_records import Example, refuse_overwriting, sha256_file
from o1_records.jsonl import encode
from o1_records.kit.job import Job

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


@dataclass
class Published:
    """What was written to files, in numbers.

    Attributes:
        examples: how many were written.
        with_thought: how many of them carry a thought.
        left_out: how many queries were left out, and listed in the file of reasons.
        shared: how many positives queries have from others that ask the same.
        told: further sentences about what was done, one a line.
        up_to_date: the files were there already, so nothing was done.
        moved: where earlier work was moved for a new job.
    """

    examples: int = 0
    with_thought: int = 0
    left_out: int = 0
    shared: int = 0
    told: list[str] = field(default_factory=list)
    up_to_date: bool = False
    moved: tuple[Path, ...] = ()

    def counted(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Yield the examples, and count them."""
        for example in examples:
            self.examples += 1
            self.with_thought += example.thought is not None
            yield example


def publish(
    out: str | Path,
    made_from: Mapping[str, str],
    work: Callable[[Job, Published], None],
    *,
    beside: Mapping[str, str | Path | None],
    reading: Iterable[str | Path],
    schema: str,
    new_job: bool,
) -> Published:
    """Let `work` write `out` and the files `beside` it as a job, unless it is finished, and count.

    A new job moves earlier work aside, but none of the files that it is `reading`. What is put in the folder
    `members` of the job is removed when it is finished.
    """
    refuse_overwriting({}, {"out": out, **beside})
    outputs = [path for path in (out, *beside.values()) if path]
    made_from = {**made_from, "version": importlib.metadata.version("o1-vote")}
    with Job(out, made_from, schema=schema, outputs=outputs, reading=reading, new_job=new_job) as job:
        if job.finished:
            published = msgspec.json.decode(job.note("published") or "", type=Published)
            published.up_to_date = True
        else:
            published = Published()
            work(job, published)
            shutil.rmtree(job.folder / "members", ignore_errors=True)
            job.set_note("published", msgspec.json.encode(published).decode())
            job.finish()
        published.moved = tuple(job.moved)
        return published


class Identified(Protocol[T_co]):
    """Something to iterate over, as often as needed, that can be told from others by its fingerprint."""

    @property
    def fingerprint(self) -> str:
        """The same for the same content only."""

    def __iter__(self) -> Iterator[T_co]:
        """Yield the records from the first."""


class Files(Generic[T]):
    """What `read` makes of files, read anew each time it is iterated over."""

    def __init__(self, files: Iterable[Path], read: Callable[[], Iterable[T]]) -> None:
        self.files, self._read = list(files), read

    def __iter__(self) -> Iterator[T]:
        return iter(self._read())

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of the files' content. Raises OSError where one cannot be read."""
        digests = "".join(f"{sha256_file(file)}\n" for file in self.files)
        return hashlib.sha256(digests.encode()).hexdigest()


class _Content(Generic[T]):
    """Records that are identified by their content; an iterator is copied to a temporary file."""

    def __init__(self, records: Iterable[T]) -> None:
        self._records = records
        self._copy = tempfile.TemporaryFile() if isinstance(records, Iterator) else None
        self._decoder: msgspec.json.Decoder[T] | None = None
        self._count = 0
        digest = hashlib.sha256()
        record: Any
        for number, record in enumerate(records, 1):
            self._decoder = self._decoder or msgspec.json.Decoder(type(record))
            line = encode(record, f"{type(record).__name__} {number}", self._decoder) + b"\n"
            digest.update(line)
            if self._copy is not None:
                self._copy.write(line)
            self._count = number
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        if self._copy is None:
            yield from self._records
        elif self._decoder is not None:
            self._copy.seek(0)
            yield from map(self._decoder.decode, self._copy)


def identified(records: Iterable[T]) -> Identified[T]:
    """Return the records as something to iterate over again, with a fingerprint.

    Without one of their own they are read now, for that of their content; memory does not grow with them.
    So a pipe is read once.
    """
    return records if _has_fingerprint(records) else _Content(records)  # type: ignore[return-value]


def files_of(*things: object) -> list[Path]:
    """Return the files that things are read from, where they say so."""
    return [Path(file) for thing in things for file in getattr(thing, "files", ())]


def fingerprint_of(values: Mapping[str, Any]) -> str:
    """Return the fingerprint of a mapping: its own, or that of its content."""
    if _has_fingerprint(values):
        return str(values.fingerprint)  # type: ignore[attr-defined]
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(msgspec.json.encode((name, values[name]), order="deterministic") + b"\n")
    return digest.hexdigest()


def described(thing: object) -> str:
    """Return the fingerprint of a function, partial function, dataclass or member, or what it is called.

    Two things that are called the same are taken for the same.
    """
    if _has_fingerprint(thing):
        return str(thing.fingerprint)  # type: ignore[attr-defined]
    if isinstance(thing, functools.partial):
        arguments = [described(value) for value in thing.args]
        arguments += [f"{name}={described(value)}" for name, value in sorted(thing.keywords.items())]
        return f"{described(thing.func)}({', '.join(arguments)})"
    if isinstance(thing, Mapping):
        return f"{{{', '.join(f'{name}: {described(thing[name])}' for name in sorted(thing))}}}"
    if isinstance(thing, list | tuple | set | frozenset):
        items = [described(item) for item in thing]
        return f"[{', '.join(items if isinstance(thing, list | tuple) else sorted(items))}]"
    if thing is None or isinstance(thing, str | int | float):
        return repr(thing)
    named: Any = thing if hasattr(thing, "__qualname__") else type(thing)
    name = f"{named.__module__}.{named.__qualname__}".removeprefix("o1_vote.")
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = [f"{each.name}={described(getattr(thing, each.name))}" for each in dataclasses.fields(thing)]
        return f"{name}({', '.join(fields)})"
    return name


def _has_fingerprint(thing: object) -> bool:
    fingerprint = getattr(thing, "fingerprint", "")
    return isinstance(fingerprint, str) and bool(fingerprint)
