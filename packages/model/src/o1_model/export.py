"""Saving a checkpoint so that it gives the same vectors elsewhere.

Beside weights (safetensors), tokenizer, configuration and layout stand the files with which
sentence-transformers (6 or later) makes v_q and document vectors without remote code: a chat template
that writes the layout's control tokens around a text and branches on `task`, and the read-out as a
pooling module. The certificate comes last: a folder that has one is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from o1_model.backbone import DECODERS_OF_ENCODERS
from o1_model.certificate import (
    CERTIFICATE,
    PLAIN_TEXTS,
    Role,
    read_certificate,
    row_ids,
    write_certificate,
)
from o1_model.layout import Layout, document_row, query_prefix, query_row
from o1_records import InputError, atomic_write

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from o1_model.embedder import Embedder

_CHAT_TEMPLATE = "chat_template.jinja"
_MODULES = "modules.json"
_TRANSFORMER = "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
_POOLING = "1_Pooling"
_NO_LIMIT = 1 << 20
_ENOUGH = 172  # characters of a text: two sentences of the long one, and the space after them
_HAVE_POOLERS = frozenset({"bert", "roberta", "xlm-roberta"})
_POOLING_MODES = {"token": "pooling_mode_lasttoken", "mean": "pooling_mode_mean_tokens"}


def save_checkpoint(embedder: Embedder, folder: str | Path, *, certificate: bool = True) -> None:
    """Write the whole checkpoint; `certificate` runs the model on eight texts at the end.

    Raises InputError for a model with an adapter that was not merged.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(embedder.backbone.lm, "peft_config"):
        raise InputError("the model has a LoRA adapter: merge it (lora.merge_lora), or save it as an adapter")
    # an earlier one is not about what is written now
    (folder / CERTIFICATE).unlink(missing_ok=True)
    with embedder.backbone.merged_control_rows():
        embedder.backbone.lm.save_pretrained(folder)
    embedder.tokenizer.save_pretrained(folder)
    embedder.layout.save(folder)
    refusal = save_for_sentence_transformers(embedder, folder)
    if certificate:
        write_certificate(embedder, folder, refusal=refusal)


