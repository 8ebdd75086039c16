"""`Calibration`: what `calibrate` found about an embedder and a thinker, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from o1_model.retriever.identity import digest_of
from o1_model.thinking.gate import Gate
from o1_model.thinking.settings import Thinking
from o1_records import InputError, Record, atomic_write
from o1_records.mixture import Mixture
from o1_records.styles import Style

if TYPE_CHECKING:
    from o1_model.retriever.embedders import EmbeddingModel
    from o1_model.retriever.thinker import Thinker

Search = Literal["dense", "bm25", "hybrid"]
SEARCHES: tuple[Search, ...] = ("dense", "bm25", "hybrid")

CALIBRATION_FILE = "o1_calibration.json"
"""In a checkpoint's folder: its calibration. It is no part of the model's digest."""


class Gain(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mean difference of a measure over queries, and its 95 % interval (paired bootstrap)."""

    mean: float
    low: float
    high: float


class Share(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gain a query if only a share of the queries may think: by the gate, held out, and at random."""

    share: float
    gate: float
    random: float


class Calibration(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How thoughts should enter the queries of an embedder, and what that gained on held-out queries.

    Args:
        embedder: its name, and `embedder_digest` of what it is.
        thinker: its name, and `thinker_digest` of what it is.
        search: "dense", "bm25" or "hybrid"; `split_identifiers` is how BM25 read the texts.
        style: what the thinker was asked for, if it is asked.
        thinking: how to think.
        mixture: how thoughts enter a query. A weight of 0: nothing gained, do not think.
        document_weight: how thoughts enter the documents.
        gate: which queries to think about, if a budget was set and the gate is better than chance.
        collection: on what this was found, with `split`, and the numbers of `queries` and `documents`.
        measure: of all figures here.
        base: without any thought.
        gains: by cross-validation: of thoughts in queries ("queries"), documents, and "both".
        controls: of what should not help, at the same weight and reading: "empty", "other" (another query's),
            "filler", "copy", and of documents "other document".
        by_weight: gain by weight with the best reading and length, on all queries; not held out, and given
            even where `why` decides against thinking.
        shares: what a gate would give.
        tokens: written a query.
        ms_thinking: of one query by itself, for its thoughts.
        ms_embedding: of one query by itself, for its vector.
        why: the decision in a sentence.
    """

    embedder: str
    embedder_digest: str
    thinker: str
    thinker_digest: str
    search: Search = "dense"
    split_identifiers: bool = False
    style: Style | None = None
    thinking: Thinking
    mixture: Mixture
    document_weight: float = 0.0
    gate: Gate | None = None
    collection: str
    split: str
    queries: int
    documents: int
    measure: str = "nDCG@10"
    base: float
    gains: dict[str, Gain]
    controls: dict[str, Gain]
    by_weight: dict[str, float]
    shares: list[Share]
    tokens: float
    ms_thinking: float
    ms_embedding: float
    why: str

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        with atomic_write(path) as file:
            file.write(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    def refuse_others(self, embedder: EmbeddingModel, thinker: Thinker | None) -> None:
        """Raise InputError where this was found about another embedder or thinker."""
        for kind, name, digest, given in (
            ("embedder", self.embedder, self.embedder_digest, embedder),
            ("thinker", self.thinker, self.thinker_digest, thinker),
        ):
            if given is not None and digest_of(given.fingerprint) != digest:
                raise InputError(
                    f"the calibration is of the {kind} {name} ({digest[:12]}), "
                    f"not of {given.name} ({digest_of(given.fingerprint)[:12]}); run `o1-model calibrate`"
                )


def load_calibration(path: str | Path) -> Calibration:
    """Read a calibration: its file, or a folder that has one. Raises InputError when the file is none."""
    path = Path(path) / CALIBRATION_FILE if Path(path).is_dir() else Path(path)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f"{path}: {error}; is this a file of `o1-model calibrate`?") from error
