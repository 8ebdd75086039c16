"""What an election asks of a member, and what a member is asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from o1_records import Document, InputError, Query, Thought, quoted

Pair = tuple[str, str]
"""A text and the doc_id of the document that it is compared with."""

Documents: TypeAlias = Iterable[Document] | Mapping[str, Document]
"""A corpus: documents one after another, or a mapping that looks them up by doc_id."""


class Candidate(NamedTuple):
    """One thing to measure: a thought about a query, or the query alone (None)."""

    query: Query
    thought: Thought | None
    positives: tuple[Document, ...]
    negatives: tuple[Document, ...] = ()


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
    """A member that can also score its whole corpus, for ranks and for mining."""

    @property
    def doc_ids(self) -> Sequence[str]:
        """The documents in the order of the scores."""

    def row(self, doc_id: str) -> int:
        """Return the position of a document in `doc_ids`. Raises KeyError when it is not in the corpus."""

    def corpus_scores(self, texts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Yield for each text the scores of all documents: float32 [documents], higher is more similar."""


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


def documents_by_id(documents: Iterable[Document]) -> dict[str, Document]:
    """Map each doc_id to its document. Raises InputError for a duplicate doc_id."""
    known: dict[str, Document] = {}
    for document in documents:
        if document.doc_id in known:
            raise InputError(f"duplicate doc_id {quoted(document.doc_id)}; keep one of the documents")
        known[document.doc_id] = document
    return known


def refuse_unknown(name: str, pairs: Iterable[Pair], known: Mapping[str, object] | frozenset[str]) -> None:
    """Raise InputError for a pair whose document is not in the corpus."""
    unknown = sorted({doc_id for _, doc_id in pairs if doc_id not in known})
    if unknown:
        raise InputError(
            f"member {quoted(name)}: {len(unknown)} documents are not in its corpus: {quoted(unknown)}"
        )