def save_for_sentence_transformers(embedder: Embedder, folder: str | Path) -> str:
    """Write sentence-transformers' files into a checkpoint, or say why it cannot have them.

    Files of an earlier save are removed in the latter case: they would give other vectors.
    """
    folder = Path(folder)
    refusal = why_not_sentence_transformers(embedder)
    for name in (_MODULES, _TRANSFORMER, _PROMPTS):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / _POOLING, ignore_errors=True)
    if refusal:
        return refusal
    layout = embedder.layout
    _write(folder / _CHAT_TEMPLATE, chat_template(embedder) or "")
    (folder / _POOLING).mkdir()
    modes = {mode: layout.readout == readout for readout, mode in _POOLING_MODES.items()}
    _write_json(folder / _POOLING / "config.json", {"word_embedding_dimension": embedder.dim, **modes})
    _write_json(folder / _TRANSFORMER, _transformer_config(embedder))
    prompts = {"query": query_prefix(layout), "document": ""}
    _write_json(folder / _PROMPTS, {"prompts": prompts, "similarity_fn_name": "cosine"})
    kinds = [("", "Transformer"), (_POOLING, "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    _write_json(folder / _MODULES, modules)
    return ""


def why_not_sentence_transformers(embedder: Embedder) -> str:
    """Why sentence-transformers cannot make these vectors; empty when it can."""
    layout, model_type = embedder.layout, embedder.backbone.config.model_type
    if layout.attention == "prefix" and model_type not in DECODERS_OF_ENCODERS:
        return f"a {model_type} attends causally there, this layout both ways"
    if chat_template(embedder) is None:
        return "its tokenizer splits a text in another way when a control token stands before it"
    return ""


def chat_template(embedder: Embedder) -> str | None:
    """A template that renders the rows of the layout: documents for task "document", else queries.

    None when no template gives the token ids of our rows. Tokenizers that put a space before the first
    word (SentencePiece's) leave it out after a control token: the second attempt writes it.
    """
    text = 'messages | map(attribute="content") | join'
    # a text that starts with a space, or with SentencePiece's sign for one, gets no other
    bare = f'({text})[:1] not in ["", " ", "\u2581"]'
    for content in (f"{{{{ {text} }}}}", f'{{{{ " " if {bare} }}}}{{{{ {text} }}}}'):
        template = _template(embedder.layout, embedder.tokenizer, content)
        if _renders_our_rows(embedder, template):
            return template
    return None


def elsewhere(folder: str | Path) -> str:
    """The part of a model card on other runtimes (Markdown); empty for a folder without certificate."""
    if not (Path(folder) / CERTIFICATE).exists():
        return ""
    certificate = read_certificate(folder)
    if certificate.refusal:
        there = f"It does not load in sentence-transformers: {certificate.refusal}."
    else:
        there = (
            "sentence-transformers 6 or later gives the same vectors, without thoughts and without "
            "remote code:\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            f"model = SentenceTransformer({json.dumps(Path(folder).resolve().name)})\n"
            'queries = model.encode_query(["..."])\n'
            'documents = model.encode_document(["..."])\n```'
        )
    check = (
        f"`{CERTIFICATE}` holds the vectors of eight fixed texts; `o1-model verify` compares a runtime "
        "or a server (`--server URL`) with them."
    )
    return f"## Elsewhere\n\n{there}\n\n{check}"


def _template(layout: Layout, tokenizer: PreTrainedTokenizerBase, content: str) -> str:
    def frame(ids: Sequence[int]) -> str:
        tokens = (tokenizer.convert_ids_to_tokens(token) if token >= 0 else None for token in ids)
        return "".join(content if token is None else f"{{{{ {json.dumps(token)} }}}}" for token in tokens)

    query, document = query_row(layout, [-1]).ids, document_row(layout, [-1]).ids
    return (
        '{%- if task is defined and task == "document" -%}'
        f"{frame(document)}{{%- else -%}}{frame(query)}{{%- endif -%}}"
    )


def _renders_our_rows(embedder: Embedder, template: str) -> bool:
    """Whether texts between control tokens, tokenised as one string, give the token ids of our rows."""
    layout, tokenizer = embedder.layout, embedder.tokenizer
    whole = msgspec.structs.replace(layout, query_length=_NO_LIMIT, document_length=_NO_LIMIT)
    texts = [text[:_ENOUGH] for text in PLAIN_TEXTS]
    roles: tuple[Role, ...] = ("query", "document")
    for role in roles:
        prefix = query_prefix(layout) if role == "query" else ""
        for text, row in zip(texts, row_ids(whole, tokenizer, role, texts), strict=True):
            rendered: Any = tokenizer.apply_chat_template(
                [{"role": "user", "content": prefix + text}],
                chat_template=template,
                task=role,
                tokenize=True,
                return_dict=True,
            )
            if rendered["input_ids"] != list(row):
                return False
    return True


def _transformer_config(embedder: Embedder) -> dict[str, Any]:
    layout, tokenizer = embedder.layout, embedder.tokenizer
    method = {"method": "forward", "method_output_name": "last_hidden_state"}
    processor: dict[str, Any] = {"padding_side": "right", "truncation_side": "right"}
    if tokenizer.pad_token is None:
        processor["pad_token"] = tokenizer.convert_ids_to_tokens(layout.eos)
    config: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        # texts become messages, and so go through the chat template
        "modality_config": {"text": method, "message": {**method, "format": "flat"}},
        "module_output_name": "token_embeddings",
        "processor_kwargs": processor,
        "query_length": len(query_row(layout, range(layout.query_length)).ids),
        "document_length": len(document_row(layout, range(layout.document_length)).ids),
    }
    model_type = embedder.backbone.config.model_type
    if model_type in DECODERS_OF_ENCODERS:
        # without a thought, prefix attention is an encoder's
        config["config_kwargs"] = {"is_decoder": layout.attention == "causal"}
    if model_type in _HAVE_POOLERS:
        # nobody trained one, and random weights would be reported
        config["model_kwargs"] = {"add_pooling_layer": False}
    return config


def _write_json(path: Path, content: Any) -> None:
    _write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, content: str) -> None:
    with atomic_write(path) as file:
        file.write(content.encode())
