"""What an election asks of a member, and what a member is asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_records import Document, InputError, Query, Record, Thought, quoted

RecordT = TypeVar("RecordT", bound=Record)

Pair = tuple[str, str]
"""A text and the doc_id of the document that it is compared with."""

Documents: TypeAlias = Iterable[Document] | Mapping[str, Document]
"""A corpus: documents one after another, or a mapping that looks them up by doc_id."""


class Candidate(NamedTuple):
    """One thing to measure: a thought about a query, or the query alone (None).

    `related` are doc_ids that are neither positive nor a competitor, such as documents of a lower grade, or
    the query itself.
    """

    query: Query
    thought: Thought | None
    positives: tuple[Document, ...]
    negatives: tuple[Document, ...] = ()
    related: frozenset[str] = frozenset()


class Found(NamedTuple):
    """The best documents for a text, best first, and their scores: float32 [doc_ids]."""

    doc_ids: list[str]
    scores: NDArray[np.float32]


@runtime_checkable
class Retriever(Protocol):
    """A member of the committee: it knows a corpus and scores how similar a text is to a document.

    A member may have a `fingerprint`, a string that names everything its scores depend on, such as the model
    and its settings, but not the corpus. `elect` and `mine` note it in their jobs.
    """

    @property
    def name(self) -> str:
        """The name on its ballots; unique within a committee."""

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Score every (text, doc_id): float32 [pairs], higher is more similar.

        A text is read once however many pairs mention it. Raises InputError for an unknown doc_id.
        """


@runtime_checkable
class Searcher(Retriever, Protocol):
    """A member that can also search its corpus, for margins, ranks and mining."""

    @property
    def documents(self) -> Mapping[str, Document]:
        """The corpus by doc_id."""

    def search(self, texts: Sequence[str], k: int) -> Iterator[Found]:
        """Yield for each text the k best of the documents that match it; the others score 0.

        Equal scores go to the larger doc_id. A text that says nothing, because it is empty or because the
        member knows none of its words, finds nothing.
        """


@runtime_checkable
class Instructable(Retriever, Protocol):
    """A member whose model reads an instruction before a text."""

    def instructed(self, instruction: str) -> Retriever:
        """Return the member as it reads texts of queries with this instruction; it can do the same."""


class Recorded(Protocol):
    """A member whose scores are known beforehand, such as those of a score file. It takes no measure."""

    @property
    def name(self) -> str:
        """The name on its ballots; unique within a committee."""

    def scores(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        """Return the score of each candidate. Raises InputError for a candidate that it has none for."""


@dataclass(frozen=True)
class LazyMember:
    """A member that is loaded when it has to vote, and not at all where all its ballots are cast already.

    Attributes:
        name: the name on its ballots.
        fingerprint: everything that its scores depend on, but for the corpus.
        load: returns the member, given the documents that it will be asked about and a folder for what it
            wants to keep until the job is finished (None: there is no job).
        whole_corpus: `load` needs every document, not only those that are judged.
    """

    name: str
    fingerprint: str
    load: Callable[[Mapping[str, Document], Path | None], Retriever]
    whole_corpus: bool = False


Member: TypeAlias = Retriever | Recorded | LazyMember


def loaded(
    members: Iterable[Member], documents: Mapping[str, Document], folder: Path | None
) -> list[Retriever]:
    """Return the members, loaded. Raises InputError for recorded scores: they cannot judge other texts."""
    able: list[Retriever | LazyMember] = []
    for member in members:
        if not isinstance(member, Retriever | LazyMember):
            raise InputError(f"member {quoted(member.name)} is a score file, which cannot judge other texts")
        able.append(member)
    return [member.load(documents, folder) if isinstance(member, LazyMember) else member for member in able]


def best_first(doc_ids: Sequence[str], scores: NDArray[np.float32], k: int) -> Found:
    """Return the k best of documents, by score and then by doc_id, both descending."""
    ordered = sorted(zip(scores.tolist(), doc_ids, strict=True), reverse=True)[:k]
    return Found([name for _, name in ordered], np.array([score for score, _ in ordered], dtype=np.float32))


def documents_by_id(documents: Iterable[Document]) -> dict[str, Document]:
    """Map each doc_id to its document. Raises InputError for a duplicate doc_id."""
    known: dict[str, Document] = {}
    for each in documents:
        document = checked(each, Document, "documents")
        if document.doc_id in known:
            raise InputError(f"duplicate doc_id {quoted(document.doc_id)}; keep one of the documents")
        known[document.doc_id] = document
    return known


def checked(record: object, kind: type[RecordT], what: str) -> RecordT:
    """Return a record, made of a dict where one is given.

    Raises InputError for anything else, and for fields of the wrong type or missing.
    """
    if isinstance(record, kind):
        return record
    if not isinstance(record, Mapping):
        raise InputError(f"{what}: expected {kind.__name__} records or dicts, got {quoted(record)}")
    try:
        return msgspec.convert(record, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{what}: {error}; in {quoted(dict(record))}") from error


def refuse_unknown(name: str, pairs: Iterable[Pair], known: Mapping[str, object] | frozenset[str]) -> None:
    """Raise InputError for a pair whose document is not in the corpus."""
    unknown = sorted({doc_id for _, doc_id in pairs if doc_id not in known})
    if unknown:
        raise InputError(
            f"member {quoted(name)}: {len(unknown)} documents are not in its corpus: {quoted(unknown)}"
        )
