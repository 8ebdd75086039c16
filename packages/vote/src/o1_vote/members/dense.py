"""Any sentence-transformers model as a member of the committee. Needs the extra `dense`."""

from __future__ import annotations

import functools
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from o1_records import InputError, MissingExtraError, quoted
from o1_records.kit.models import model_digest, model_folder
from o1_records.kit.prompts import PLACE, with_instruction
from o1_records.kit.sentences import own_prompt, sentence_model
from o1_vote.members.batches import by_length, tokens_of
from o1_vote.members.cosine import CosineMember, Encode
from o1_vote.members.protocol import Documents
from o1_vote.members.vector_cache import VectorCache

DTYPES = ("float32", "bfloat16", "float16", "auto")
_BATCH = 32


@dataclass(frozen=True)
class Loading:
    """How a model is loaded and run.

    Attributes:
        devices: PyTorch's names; with several, each holds a copy of the model and takes a share of the texts.
        dtype: one of `DTYPES`; "auto" is bfloat16 where the device has instructions for it, which moves a
            cosine by about 0.001, and float32 elsewhere.
        batch: a batch holds the tokens of so many texts of `max_length` (256 if None), and more shorter
            texts; 32 by default, on a CPU 4 for each thread: the layers of larger ones leave its cache.
        max_length: texts are cut after so many tokens; the model's own limit if None.
        revision: of a hub id.
    """

    devices: tuple[str, ...] = ()
    dtype: str = "auto"
    batch: int | None = None
    max_length: int | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown dtype."""
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {quoted(self.dtype)} is none of {', '.join(DTYPES)}")

    def tokens(self, device: Any) -> int:
        """Return the most tokens of a batch on a device of PyTorch, padding included."""
        import torch

        texts = 4 * torch.get_num_threads() if device.type == "cpu" else _BATCH
        return (self.batch or texts) * (self.max_length or 256)


class SentenceTransformerMember(CosineMember):
    """Compare texts and documents by the cosine of a sentence-transformers model's vectors.

    An instruction of a query takes the place of the task where the query prompt has the form `Instruct:
    ...`, `Query:`, and of the whole prompt elsewhere; a `query_prompt` without `{instruction}` stays as it
    is. Weights are read from safetensors only and remote code never runs. On CPUs with AVX-512, float32
    layers run through oneDNN.

    Args:
        model: a folder or a hub id.
        documents: the corpus.
        name: the name on its ballots; the model's by default.
        query_prompt: goes before queries and thoughts; the model's own by default. An instruction goes where
            it has `{instruction}`.
        document_prompt: goes before documents; the model's own by default.
        cache: where vectors are kept; a temporary file by default.
        loading: how the model is loaded and run.
        device: shorthand for `loading` with one device.
        max_length: shorthand for `loading` with that length.

    Raises:
        InputError: the model cannot be found or loaded.
        MissingExtraError: sentence-transformers is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        documents: Documents,
        *,
        name: str = "",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        cache: VectorCache | None = None,
        loading: Loading | None = None,
        device: str | None = None,
        max_length: int | None = None,
    ) -> None:
        loading = loading or Loading(devices=(device,) if device else (), max_length=max_length)
        encoder, self._origin = load_model(model, loading)
        several = len(loading.devices) > 1
        pool = encoder.start_multi_process_pool(list(loading.devices)) if several else None
        own = own_prompt(encoder, "query")
        self._prompt = own if query_prompt is None else query_prompt
        self._reads_instructions = query_prompt is None or PLACE in query_prompt
        plain = own if PLACE in self._prompt else self._prompt
        if document_prompt is None:
            document_prompt = own_prompt(encoder, "document")
        # a Router has other weights for each side
        same = plain == document_prompt and not any(type(part).__name__ == "Router" for part in encoder)
        self._queries = functools.partial(_side, encoder, encoder.encode_query, loading, pool)
        documents_side = (
            None if same else _side(encoder, encoder.encode_document, loading, pool, document_prompt)
        )
        self.about = {
            "model": f"{model}, {_dtype(loading)}, {encoder.max_seq_length} tokens",
            "query prompt": repr(plain),
            "document prompt": repr(document_prompt),
            "instructions": f"read as {prompt_with(self._prompt, PLACE)!r}" if self._reads_instructions
            else "not read, for a query prompt without {instruction} was given",
        }  # fmt: skip
        super().__init__(
            name or str(model),
            self._queries(plain),
            documents,
            encode_document=documents_side,
            cache=cache,
            fingerprint=f"{self._origin} {plain!r} {document_prompt!r}",
        )

    def instructed(self, instruction: str) -> CosineMember:
        """Return the member as it reads texts of queries with this instruction."""
        if not self._reads_instructions:
            return self
        prompt = prompt_with(self._prompt, instruction)
        return self.reading(self._queries(prompt), f"{self._origin} {prompt!r}")


