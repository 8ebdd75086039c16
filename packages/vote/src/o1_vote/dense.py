"""Any sentence-transformers model as a member of the committee. Needs the extra `dense`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from o1_records import Document, InputError, MissingExtraError, quoted
from o1_vote.retriever import CosineMember

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class SentenceTransformerMember(CosineMember):
    """Compare texts and documents by the cosine of a sentence-transformers model's vectors.

    `model` is a folder or a hub id; weights are read from safetensors only and remote code never
    runs. Texts beyond `max_length` tokens (the model's own limit by default) are cut there.

    Raises InputError when the model cannot be found or loaded.
    """

    def __init__(
        self,
        model: str | Path,
        documents: Iterable[Document],
        *,
        name: str = "",
        device: str | None = None,
        batch: int = 32,
        max_length: int | None = None,
    ) -> None:
        encoder = load_model(model, device=device)
        if max_length is not None:
            encoder.max_seq_length = max_length

        def encode(texts: list[str]) -> NDArray[np.float32]:
            vectors: NDArray[np.float32] = encoder.encode(
                texts, batch_size=batch, show_progress_bar=False, convert_to_numpy=True
            )
            return vectors

        super().__init__(name or str(model), encode, documents)


def load_model(model: str | Path, *, device: str | None = None) -> Any:
    """Load a SentenceTransformer from a folder or by its hub id; a cached one without network."""
    try:
        import sentence_transformers
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-vote", "dense", "A sentence-transformers member") from error
    import safetensors

    at_hand = _is_at_hand(str(model))
    try:
        return sentence_transformers.SentenceTransformer(
            str(model),
            device=device,
            local_files_only=at_hand,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except (
        OSError, ValueError, KeyError, RuntimeError, AssertionError, safetensors.SafetensorError
    ) as error:  # fmt: skip
        first_line = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{quoted(str(model))} cannot be loaded as a sentence-transformers model: {first_line}"
        ) from error


def _is_at_hand(model: str) -> bool:
    """Whether the model is on this machine. Raises InputError where it can be nowhere."""
    if Path(model).is_dir():
        return True
    if Path(model).exists() or not _HUB_ID.fullmatch(model):
        raise InputError(f"{quoted(model)} is neither a folder nor a model id of the hub")
    import huggingface_hub

    if isinstance(huggingface_hub.try_to_load_from_cache(model, "config.json"), str):
        return True
    _refuse_unreachable_hub(model, huggingface_hub.constants.ENDPOINT)
    return False


def _refuse_unreachable_hub(model: str, address: str) -> None:
    import urllib.error
    import urllib.request

    # the hub's client would retry for more than a minute before it says so
    try:
        urllib.request.urlopen(address, timeout=10).close()
    except urllib.error.HTTPError:
        return
    except OSError as error:
        raise InputError(
            f"{quoted(model)} is not a folder, is not cached, and {address} cannot be reached "
            f"({error}); give the folder of a model"
        ) from error
