"""Saving a checkpoint so that it gives the same vectors here and elsewhere.

Beside weights (safetensors), tokenizer, configuration and layout, a folder holds the files with which
sentence-transformers (6 or later) makes v_q and document vectors without remote code: a chat template
that writes the layout's control tokens around a text and branches on `task`, and the read-out as a
pooling module. The certificate comes last: a folder that has one is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from transformers import PreTrainedTokenizerBase

from o1_model.backbone import DECODERS_OF_ENCODERS, Backbone
from o1_model.checkpoint.certificate import CERTIFICATE, PLAIN_TEXTS, ROLES, Role, row_ids, write_certificate
from o1_model.encoding.encode import Vectors
from o1_model.layout import Layout, document_row, query_prefix, query_row, text_ids
from o1_records import InputError, atomic_write
from o1_records.mixture import Mixture

_CHAT_TEMPLATE = "chat_template.jinja"
_MODULES = "modules.json"
_TRANSFORMER = "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
_POOLING = "1_Pooling"
MIXTURE_FILE = "o1_mixture.json"
"""How thoughts were mixed into queries when this checkpoint was trained; no part of the model's digest."""
_NO_LIMIT = 1 << 20
_ENOUGH = 172  # characters of a text: two sentences of the long one, and the space after them
_HAVE_POOLERS = frozenset({"bert", "roberta", "xlm-roberta"})
_POOLING_MODES = {
    "token": "pooling_mode_lasttoken",
    "mean": "pooling_mode_mean_tokens",
    "first": "pooling_mode_cls_token",
}


def save_checkpoint(
    folder: str | Path,
    backbone: Backbone,
    layout: Layout,
    tokenizer: PreTrainedTokenizerBase,
    *,
    vectors: Mapping[Role, Vectors] | None = None,
    mixture: Mixture | None = None,
) -> None:
    """Write the whole checkpoint; with `vectors` of the certificate's texts also a certificate.

    `mixture` is how thoughts were mixed into queries when it was trained, if they were.

    Raises InputError for a model with an adapter that was not merged.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(backbone.lm, "peft_config"):
        raise InputError("the model has a LoRA adapter: merge it (lora.merge_lora), or save it as an adapter")
    # those of an earlier save do not hold for what is written now
    for name in (CERTIFICATE, _CHAT_TEMPLATE):
        (folder / name).unlink(missing_ok=True)
    with backbone.merged_control_rows():
        backbone.lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    layout.save(folder)
    save_mixture(folder, mixture)
    refusal = save_for_sentence_transformers(folder, backbone.config, layout, tokenizer)
    if vectors is not None:
        dtype = str(backbone.control_rows.dtype).removeprefix("torch.")
        write_certificate(folder, layout, tokenizer, vectors, dtype=dtype, refusal=refusal)


def save_mixture(folder: Path, mixture: Mixture | None) -> None:
    """Write the mixture that a checkpoint was trained with beside it; None removes an earlier one."""
    path = folder / MIXTURE_FILE
    path.unlink(missing_ok=True)
    if mixture is not None:
        _write(path, msgspec.json.encode(mixture).decode() + "\n")


def load_mixture(folder: Path) -> Mixture | None:
    """Return the mixture that a checkpoint was trained with, if any. Raises InputError for a damaged file."""
    path = folder / MIXTURE_FILE
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mixture)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f"{path}: {error}; remove it, and the mixture has its default weight") from error


def save_for_sentence_transformers(
    folder: Path, config: Any, layout: Layout, tokenizer: PreTrainedTokenizerBase
) -> str:
    """Write sentence-transformers' files into a checkpoint; return why it cannot have them ("" if it can).

    If it cannot, files of an earlier save are removed: they would give other vectors. `config` is the
    model's transformers configuration.
    """
    for name in (_MODULES, _TRANSFORMER, _PROMPTS):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / _POOLING, ignore_errors=True)
    if layout.latent_steps:
        return f"it takes {layout.latent_steps} latent steps, and one pass is all that is done there"
    if layout.attention == "prefix" and config.model_type not in DECODERS_OF_ENCODERS:
        return f"a {config.model_type} attends causally there, this layout in both directions"
    template = chat_template(layout, tokenizer)
    if template is None:
        return "its tokenizer splits a text differently after a control token"
    _write(folder / _CHAT_TEMPLATE, template)
    (folder / _POOLING).mkdir()
    modes = {mode: layout.readout == readout for readout, mode in _POOLING_MODES.items()}
    pooling = {"word_embedding_dimension": int(config.hidden_size), **modes}
    _write_json(folder / _POOLING / "config.json", pooling)
    _write_json(folder / _TRANSFORMER, _transformer_config(config, layout, tokenizer))
    prompts = {"query": query_prefix(layout), "document": layout.document_prompt}
    _write_json(folder / _PROMPTS, {"prompts": prompts, "similarity_fn_name": "cosine"})
    kinds = [("", "Transformer"), (_POOLING, "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    _write_json(folder / _MODULES, modules)
    return ""


def chat_template(layout: Layout, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a template that renders the rows of the layout: documents for task "document", else queries.

    None if no template gives the token ids of our rows. Tokenizers that put a space before the first
    word (SentencePiece's) leave it out after a control token: the second attempt writes it.
    """
    text = 'messages | map(attribute="content") | join'
    # a text that starts with a space, or with SentencePiece's sign for one, gets no other
    bare = f'({text})[:1] not in ["", " ", "\u2581"]'
    for content in (f"{{{{ {text} }}}}", f'{{{{ " " if {bare} }}}}{{{{ {text} }}}}'):
        template = _template(layout, tokenizer, content)
        if _renders_our_rows(layout, tokenizer, template):
            return template
    return None


