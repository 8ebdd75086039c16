"""The records that flow between the stages. Every line carries its own keys.

Constructors do not check types (msgspec); reading and writing do. See `o1_records.jsonl`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

Id = Annotated[str, Meta(min_length=1)]
NonBlank = Annotated[str, Meta(pattern=r"\S")]
Count = Annotated[int, Meta(ge=0)]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every record: frozen, keyword-only, unknown fields forbidden."""

    key_fields: ClassVar[tuple[str, ...]] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """The values that name this record; unique within a file. Empty: not keyed."""
        return tuple(getattr(self, field) for field in self.key_fields)


class Query(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user asks. An instruction, when there is one, goes before the text."""

    key_fields: ClassVar[tuple[str, ...]] = ("query_id",)
    query_id: Id
    text: str
    instruction: str = ""


class Document(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One unit of retrieval."""

    key_fields: ClassVar[tuple[str, ...]] = ("doc_id",)
    doc_id: Id
    text: str
    title: str = ""

    @property
    def full_text(self) -> str:
        """Title and text joined by one space, as BEIR and Anserini index them."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


class Qrel(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A human judgement: how relevant a document is to a query."""

    key_fields: ClassVar[tuple[str, ...]] = ("query_id", "doc_id")
    query_id: Id
    doc_id: Id
    relevance: int


class Exclusion(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document that is never counted for this query (BRIGHT's excluded ids)."""

    key_fields: ClassVar[tuple[str, ...]] = ("query_id", "doc_id")
    query_id: Id
    doc_id: Id


class Hit(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine judgement: a retrieved document. Higher scores are better; rank starts at 1."""

    key_fields: ClassVar[tuple[str, ...]] = ("query_id", "doc_id")
    query_id: Id
    doc_id: Id
    score: float
    rank: Annotated[int, Meta(ge=1)]


class Source(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a thought comes from: enough to ask for it again.

    `tokenizer` names the vocabulary of the thought's token ids. `request` is JSON: what else shaped the
    request, such as stop sequences, and which of the fields above were left out of it.
    """

    model: NonBlank
    revision: str = ""
    prompt_digest: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: Count = 0
    seed: int = 0
    finish_reason: str = ""
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    tokenizer: str = ""
    request: str = ""


class Thought(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Text written about a query before it is embedded. Never blank.

    `token_ids` are what the model chose, where it is known: the text tokenised again can differ.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("query_id", "thought_id")
    query_id: Id
    thought_id: Id
    text: NonBlank
    source: Source
    token_ids: tuple[Count, ...] = ()


class DocumentThought(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Text written about a document before it is indexed, such as a comment on code. Never blank.

    A type of its own, because ids of queries and of documents may be equal.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("doc_id", "thought_id")
    doc_id: Id
    thought_id: Id
    text: NonBlank
    source: Source


class Ballot(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one committee member measured for one candidate.

    `thought_id` None is the query without a thought, so that abstention is a candidate.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("query_id", "thought_id", "retriever")
    query_id: Id
    thought_id: Id | None
    retriever: NonBlank
    score: float


class Example(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training example: a query, its documents and, when one was elected, its thought.

    `group_size` (documents of an example) and `batch_size` (examples of a step on one device) are what a data
    set asks of training, where it asks; ReasonEmbed's do.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("query",)
    query: Query
    positives: tuple[Document, ...]
    negatives: tuple[Document, ...] = ()
    thought: Thought | None = None
    teacher_scores: tuple[float, ...] = ()
    reasoning_query: str = ""
    dataset: str = ""
    group_size: Annotated[int, Meta(ge=1)] | None = None
    batch_size: Annotated[int, Meta(ge=1)] | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """An example is named by its query's id."""
        return (self.query.query_id,)

    def __post_init__(self) -> None:
        """Refuse a thought of another query and scores that do not fit the documents."""
        if self.thought is not None and self.thought.query_id != self.query.query_id:
            raise ValueError(
                f"thought {self.thought.thought_id!r} belongs to query "
                f"{self.thought.query_id!r}, not to {self.query.query_id!r}"
            )
        documents = len(self.positives) + len(self.negatives)
        if self.teacher_scores and len(self.teacher_scores) != documents:
            raise ValueError(
                f"{len(self.teacher_scores)} teacher_scores for {documents} documents "
                "(one for each positive, then one for each negative)"
            )


class Metric(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The value of a measure; `query_id` None is the mean over all queries."""

    key_fields: ClassVar[tuple[str, ...]] = ("measure", "query_id")
    measure: NonBlank
    value: float
    query_id: Id | None = None
