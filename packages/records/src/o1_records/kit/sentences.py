"""A sentence-transformers model as every package loads it: no pickles, no remote code, its own prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from o1_records.kit.models import loading


def sentence_model(folder: str | Path, *, device: str | None = None, dtype: Any = None) -> Any:
    """Return a `SentenceTransformer` of a folder (see `model_folder`).

    Raises ModuleNotFoundError without sentence-transformers, and InputError where it cannot be loaded.
    """
    import sentence_transformers

    with loading(folder, "a sentence-transformers model"):
        return sentence_transformers.SentenceTransformer(str(folder), device=device, **safe(dtype))


def safe(dtype: Any = None) -> dict[str, Any]:
    """Return what the constructors of sentence-transformers are told: no pickles, no remote code."""
    kwargs = {"use_safetensors": True, **({} if dtype is None else {"dtype": dtype})}
    return {"local_files_only": True, "trust_remote_code": False, "model_kwargs": kwargs}


def own_prompt(model: Any, role: str) -> str:
    """Return the prompt that a model puts before texts of a role, "query" or "document", or none."""
    prompts: dict[str, Any] = dict(model.prompts or {})
    names = ("query",) if role == "query" else ("document", "passage", "corpus")
    return next((prompt for name in names if (prompt := prompts.get(name))), "")