def prompt_with(prompt: str, instruction: str) -> str:
    """Return a query prompt with an instruction in its place, or instead of a prompt that has none."""
    placed = with_instruction(prompt, instruction)
    if placed is not None:
        return placed
    return instruction if instruction[-1:].isspace() else f"{instruction}\n"


def load_model(model: str | Path, loading: Loading) -> tuple[Any, str]:
    """Return a SentenceTransformer and the fingerprint of its vectors."""
    folder = find_model(model, loading.revision)
    import torch

    dtype = _dtype(loading)
    device = loading.devices[0] if loading.devices else None
    encoder = sentence_model(folder, device=device, dtype=getattr(torch, dtype))
    if loading.max_length is not None:
        encoder.max_seq_length = loading.max_length
    version = importlib.metadata.version("sentence-transformers")
    # processes of a pool do not know of oneDNN
    kernels = dtype if len(loading.devices) > 1 else kernels_of(encoder, dtype)
    return encoder, f"st {version} {model_digest(folder)} {kernels} {encoder.max_seq_length}"


def find_model(model: str | Path, revision: str | None) -> Path:
    """Return the folder of a model for sentence-transformers; one of the hub is downloaded if missing."""
    try:
        import sentence_transformers  # noqa: F401 - whether it can be imported
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-vote", "dense", "A sentence-transformers member") from error
    return model_folder(model, revision)


def kernels_of(model: Any, dtype: str) -> str:
    """Return what multiplies matrices: it moves a vector by about 3e-7, so it belongs to a fingerprint."""
    from o1_records.kit.onednn import is_faster

    fast = dtype == "float32" and model.device.type == "cpu" and is_faster()
    return f"{dtype} onednn" if fast else dtype


def _side(encoder: Any, encode_side: Any, loading: Loading, pool: Any, prompt: str) -> Encode:
    """Return what embeds texts with a prompt, on one device or by a pool of processes with one each."""
    from o1_records.kit.onednn import fast_linear

    # a pool distributes the texts itself; a table of vectors has no layers, and pads nothing
    table = loading.batch is None and type(encoder[0]).__name__ == "StaticEmbedding"

    def encode(texts: list[str]) -> NDArray[np.float32]:
        rows: list[NDArray[np.float32] | None] = [None] * len(texts)
        all_at_once = [list(range(len(texts)))]
        most = loading.tokens(encoder.device)
        for places in all_at_once if pool or table else by_length(tokens_of(encoder, texts), most):
            with fast_linear():
                vectors = encode_side(
                    [texts[place] for place in places],
                    prompt=prompt,
                    batch_size=loading.batch or _BATCH if pool else len(places),
                    show_progress_bar=False,
                    pool=pool,
                )
            for place, vector in zip(places, vectors, strict=True):
                rows[place] = vector
        return np.asarray(rows, dtype=np.float32)

    return encode


def _dtype(loading: Loading) -> str:
    """Return the dtype; "auto" asks for instructions and measures nothing.

    A machine always gets the same answer, so that the next run finds the vectors of this one.
    """
    if loading.dtype != "auto":
        return loading.dtype
    import torch

    device = loading.devices[0] if loading.devices else "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        capable = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # PyTorch has no public names for these
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        capable = device.startswith("cpu") and any(getattr(torch.cpu, name, bool)() for name in asked)
    return "bfloat16" if capable else "float32"
