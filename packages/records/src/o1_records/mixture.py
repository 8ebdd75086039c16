"""The mixture: how thoughts enter a query without drowning it. Needs numpy (`[vectors]` or `[bm25]`).

```
vectors   unit((1 - weight) * v_q + weight * mean(u_i))         u_i: the unit vector of a thought
scores    (1 - weight) * z(s_q) + weight * mean(z(s_i))         s_i: its scores; z over the corpus
```
A thought that replaces the query, or is appended to it, loses on most collections; with a weight of about 0.2
it gained on all that were looked at (docs/log.md). The mean of the u_i is not scaled to unit length again:
thoughts that disagree weigh less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, cast

from msgspec import Meta

from o1_records.files import InputError, MissingExtraError
from o1_records.types import Document, Query, Record

try:
    import numpy as np
    from numpy.typing import NDArray
except ModuleNotFoundError as error:
    raise MissingExtraError("o1-records", "vectors", "Mixing thoughts into queries") from error

Reading = Literal["joint", "query", "document"]
READINGS: tuple[Reading, ...] = ("joint", "query", "document")

Floats = NDArray[np.floating[Any]]


class Mixture(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How thoughts enter a query.

    Args:
        weight: the share of the thoughts, 0 to 1; 0 is no thinking, 1 the thoughts alone.
        reading: how the vector of a thought is made: "joint", from query and thought in one row (v_t of a
            joint model); "query", from the thought alone, as queries are read; "document", from the thought
            alone, as documents are read (HyDE on one model, Gao et al. 2023).
    """

    weight: Annotated[float, Meta(ge=0, le=1)] = 0.2
    reading: Reading = "document"

    def __post_init__(self) -> None:
        """Refuse a weight outside 0 to 1 and an unknown reading."""
        if not 0 <= self.weight <= 1:
            raise InputError(f"weight must be between 0 and 1, got {self.weight}")
        if self.reading not in READINGS:
            raise InputError(f"reading must be one of {', '.join(READINGS)}, got {self.reading!r}")


class Reads(Protocol):
    """A model that embeds queries and documents."""

    def queries(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """Return vectors of queries [queries, dim]."""

    def documents(self, documents: Sequence[Document]) -> NDArray[np.float32]:
        """Return vectors of documents [documents, dim]."""


class ReadsJointly(Reads, Protocol):
    """One that also reads a query and a thought about it in one row."""

    def joint(self, queries: Sequence[Query], thoughts: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors of queries, each with its thought [queries, dim]."""


def read_thoughts(
    model: Reads, queries: Sequence[Query], thoughts: Sequence[Sequence[str]], reading: Reading
) -> list[NDArray[np.float32]]:
    """Return for each query the vectors of its thoughts [k, dim], as `mix_vectors` takes them.

    A thought that is read alone as a query has the instruction of its query.

    Raises:
        InputError: thoughts that are not one list for each query.
    """
    if len(thoughts) != len(queries):
        raise InputError(f"{len(thoughts)} lists of thoughts for {len(queries)} queries; give one for each")
    asked = [query for query, own in zip(queries, thoughts, strict=True) for _ in own]
    texts = [text for own in thoughts for text in own]
    if not texts:
        return [np.zeros((0, 0), dtype=np.float32) for _ in queries]
    if reading == "document":
        vectors = model.documents([Document(doc_id=str(n), text=text) for n, text in enumerate(texts)])
    elif reading == "query":
        as_if = [
            Query(query_id=str(n), text=text, instruction=query.instruction)
            for n, (query, text) in enumerate(zip(asked, texts, strict=True))
        ]
        vectors = model.queries(as_if)
    else:
        vectors = cast(ReadsJointly, model).joint(asked, texts)
    return np.split(vectors, np.cumsum([len(own) for own in thoughts])[:-1])


def mix_vectors(v_q: Floats, thoughts: Sequence[Floats], weight: float) -> NDArray[np.float32]:
    """Return the query vectors [queries, dim] with their thoughts mixed in, at unit length.

    Args:
        v_q: unit vectors of the queries [queries, dim].
        thoughts: for each query the unit vectors of its thoughts [k, dim]; with none it keeps v_q.
        weight: the share of the thoughts, 0 to 1.

    Raises:
        InputError: thoughts that are not one array for each query, or of another dimension.
    """
    if len(thoughts) != len(v_q):
        raise InputError(f"{len(thoughts)} lists of thoughts for {len(v_q)} queries; give one for each")
    mixed = np.array(v_q, dtype=np.float32)
    for row, own in enumerate(thoughts):
        if not len(own):
            continue
        if own.shape[1:] != mixed.shape[1:]:
            raise InputError(
                f"thoughts of shape {own.shape} do not fit vectors of {mixed.shape[1]} dimensions"
            )
        mixed[row] = (1 - weight) * mixed[row] + weight * own.mean(axis=0, dtype=np.float32)
    norms = np.linalg.norm(mixed, axis=1, keepdims=True)
    # thoughts opposite to their query can cancel it out; then the query alone is left
    cancelled = norms[:, 0] < 1e-6
    mixed[cancelled], norms[cancelled] = v_q[cancelled], 1
    unit: NDArray[np.float32] = (mixed / norms).astype(np.float32)
    return unit


def unit_rows(vectors: Floats) -> NDArray[np.float32]:
    """Return vectors [rows, dim] at unit length; a vector of zeros stays as it is."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return unit


def mix_scores(query: Floats, thoughts: Sequence[Floats], weight: float) -> NDArray[np.float32]:
    """Return one query's scores of all documents [documents] with its thoughts' scores mixed in.

    Args:
        query: scores of the query [documents].
        thoughts: scores of each of its thoughts [documents]; with none, the z-scores of the query come back.
        weight: the share of the thoughts, 0 to 1.
    """
    own = z_scores(query)
    if not len(thoughts):
        return own
    theirs = np.mean([z_scores(each) for each in thoughts], axis=0, dtype=np.float32)
    mixed: NDArray[np.float32] = ((1 - weight) * own + weight * theirs).astype(np.float32)
    return mixed


def z_scores(scores: Floats) -> NDArray[np.float32]:
    """Return scores in standard deviations from their mean; 0 for all where they are equal."""
    centred = scores.astype(np.float32) - scores.mean(dtype=np.float64)
    deviation = float(centred.std(dtype=np.float64))
    scaled: NDArray[np.float32] = (centred / deviation if deviation > 0 else centred * 0).astype(np.float32)
    return scaled
