"""Embedding models that others made: what their tokenizer and their sentence-transformers files say of a row.

A folder for sentence-transformers says which modules make a vector (`modules.json`), how states are pooled
(`1_Pooling`), which text stands before a query or a document (`config_sentence_transformers.json`) and how
long a row may be (`sentence_bert_config.json`). What the layout `instruct` can express is taken over,
everything else is refused, and the rows are compared with the tokenizer's own before the model is used.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from o1_model.backbone import DECODERS_OF_ENCODERS
from o1_model.checkpoint.certificate import PLAIN_TEXTS, ROLES, row_ids
from o1_model.layout import INSTRUCTION, Layout, changed_layout, query_prefix, row_frame, text_ids
from o1_records import InputError, quoted

MODULES = "modules.json"
_READ_OUTS = {"lasttoken": "token", "mean": "mean", "cls": "first"}
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_INSTRUCT = re.compile(r"Instruct: (.+)(\nQuery: ?)", re.DOTALL)
_UNSAID = 10**9  # a tokenizer without a maximum length says 1e30
_NO_LIMIT = 1 << 20


def foreign_layout(
    folder: Path, tokenizer: PreTrainedTokenizerBase, config: Any, *, closed: bool = False
) -> dict[str, Any]:
    """Return the fields of an `instruct` layout that a model's files determine.

    `config` is its transformers configuration; rows are `closed` by a token even if the tokenizer appends
    none. Without files for sentence-transformers that is its attention
    and the greatest lengths. Raises InputError for what the layout cannot express.
    """
    pooling = _pooling(folder)
    # (they are loaded as decoders, whatever their file says)
    as_encoder = not _json(folder / "config.json").get("is_decoder")
    two_way = config.model_type in DECODERS_OF_ENCODERS and as_encoder
    two_way |= getattr(config, "is_causal", True) is False or bool(
        getattr(config, "use_bidirectional_attention", False)
    )
    settings: dict[str, Any] = {"attention": "prefix" if two_way else "causal", "readout": pooling}
    prompts = _json(folder / "config_sentence_transformers.json").get("prompts") or {}
    settings |= _query_prompt(str(prompts.get("query") or ""))
    settings["document_prompt"] = str(prompts.get("document") or "")
    before, after = row_frame(tokenizer)
    around = (before is not None) + (closed or after is not None)
    return {**settings, **_lengths(folder, tokenizer, config, settings, around)}


def check_rows(folder: Path, layout: Layout, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError where a row is not what the tokenizer itself makes of the prompt and the text."""
    whole = changed_layout(layout, query_length=_NO_LIMIT, document_length=_NO_LIMIT)
    for role in ROLES:
        prompt = query_prefix(layout) if role == "query" else layout.document_prompt
        for text, row in zip(PLAIN_TEXTS, row_ids(whole, tokenizer, role, PLAIN_TEXTS), strict=True):
            expected: Any = tokenizer(prompt + text, verbose=False)["input_ids"]
            if list(row) != (expected or [layout.eos]):
                raise InputError(
                    f"{folder}: its tokenizer makes {expected[:8]}... of the {role} {quoted(text[:24])}, "
                    f"this layout {list(row[:8])}...; give eos=, or use sentence-transformers"
                )


def _pooling(folder: Path) -> str:
    """Return how states become a vector: a `readout` of a layout."""
    if not (folder / MODULES).exists():
        return "token"
    modules: Any = json.loads((folder / MODULES).read_bytes())
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if (
        kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
        or modules[0]["path"]
    ):
        raise InputError(
            f"{folder}/{MODULES}: vectors are made by {', '.join(kinds)}; only a Transformer in the folder "
            "itself, Pooling and Normalize are known here; use sentence-transformers"
        )
    path = folder / modules[1]["path"] / "config.json"
    settings = _json(path)
    modes = settings.get("pooling_mode") or [mode for flag, mode in _FLAGS.items() if settings.get(flag)]
    modes = [modes] if isinstance(modes, str) else list(modes) or ["mean"]
    if len(modes) != 1 or modes[0] not in _READ_OUTS or settings.get("include_prompt") is False:
        raise InputError(
            f"{path}: pools by {' and '.join(modes)}"
            f"{' without the prompt' if settings.get('include_prompt') is False else ''}; only "
            f"{', '.join(_READ_OUTS)} (with the prompt) are known here; use sentence-transformers"
        )
    return _READ_OUTS[modes[0]]


def _query_prompt(prompt: str) -> dict[str, str]:
    """Return the fields for a prompt before queries, taken apart if it holds an instruction."""
    if not prompt:
        return {}
    found = _INSTRUCT.fullmatch(prompt)
    if found is None:
        return {"query_prompt": prompt}
    return {"instruction": found[1], "query_prompt": f"Instruct: {INSTRUCTION}{found[2]}"}


def _lengths(
    folder: Path, tokenizer: PreTrainedTokenizerBase, config: Any, settings: dict[str, Any], around: int
) -> dict[str, int]:
    """Return how many tokens of a text fit into a row as long as the files, else the model, allow.

    `around` counts the tokens around prompt and text.
    """
    own: dict[str, Any] = {}
    for path in sorted(folder.glob("sentence_*_config.json")):
        own = _json(path)
        if own.get("do_lower_case") or own.get("query_expansion") or own.get("modality_config"):
            raise InputError(
                f"{path}: do_lower_case, query_expansion and modality_config are not known here; use "
                "sentence-transformers"
            )
    most = own.get("max_seq_length") or (own.get("processor_kwargs") or {}).get("model_max_length")
    if most is None:
        bounds = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
        most = min((bound for bound in bounds if bound and 0 < bound < _UNSAID), default=8192)
    instruction = settings.get("instruction", "")
    before = settings.get("query_prompt", "").replace(INSTRUCTION, instruction)
    prompts = {"query_length": before, "document_length": settings["document_prompt"]}
    return {
        name: max(1, int(own.get(name) or most) - around - len(text_ids(tokenizer, [prompt])[0]))
        for name, prompt in prompts.items()
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no JSON object")
    return content
