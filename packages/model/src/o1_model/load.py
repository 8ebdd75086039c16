"""Loading a checkpoint: from a folder or the hub, with its base when it is an adapter.

Weights are read from safetensors alone and remote code runs only if the caller asks for it, so that
loading a stranger's folder executes nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from o1_model.backbone import Backbone, embedding_matrix, grow_vocabulary, load_lm, load_tokenizer
from o1_model.certificate import refuse_changed_files
from o1_model.checkpoint import checkpoint_digest, digest_of, vector_files
from o1_model.layout import FILE_NAME, Layout, Name, known_layout, load_layout
from o1_model.lora import is_adapter, load_adapter, merge_lora
from o1_records import InputError

# what is fetched from the hub: no pickles, no code
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
_CODE = "*.py"
_PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model with everything it takes to make vectors; `digest` changes whenever they would."""

    backbone: Backbone
    layout: Layout
    tokenizer: PreTrainedTokenizerBase
    name: str
    digest: str


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
    `layout_settings` are fields of Layout: the lengths, the instruction, ... `base` says where the
    base model of an adapter is, when it is not where the adapter says. Raises InputError when
    something is missing, changed since it was saved, or not in safetensors.
    """
    folder = checkpoint_folder(name_or_path, revision, code=trust_remote_code)
    files = vector_files(folder)
    refuse_changed_files(folder, files)
    _refuse_without_layout(folder, layout)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    own = _layout(folder, tokenizer, layout, layout_settings)
    digest = digest_of(files)
    try:
        if is_adapter(folder):
            backbone = load_adapter(folder, base=base, dtype=dtype)
            merge_lora(backbone)
        else:
            lm, base_digest = _language_model(folder, base, tokenizer, dtype, trust_remote_code)
            digest = hashlib.sha256(f"{digest} {base_digest}".encode()).hexdigest() if base_digest else digest
            backbone = _backbone(folder, lm, own, tokenizer)
    except SafetensorError as error:
        raise InputError(f"{folder}: its weights are damaged: {error}") from error
    if layout is not None or layout_settings:
        digest = hashlib.sha256(digest.encode() + msgspec.json.encode(own)).hexdigest()
    return Checkpoint(backbone, own, tokenizer, _name(name_or_path, revision), digest)


def checkpoint_folder(name_or_path: str | Path, revision: str | None = None, *, code: bool = False) -> Path:
    """The folder itself, or the local copy of a hub repository; downloads what is missing of it."""
    path = Path(name_or_path)
    if path.is_dir():
        if revision is not None:
            raise InputError(f"{path}: is a folder; a revision ({revision!r}) belongs to a hub id")
        return path
    if path.is_absolute() or str(name_or_path).startswith(".") or len(path.parts) > 2:
        raise InputError(f"{path}: there is no such folder")
    from huggingface_hub import snapshot_download

    wanted = [*_WANTED, _CODE] if code else [*_WANTED]
    try:
        found = snapshot_download(str(name_or_path), revision=revision, allow_patterns=wanted)
    except (OSError, ValueError) as error:
        at = f" at {revision!r}" if revision else ""
        raise InputError(
            f"{str(name_or_path)!r} is no folder here, and the hub gave no such model{at}: {error}"
        ) from error
    return Path(found)


def _refuse_without_layout(folder: Path, name: Name | None) -> None:
    if name is None and not (folder / FILE_NAME).exists():
        raise InputError(
            f"{folder}: no {FILE_NAME}; is this a checkpoint of o1-model? "
            "For one of the public O1 code give layout='reference', for a plain embedding model "
            "that reads its last token layout='instruct'"
        )


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


def _backbone(
    folder: Path, lm: PreTrainedModel, layout: Layout, tokenizer: PreTrainedTokenizerBase
) -> Backbone:
    rows = len(embedding_matrix(lm))
    if max((*layout.control_ids, layout.emb)) >= rows:
        raise InputError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens, its model {rows} rows: the control "
            "tokens were never saved with the weights"
        )
    return Backbone(lm, layout.control_ids)


def _language_model(
    folder: Path,
    base: str | Path | None,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, str]:
    """The model of a folder; where peft left an adapter, its base with that merged, and the base's digest."""
    if not (folder / _PEFT_CONFIG).exists():
        return load_lm(folder, dtype=dtype, trust_remote_code=trust_remote_code), ""
    if not (folder / "adapter_model.safetensors").exists():
        raise InputError(f"{folder}: no adapter_model.safetensors; adapters in pickles are not loaded")
    from peft import PeftModel

    place = checkpoint_folder(base or _base_of(folder), code=trust_remote_code)
    lm = load_lm(place, dtype=dtype, trust_remote_code=trust_remote_code)
    grow_vocabulary(lm, tokenizer)
    merged: PreTrainedModel = PeftModel.from_pretrained(lm, str(folder)).merge_and_unload()
    return merged, checkpoint_digest(place)


def _base_of(folder: Path) -> str:
    """What peft's configuration names as the base."""
    path = folder / _PEFT_CONFIG
    try:
        name = json.loads(path.read_bytes()).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: {error}") from error
    if not name:
        raise InputError(f"{path}: names no base model; give base=")
    return str(name)


def _name(name_or_path: str | Path, revision: str | None) -> str:
    if Path(name_or_path).is_dir():
        return Path(name_or_path).resolve().name
    return f"{name_or_path}@{revision}" if revision else str(name_or_path)
