"""A cross-encoder as a member: it reads text and document together. Needs the extra `dense`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from o1_records import InputError, quoted
from o1_vote.batches import by_length, tokens_of
from o1_vote.dense import Loading
from o1_vote.hub import digest_of_model, explained, load_options
from o1_vote.retriever import Documents, Pair, documents_by_id, refuse_unknown
from o1_vote.vector_cache import VectorCache

_COMMIT = 512
_HEADLESS = ("Model", "ForMaskedLM")
"""How the architectures end that have no head for pairs: one of random weights would be put on them."""


class CrossEncoderMember:
    """Score each pair by a sentence-transformers CrossEncoder with one label.

    Distinct pairs are read once; their scores are kept in `cache`. It cannot score a whole corpus, so
    it judges similarities and margins to given negatives, and teaches. `loading` and errors as in
    `SentenceTransformerMember`; it runs on the first device.
    """

    def __init__(
        self,
        model: str | Path,
        documents: Documents,
        *,
        name: str = "",
        cache: VectorCache | None = None,
        loading: Loading | None = None,
    ) -> None:
        self.name = name or str(model)
        self._loading = loading = loading or Loading()
        options = load_options(str(model), loading.revision)
        import sentence_transformers
        import torch

        from o1_vote.onednn import speed_up

        dtype = "float32" if loading.dtype == "auto" else loading.dtype
        options["model_kwargs"]["dtype"] = getattr(torch, dtype)
        device = loading.devices[0] if loading.devices else None
        with explained(str(model), "a cross-encoder"):
            self._model = sentence_transformers.CrossEncoder(
                str(model), device=device, max_length=loading.max_length, **options
            )
        if self._model.num_labels != 1:
            raise InputError(
                f"{quoted(str(model))} has {self._model.num_labels} labels; a member needs one score"
            )
        architectures = self._model.config.architectures or []
        if architectures and all(name.endswith(_HEADLESS) for name in architectures):
            raise InputError(
                f"{quoted(str(model))} is no cross-encoder ({', '.join(architectures)} has no trained score "
                "of a pair); for a model of embeddings say st:MODEL"
            )
        self._documents = documents if isinstance(documents, Mapping) else documents_by_id(documents)
        self._cache = cache or VectorCache()
        version = importlib.metadata.version("sentence-transformers")
        digest = digest_of_model(str(model), loading.revision)
        products = f"{dtype} onednn" if speed_up(self._model) else dtype
        self._fingerprint = f"ce {version} {digest} {products} {loading.max_length}"

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """The model's score of each (text, doc_id): float32 [pairs]."""
        refuse_unknown(self.name, pairs, self._documents)
        read = [(text, self._documents[doc_id].full_text) for text, doc_id in pairs]
        # a length before the text keeps two pairs of one joined text apart
        keys = [f"{len(text)} {text}{document}" for text, document in read]
        scores = self._cache.get(self._fingerprint, dict.fromkeys(keys))
        missing = {key: pair for key, pair in zip(keys, read, strict=True) if key not in scores}
        waiting = sorted(missing, key=len)
        for start in range(0, len(waiting), _COMMIT):
            some = waiting[start : start + _COMMIT]
            new = dict(zip(some, self._predict([missing[key] for key in some]), strict=True))
            self._cache.put(self._fingerprint, new)
            scores.update(new)
        return np.array([scores[key][0] for key in keys], dtype=np.float32)

    def _predict(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        """Scores [pairs, 1]."""
        result = np.zeros((len(pairs), 1), dtype=np.float32)
        lengths = tokens_of(self._model, [" ".join(pair) for pair in pairs])
        for places in by_length(lengths, self._loading.tokens):
            some = [pairs[place] for place in places]
            result[places, 0] = self._model.predict(some, batch_size=len(some), show_progress_bar=False)
        return result
