"""Any sentence-transformers model as a member of the committee. Needs the extra `dense`."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from o1_records import InputError, quoted
from o1_vote.batches import by_length, tokens_of
from o1_vote.cosine import CosineMember, Encode
from o1_vote.hub import digest_of_model, explained, load_options
from o1_vote.retriever import Documents
from o1_vote.vector_cache import VectorCache

DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass(frozen=True)
class Loading:
    """How a model is loaded and run.

    `devices` are those of PyTorch; with several, each holds a copy of the model and takes a share of
    the texts. `dtype` "auto" is bfloat16 where a short timing finds it clearly faster than float32; it moves
    a cosine by some 0.001. A batch holds `batch` texts of `max_length` (256 where there is none) tokens, and
    more of shorter ones.
    """

    devices: tuple[str, ...] = ()
    dtype: str = "auto"
    batch: int = 32
    max_length: int | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        """Refuse a dtype that is not known."""
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {quoted(self.dtype)} is none of {', '.join(DTYPES)}")

    @property
    def tokens(self) -> int:
        """Of a batch, padded."""
        return self.batch * (self.max_length or 256)


class SentenceTransformerMember(CosineMember):
    """Compare texts and documents by the cosine of a sentence-transformers model's vectors.

    `model` is a folder or a hub id; weights are read from safetensors only and remote code never
    runs. Texts beyond `max_length` tokens (the model's own limit by default) are cut there.
    `query_prompt` and `document_prompt` go before thoughts and queries, and before documents.

    Raises InputError when the model cannot be found or loaded.
    """

    def __init__(
        self,
        model: str | Path,
        documents: Documents,
        *,
        name: str = "",
        query_prompt: str = "",
        document_prompt: str = "",
        cache: VectorCache | None = None,
        loading: Loading | None = None,
        device: str | None = None,
        max_length: int | None = None,
    ) -> None:
        loading = loading or Loading(devices=(device,) if device else (), max_length=max_length)
        encoder, products = load_model(model, loading)
        if loading.max_length is not None:
            encoder.max_seq_length = loading.max_length
        digest = digest_of_model(str(model), loading.revision)
        version = importlib.metadata.version("sentence-transformers")
        origin = f"st {version} {digest} {products} {encoder.max_seq_length}"
        several = len(loading.devices) > 1
        pool = encoder.start_multi_process_pool(list(loading.devices)) if several else None
        same = query_prompt == document_prompt
        super().__init__(
            name or str(model),
            _side(encoder, query_prompt, loading, pool),
            documents,
            encode_document=None if same else _side(encoder, document_prompt, loading, pool),
            cache=cache,
            fingerprint=f"{origin} {query_prompt!r} {document_prompt!r}",
        )


def load_model(model: str | Path, loading: Loading) -> tuple[Any, str]:
    """Load a SentenceTransformer from a folder or by its hub id, and say how it multiplies."""
    options = load_options(str(model), loading.revision)
    import sentence_transformers
    import torch

    from o1_vote.onednn import speed_up

    dtype = _dtype(loading)
    options["model_kwargs"]["dtype"] = getattr(torch, dtype)
    device = loading.devices[0] if loading.devices else None
    with explained(str(model), "a sentence-transformers model"):
        encoder = sentence_transformers.SentenceTransformer(str(model), device=device, **options)
    return encoder, f"{dtype} onednn" if speed_up(encoder) else dtype


def _side(encoder: Any, prompt: str, loading: Loading, pool: Any) -> Encode:
    """Embed texts with a prompt, on one device or by a pool of processes with one each."""

    def encode(texts: list[str]) -> NDArray[np.float32]:
        rows: list[NDArray[np.float32] | None] = [None] * len(texts)
        for places in _batches(encoder, texts, loading, pool):
            vectors = encoder.encode(
                [texts[place] for place in places],
                prompt=prompt,
                batch_size=loading.batch if pool else len(places),
                show_progress_bar=False,
                pool=pool,
            )
            for place, vector in zip(places, vectors, strict=True):
                rows[place] = vector
        return np.asarray(rows, dtype=np.float32)

    return encode


def _batches(encoder: Any, texts: list[str], loading: Loading, pool: Any) -> Iterable[list[int]]:
    if pool:  # which hands out the texts itself
        return [list(range(len(texts)))]
    return by_length(tokens_of(encoder, texts), loading.tokens)


def _dtype(loading: Loading) -> str:
    if loading.dtype != "auto":
        return loading.dtype
    import torch

    device = loading.devices[0] if loading.devices else "cuda" if torch.cuda.is_available() else "cpu"
    whole, half = (_seconds_to_multiply(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    # by a clear margin, so that the next run finds the vectors of this one
    return "bfloat16" if half * 1.3 < whole else "float32"


def _seconds_to_multiply(device: str, dtype: Any) -> float:
    import torch

    from o1_vote.onednn import speed_up

    layer = torch.nn.Linear(512, 512, device=device, dtype=dtype)
    speed_up(layer)
    rows = torch.ones((512, 512), device=device, dtype=dtype)
    seconds = []
    with torch.inference_mode():
        for _ in range(9):
            began = time.perf_counter()
            float(layer(rows)[0, 0])  # waits for the device
            seconds.append(time.perf_counter() - began)
    return min(seconds)
