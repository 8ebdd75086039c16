"""Loading a checkpoint from a folder or the hub, an adapter with its base; starting one from a plain model.

Weights are read from safetensors only and remote code runs only if the caller asks for it, so that loading
a stranger's folder executes nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from o1_model.backbone import Backbone, embedding_matrix, grow_vocabulary, load_lm, load_tokenizer
from o1_model.checkpoint.certificate import refuse_changed_files
from o1_model.checkpoint.lora import is_adapter, load_adapter, merge_lora
from o1_model.layout import FILE_NAME, Layout, Name, known_layout, load_layout, new_layout
from o1_records import InputError
from o1_records.kit.models import SAFE, digest_of_files, loading, model_digest, model_files, model_folder

_CODE = "*.py"
_PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model with everything it takes to make vectors; `digest` changes whenever they would.

    It is "" for a model that was never saved.
    """

    backbone: Backbone
    layout: Layout
    tokenizer: PreTrainedTokenizerBase
    name: str
    digest: str = ""


def load_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    layout: Name | None = None,
    base: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    **layout_settings: Any,
) -> Checkpoint:
    """Load a folder or a hub id (at `revision`).

    A checkpoint without `o1_layout.json` needs the name of its `layout`, such as "reference" for
    those of the public O1 code; its tokenizer must have that layout's control tokens.
    `layout_settings` are fields of Layout: the lengths, the instruction, ... `base` is where the base
    model of an adapter is now, if not where the adapter says. Raises InputError when something is
    missing, changed since it was saved, or not in safetensors.
    """
    safe = [*SAFE, _CODE] if trust_remote_code else SAFE
    folder = model_folder(name_or_path, revision, patterns=safe)
    if layout is None and not (folder / FILE_NAME).exists():
        raise InputError(
            f"{folder}: no {FILE_NAME}; is this a checkpoint of o1-model? For one of the public O1 code "
            "give layout='reference', for a plain embedding model that reads its last token layout='instruct'"
        )
    by_peft = (folder / _PEFT_CONFIG).exists()
    if by_peft and not (folder / "adapter_model.safetensors").exists():
        raise InputError(f"{folder}: no adapter_model.safetensors; adapters in pickles are not loaded")
    if base is not None and not (by_peft or is_adapter(folder)):
        raise InputError(f"{folder}: is not an adapter and has no base; leave out base {str(base)!r}")
    files = model_files(folder)
    refuse_changed_files(folder, files)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    own = _layout(folder, tokenizer, layout, layout_settings)
    digest = digest_of_files(files)
    if is_adapter(folder):
        backbone = load_adapter(folder, base=base, dtype=dtype)
        merge_lora(backbone)
    else:
        if by_peft:
            place = model_folder(base or _base_of_peft(folder), patterns=safe)
            lm = _merged(folder, place, tokenizer, dtype, trust_remote_code)
            digest = hashlib.sha256(f"{digest} {model_digest(place)}".encode()).hexdigest()
        else:
            lm = load_lm(folder, dtype=dtype, trust_remote_code=trust_remote_code)
        _refuse_missing_rows(folder, lm, own, tokenizer)
        backbone = Backbone(lm, own.control_ids)
    _refuse_longer_rows(backbone.lm, own)
    if layout is not None or layout_settings:
        digest = hashlib.sha256(digest.encode() + msgspec.json.encode(own)).hexdigest()
    name = str(name_or_path)
    if Path(name_or_path).is_dir():
        name = Path(name_or_path).resolve().name
    elif revision:
        name = f"{name_or_path}@{revision}"
    return Checkpoint(backbone, own, tokenizer, name, digest)


def new_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    quantization: Any = None,
    **layout_settings: Any,
) -> Checkpoint:
    """Start from a plain model: add the control tokens of a layout; nothing else changes.

    `quantization` is transformers' (`lora.four_bits`); `layout_settings` are arguments of `new_layout`.
    """
    tokenizer = load_tokenizer(name_or_path, revision=revision)
    lm = load_lm(name_or_path, revision=revision, quantization=quantization)
    layout = new_layout(tokenizer, **layout_settings)
    _refuse_longer_rows(lm, layout)
    grow_vocabulary(lm, tokenizer)
    return Checkpoint(Backbone(lm, layout.control_ids), layout, tokenizer, Path(name_or_path).name)


def _layout(
    folder: Path, tokenizer: PreTrainedTokenizerBase, name: Name | None, settings: dict[str, Any]
) -> Layout:
    if name is not None and not (folder / FILE_NAME).exists():
        return known_layout(tokenizer, name=name, **settings)
    own = load_layout(folder)
    if name not in (None, own.name):
        raise InputError(f"{folder}: was saved with layout {own.name!r}, not {name!r}")
    try:
        changed = msgspec.structs.replace(own, **settings)
        return msgspec.convert(msgspec.to_builtins(changed), Layout)
    except (msgspec.ValidationError, TypeError) as error:
        raise InputError(f"{folder}: layout: {error}; got {settings}") from error


def _merged(
    folder: Path, base: Path, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype, trust_remote_code: bool
) -> PreTrainedModel:
    """Return the base with the adapter that peft alone left in `folder` merged into it."""
    from peft import PeftModel

    lm = load_lm(base, dtype=dtype, trust_remote_code=trust_remote_code)
    grow_vocabulary(lm, tokenizer)
    with loading(folder, "an adapter"):
        merged: PreTrainedModel = PeftModel.from_pretrained(lm, str(folder)).merge_and_unload()
    return merged


def _base_of_peft(folder: Path) -> str:
    """Return what peft's configuration names as the base."""
    path = folder / _PEFT_CONFIG
    try:
        name = json.loads(path.read_bytes()).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: {error}") from error
    if not name:
        raise InputError(f"{path}: names no base model; give base=")
    return str(name)


def _refuse_missing_rows(
    folder: Path, lm: PreTrainedModel, layout: Layout, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = len(embedding_matrix(lm))
    if max((*layout.control_ids, layout.emb)) >= rows:
        raise InputError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens, its model {rows} rows: the control "
            "tokens were never saved with the weights"
        )


def _refuse_longer_rows(lm: PreTrainedModel, layout: Layout) -> None:
    positions = getattr(lm.config, "max_position_embeddings", None)
    if positions is not None and layout.longest > positions:
        raise InputError(
            f"the layout has rows of up to {layout.longest} tokens, the model takes {positions}; "
            "lower query_length, thought_length or document_length"
        )
