"""A cross-encoder over the first hits of a run: it reads query and document together. Needs `[st]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from o1_bench.collection import Collection
from o1_bench.running.about import About
from o1_bench.running.encoder import readable_name
from o1_bench.score import to_dict
from o1_records import Document, Hit, InputError, MissingExtraError, Query, quoted, rank
from o1_records.kit.models import loading, model_digest, model_folder

_HEADLESS = ("Model", "ForMaskedLM")
"""How the architectures end that would get a head of random weights."""


class Reranker:
    """A sentence-transformers CrossEncoder with one label; safetensors only, no remote code.

    Args:
        model: folder or hub id.
        name: what results call it.
        device: where it runs.
        batch: pairs at a time.
        max_length: tokens of a pair that are read; the model's own limit by default.

    Raises:
        InputError: there is no such model, or it gives no single score.
        MissingExtraError: sentence-transformers is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "",
        device: str = "cpu",
        batch: int = 32,
        max_length: int | None = None,
    ) -> None:
        try:
            import sentence_transformers
        except ModuleNotFoundError as error:
            raise MissingExtraError("o1-bench", "st", "A cross-encoder") from error
        self.model, self.name, self.device = str(model), name or readable_name(str(model)), device
        self._batch, self._max_length = batch, max_length
        self._folder = model_folder(model)
        with loading(model, "a cross-encoder"):
            self._loaded: Any = sentence_transformers.CrossEncoder(
                str(self._folder),
                device=device,
                max_length=max_length,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        architectures = list(getattr(self._loaded.config, "architectures", None) or [])
        headless = architectures and all(each.endswith(_HEADLESS) for each in architectures)
        if self._loaded.num_labels != 1 or headless:
            raise InputError(
                f"{quoted(self.model)} gives no single score of a pair ({', '.join(architectures)}, "
                f"{self._loaded.num_labels} labels); name a cross-encoder"
            )

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the scores: the model's name, the digest of its files, the length."""
        digest = f"sha256:{model_digest(self._folder)}"
        return {"model": self.model, "digest": digest, "max_length": self._max_length}

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the score of each (query, document)."""
        if not pairs:
            return []
        found = self._loaded.predict(
            list(pairs), batch_size=self._batch, show_progress_bar=False, convert_to_numpy=True
        )
        return [float(score) for score in np.asarray(found, dtype=np.float32)]


class Reranked:
    """The hits of a run, the first `top` of each query in the order of a cross-encoder.

    The other hits keep their order behind them, so that recall further down stays as it was. The texts of the
    documents are read once, and those of the first hits held.

    Raises InputError for one of the first hits that the collection has no document of: it has no text.
    """

    def __init__(self, collection: Collection, hits: Iterable[Hit], reranker: Reranker, top: int) -> None:
        self._reranker, self._top = reranker, top
        run = to_dict(hits)
        self._ranked: Mapping[str, list[Hit]] = {q: rank(q, scores) for q, scores in run.items()}
        wanted = {hit.doc_id for each in self._ranked.values() for hit in each[:top]}
        self._texts = {d.doc_id: d.full_text for d in collection.documents if d.doc_id in wanted}
        if missing := wanted - self._texts.keys():
            query_id, doc_id = next(
                (q, hit.doc_id) for q, each in self._ranked.items() for hit in each if hit.doc_id in missing
            )
            raise InputError(
                f"{quoted(collection.name)} has no document {quoted(doc_id)}, which was found for query "
                f"{quoted(query_id)} ({len(missing)} such documents); without its text it cannot be "
                "reranked: search this collection again"
            )
        self.about = About(
            fingerprint={"reranker": reranker.fingerprint, "top": top},
            device=reranker.device,
            sample=self._sample,
        )

    def __call__(self, queries: Sequence[Query], k: int) -> Iterable[Hit]:
        """Yield up to k hits of each query."""
        first = {query.query_id: self._ranked.get(query.query_id, [])[: self._top] for query in queries}
        pairs = [(query.text, self._texts[hit.doc_id]) for query in queries for hit in first[query.query_id]]
        scores = iter(self._reranker.scores(pairs))
        for query in queries:
            read = {hit.doc_id: next(scores) for hit in first[query.query_id]}
            least = min(read.values(), default=0.0)
            behind = self._ranked.get(query.query_id, [])[self._top :]
            # below the lowest by whole numbers, which float32 tells apart
            rest = {hit.doc_id: least - 1 - place for place, hit in enumerate(behind)}
            yield from rank(query.query_id, read | rest, k)

    def _sample(self, queries: Sequence[Query], documents: Sequence[Document]) -> tuple[list[str], list[str]]:
        """Return the texts as they are paired; the tokenizer of the cross-encoder cuts each pair."""
        return [query.text for query in queries], [document.full_text for document in documents]
