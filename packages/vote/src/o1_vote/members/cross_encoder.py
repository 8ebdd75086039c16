"""A cross-encoder as a member: it reads text and document together. Needs the extra `dense`."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from o1_records import InputError
from o1_records.kit.models import loading as explained
from o1_records.kit.models import model_digest
from o1_records.kit.sentences import safe
from o1_vote.members.batches import by_length, tokens_of
from o1_vote.members.dense import Loading, find_model, kernels_of
from o1_vote.members.protocol import Documents, Pair, documents_by_id, refuse_unknown
from o1_vote.members.vector_cache import VectorCache

_COMMIT = 512
_HEADLESS = ("Model", "ForMaskedLM")
"""How the architectures end that have no head for pairs, and would get one of random weights."""


class CrossEncoderMember:
    """Score each pair by a sentence-transformers CrossEncoder with one label.

    Each distinct pair is read once, and its score kept in `cache`. It cannot search a corpus: it serves for
    similarities, for margins to given negatives, to filter mined negatives, and as a teacher. An instruction
    of a query goes before the text. Arguments and errors are those of `SentenceTransformerMember`; it runs on
    the first device, in float32 unless told otherwise.
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
        folder = find_model(model, loading.revision)
        import sentence_transformers
        import torch

        dtype = "float32" if loading.dtype == "auto" else loading.dtype
        device = loading.devices[0] if loading.devices else None
        with explained(model, "a cross-encoder"):
            self._model = sentence_transformers.CrossEncoder(
                str(folder), device=device, max_length=loading.max_length, **safe(getattr(torch, dtype))
            )
        if self._model.num_labels != 1:
            raise InputError(f"{str(model)!r} has {self._model.num_labels} labels; a member needs one score")
        architectures = self._model.config.architectures or []
        if architectures and all(name.endswith(_HEADLESS) for name in architectures):
            raise InputError(
                f"{str(model)!r} is not a cross-encoder ({', '.join(architectures)} has no trained "
                "score of a pair); for a model of embeddings give st:MODEL"
            )
        self._documents = documents if isinstance(documents, Mapping) else documents_by_id(documents)
        self._instruction = ""
        self.about = {
            "model": f"{model}, {dtype}, {self._model.max_seq_length} tokens",
            "instructions": "read before the text",
        }
        self._cache = cache or VectorCache()
        version = importlib.metadata.version("sentence-transformers")
        kernels = kernels_of(self._model, dtype)
        self.fingerprint = f"ce {version} {model_digest(folder)} {kernels} {loading.max_length}"

    def instructed(self, instruction: str) -> Self:
        """Return the member as it reads texts of queries with this instruction."""
        other = copy.copy(self)
        other._instruction = f"{instruction}\n"
        return other

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Return the model's score of each (text, doc_id): float32 [pairs]."""
        refuse_unknown(self.name, pairs, self._documents)
        read = [(f"{self._instruction}{text}", self._documents[doc_id].full_text) for text, doc_id in pairs]
        # with the length first, two pairs that join to one text have two keys
        keys = [f"{len(text)} {text}{document}" for text, document in read]
        scores = self._cache.get(self.fingerprint, dict.fromkeys(keys))
        missing = {key: pair for key, pair in zip(keys, read, strict=True) if key not in scores}
        waiting = sorted(missing, key=len)
        for start in range(0, len(waiting), _COMMIT):
            some = waiting[start : start + _COMMIT]
            new = dict(zip(some, self._predict([missing[key] for key in some]), strict=True))
            self._cache.put(self.fingerprint, new)
            scores.update(new)
        return np.array([scores[key][0] for key in keys], dtype=np.float32)

    def _predict(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        """Return the scores [pairs, 1]."""
        from o1_records.kit.onednn import fast_linear

        result = np.zeros((len(pairs), 1), dtype=np.float32)
        lengths = tokens_of(self._model, [" ".join(pair) for pair in pairs])
        for places in by_length(lengths, self._loading.tokens(self._model.device)):
            some = [pairs[place] for place in places]
            with fast_linear():
                result[places, 0] = self._model.predict(some, batch_size=len(some), show_progress_bar=False)
        return result
