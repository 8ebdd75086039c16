"""What thoughts did to each query: scores by the query and by each thought, kept apart, in `trace.json`.

`o1-bench run` writes it beside the result of every mixture, and `o1-bench explore` draws it. A document is
kept where it is among the first `depth` at one of the `weights`, so that the first `depth` can be told again
for each of them without the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_records import InputError, Record, atomic_write
from o1_records.jsonl import encode

TRACE = "trace.json"
DEPTH = 10
STEPS = tuple(step / 20 for step in range(21))
"""The weights for which every trace can tell the first documents again, beside its own."""

Shares = tuple[tuple[int, float], ...]


class TracedThought(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A thought as it was read, with the tokens that writing it took; 0: not known."""

    text: str
    tokens: int = 0


class TracedQuery(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One query, its thoughts, and the scores of documents by each.

    Attributes:
        query_id: the query's.
        text: the query.
        thoughts: as they were read.
        doc_ids: the documents that are kept, the largest doc_id first: of equal scores the first one wins.
        own: their scores by the query alone: v_q.d, or the standard score over the corpus.
        theirs: their scores by each thought alone.
        zero: of standard scores: those of a document without any term, by the query and by each thought. A
            document that is not above it was not found.
        inner: of vectors: v_q.v_q, v_q.u and u.u, where u is the mean of the thoughts' vectors.
        pieces: the terms or tokens of the query and of each thought; empty where scores are not sums over
            them.
        shares: for the query and each thought, for each document, what pieces add to its score: (place in
            `pieces`, share); empty for documents that are far down. Those that are left out add `rest`.
        rest: the shares that were left out, together.
    """

    query_id: str
    text: str
    thoughts: tuple[TracedThought, ...] = ()
    doc_ids: tuple[str, ...] = ()
    own: tuple[float, ...] = ()
    theirs: tuple[tuple[float, ...], ...] = ()
    zero: tuple[float, ...] = ()
    inner: tuple[float, ...] = ()
    pieces: tuple[tuple[str, ...], ...] = ()
    shares: tuple[tuple[Shares, ...], ...] = ()
    rest: tuple[tuple[float, ...], ...] = ()

    def scores(self, weights: Sequence[float]) -> NDArray[np.float32]:
        """Return the scores of the documents with the thoughts mixed in [weights, documents].

        Those that are not found at a weight have -inf.
        """
        own = np.array(self.own, dtype=np.float32)
        theirs = np.array(self.theirs, dtype=np.float32).reshape(len(self.theirs), len(own))
        weight = np.array(weights, dtype=np.float64)[:, None]
        scores = np.repeat(own[None], len(weight), axis=0)
        if self.theirs:
            mean = np.mean(theirs, axis=0, dtype=np.float32)
            rounded = (1 - weight).astype(np.float32), weight.astype(np.float32)
            scores = rounded[0] * own + rounded[1] * mean
        if self.theirs and self.inner:
            v_q, both, u = self.inner
            norm = (1 - weight) ** 2 * v_q + 2 * weight * (1 - weight) * both + weight**2 * u
            # thoughts opposite to their query cancel it out; then the query alone is left
            scores = np.where(norm < 1e-12, own, scores / np.sqrt(np.maximum(norm, 1e-12)).astype(np.float32))
        if self.zero:
            zero = np.array(self.zero, dtype=np.float32)
            by_query, by_thought = own > zero[0], (theirs > zero[1:, None]).any(axis=0)
            alone = (weight == 1) & bool(self.theirs)
            scores = np.where((by_query & ~alone) | (by_thought & (weight > 0)), scores, np.float32(-np.inf))
        return scores.astype(np.float32)

    def first(self, weight: float, depth: int = DEPTH) -> list[str]:
        """Return the best documents with the thoughts mixed in, best first."""
        (scores,) = self.scores([weight])
        order = np.argsort(-scores, kind="stable")
        return [self.doc_ids[row] for row in order[:depth] if scores[row] > -np.inf]


class Trace(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the thoughts of one result did to each query.

    Attributes:
        run: the sha256 of the run that it explains.
        of: "vectors", whose products with documents are mixed, or "standard scores".
        weight: the share of the thoughts in that run.
        reading: how the thoughts were read.
        weights: at each of them the first `depth` documents are all kept.
        depth: see `weights`.
        documents: the beginning of the text of each document that is kept.
        cut: how many characters of a document are left out, where some are.
        queries: in the order of the collection.
        why: what `pieces` are, or why there are none.
    """

    version: int = 1
    run: str
    of: Literal["vectors", "standard scores"]
    weight: float
    reading: str
    weights: tuple[float, ...] = STEPS
    depth: int = DEPTH
    documents: dict[str, str] = msgspec.field(default_factory=dict)
    cut: dict[str, int] = msgspec.field(default_factory=dict)
    queries: tuple[TracedQuery, ...] = ()
    why: str = ""


class _Head(msgspec.Struct):
    run: str


def save_trace(folder: str | Path, trace: Trace) -> None:
    """Write a trace beside its result; it appears whole or not at all."""
    path = Path(folder) / TRACE
    with atomic_write(path) as file:
        file.write(encode(trace, str(path)) + b"\n")


def load_trace(folder: str | Path, run: str) -> Trace | None:
    """Return the trace beside a result; None where there is none.

    Raises InputError where it is damaged, or explains another run than that with the digest `run`.
    """
    path = Path(folder) / TRACE
    if not path.is_file():
        return None
    try:
        trace = msgspec.json.decode(path.read_bytes(), type=Trace)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f"{path}: not a whole trace: {error}; remove it and run again") from error
    if trace.run != run:
        raise InputError(f"{path}: explains another run than the one beside it; remove it and run again")
    return trace


def traces(folder: str | Path, run: str) -> bool:
    """Return whether a folder has a trace of a run."""
    path = Path(folder) / TRACE
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Head).run == run
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeError):
        return False