def _template(layout: Layout, tokenizer: PreTrainedTokenizerBase, content: str) -> str:
    def frame(ids: Sequence[int]) -> str:
        tokens = (tokenizer.convert_ids_to_tokens(token) if token >= 0 else None for token in ids)
        return "".join(content if token is None else f"{{{{ {json.dumps(token)} }}}}" for token in tokens)

    query, document = query_row(layout, [-1]).ids, document_row(layout, [-1]).ids
    return (
        '{%- if task is defined and task == "document" -%}'
        f"{frame(document)}{{%- else -%}}{frame(query)}{{%- endif -%}}"
    )


def _renders_our_rows(layout: Layout, tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Return whether texts between control tokens, tokenised as one string, give the ids of our rows."""
    whole = msgspec.structs.replace(layout, query_length=_NO_LIMIT, document_length=_NO_LIMIT)
    texts = [text[:_ENOUGH] for text in PLAIN_TEXTS]
    for role in ROLES:
        prefix = query_prefix(layout) if role == "query" else layout.document_prompt
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


def _transformer_config(config: Any, layout: Layout, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    method = {"method": "forward", "method_output_name": "last_hidden_state"}
    processor: dict[str, Any] = {"padding_side": "right", "truncation_side": "right"}
    if tokenizer.pad_token is None:
        processor["pad_token"] = tokenizer.convert_ids_to_tokens(layout.eos)
    # there, prompts count as text
    asked, read = (len(ids) for ids in text_ids(tokenizer, [query_prefix(layout), layout.document_prompt]))
    own: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        # texts become messages, and so go through the chat template
        "modality_config": {"text": method, "message": {**method, "format": "flat"}},
        "module_output_name": "token_embeddings",
        "processor_kwargs": processor,
        "query_length": len(query_row(layout, range(asked + layout.query_length), prompt=asked).ids),
        "document_length": len(document_row(layout, range(read + layout.document_length), prompt=read).ids),
    }
    if config.model_type in DECODERS_OF_ENCODERS:
        # without a thought, prefix attention is an encoder's
        own["config_kwargs"] = {"is_decoder": layout.attention == "causal"}
    if config.model_type in _HAVE_POOLERS:
        # nobody trained one, and random weights would be reported
        own["model_kwargs"] = {"add_pooling_layer": False}
    return own


def _write_json(path: Path, content: Any) -> None:
    _write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, content: str) -> None:
    with atomic_write(path) as file:
        file.write(content.encode())
