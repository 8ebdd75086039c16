"""Loading a checkpoint from a folder or the hub, an adapter with its base; starting one from a plain model.

Weights are read from safetensors only and remote code runs only if the caller asks for it, so that loading
a stranger's folder executes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import msgspec
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from o1_model.backbone import Backbone, Loading, embedding_matrix, grow_vocabulary, load_lm, load_tokenizer
from o1_model.checkpoint.certificate import refuse_changed_files
from o1_model.checkpoint.foreign import MODULES, check_rows, foreign_layout
from o1_model.checkpoint.lora import is_adapter, load_adapter, merge_lora
from o1_model.checkpoint.save import load_mixture
from o1_model.encoding.encode import most_tokens
from o1_model.layout import FILE_NAME, Layout, Name, changed_layout, known_layout, load_layout, new_layout
from o1_records import InputError
from o1_records.kit.models import SAFE, digest_of_files, loading, model_digest, model_files, model_folder
from o1_records.mixture import Mixture

_CODE = "*.py"
_PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model with everything it takes to make vectors; `digest` changes whenever they would.

    It is "" for a model that was never saved. `mixture` is how thoughts were mixed in when it was trained.
    """

    backbone: Backbone
    layout: Layout
    tokenizer: PreTrainedTokenizerBase
    name: str
    digest: str = ""
    mixture: Mixture | None = None


def load_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    layout: Name | None = None,
    base: str | Path | None = None,
    gguf_file: str | None = None,
    layout_settings: Mapping[str, Any],
    **how: Unpack[Loading],
) -> Checkpoint:
    """Load a folder or a hub id (at `revision`).

    A checkpoint without `o1_layout.json` needs the name of its `layout`, such as "reference" for those of the
    public O1 code, whose tokenizer must have that layout's control tokens; a folder for sentence-transformers
    is read as its files say, in the layout "instruct". `layout_settings` are fields of Layout: the lengths,
    the instruction, ... `base` is where the base model of an adapter is now, if not where the adapter says;
    `gguf_file` is in the folder and has the weights. Raises InputError when something is missing, changed
    since it was saved, or not in safetensors.
    """
    trusted = how.get("trust_remote_code", False)
    safe = [*SAFE, *([_CODE] if trusted else []), *([gguf_file] if gguf_file else [])]
    folder = model_folder(name_or_path, revision, patterns=safe)
    if layout is None and not (folder / FILE_NAME).exists():
        if not (folder / MODULES).exists():
            raise InputError(
                f"{folder}: no {FILE_NAME}; is this a checkpoint of o1-model? Train a plain language model "
                f"first, or try it as it is: Embedder.from_backbone({str(name_or_path)!r}). For a checkpoint "
                "of the public O1 code give layout='reference', for an embedding model that reads its last "
                "token layout='instruct'"
            )
        layout = "instruct"
    by_peft = (folder / _PEFT_CONFIG).exists()
    if by_peft and not (folder / "adapter_model.safetensors").exists():
        raise InputError(f"{folder}: no adapter_model.safetensors; adapters in pickles are not loaded")
    if base is not None and not (by_peft or is_adapter(folder)):
        raise InputError(f"{folder}: is not an adapter and has no base; leave out base {str(base)!r}")
    if gguf_file is not None and (by_peft or is_adapter(folder)):
        raise InputError(f"{folder}: is an adapter, whose weights are in safetensors; leave out gguf_file")
    files = model_files(folder)
    refuse_changed_files(folder, files, weights=gguf_file is None)
    tokenizer = load_tokenizer(folder, trust_remote_code=trusted)
    digest = digest_of_files(files)
    if is_adapter(folder):
        own = _layout(folder, tokenizer, layout, layout_settings)
        backbone = load_adapter(folder, base=base, **how)
        merge_lora(backbone)
    else:
        if by_peft:
            place = model_folder(base or _base_of_peft(folder), patterns=safe)
            lm = _merged(folder, place, tokenizer, how)
            digest = hashlib.sha256(f"{digest} {model_digest(place)}".encode()).hexdigest()
        else:
            lm = load_lm(folder, gguf_file=gguf_file, **how)
        own = _layout(folder, tokenizer, layout, layout_settings, lm)
        _refuse_missing_rows(folder, lm, own, tokenizer)
        backbone = Backbone(lm, own.control_ids)
    _refuse_longer_rows(backbone, own)
    if layout is not None or layout_settings:
        digest = hashlib.sha256(digest.encode() + msgspec.json.encode(own)).hexdigest()
    if gguf_file is not None or how.get("quantization") is not None:
        weights = f"{digest} {gguf_file} {_settings_of(how.get('quantization'))}"
        digest = hashlib.sha256(weights.encode()).hexdigest()
    name = str(name_or_path)
    if Path(name_or_path).is_dir():
        name = Path(name_or_path).resolve().name
    elif revision:
        name = f"{name_or_path}@{revision}"
    return Checkpoint(backbone, own, tokenizer, name, digest, load_mixture(folder))


def new_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    gguf_file: str | None = None,
    layout_settings: Mapping[str, Any],
    **how: Unpack[Loading],
) -> Checkpoint:
    """Start from a plain model: add the control tokens of a layout; nothing else changes.

    `layout_settings` are arguments of `new_layout`.
    """
    trusted = how.get("trust_remote_code", False)
    tokenizer = load_tokenizer(
        name_or_path, revision=revision, trust_remote_code=trusted, gguf_file=gguf_file
    )
    lm = load_lm(name_or_path, revision=revision, gguf_file=gguf_file, **how)
    layout = new_layout(tokenizer, **layout_settings)
    grow_vocabulary(lm, tokenizer)
    backbone = Backbone(lm, layout.control_ids)
    _refuse_longer_rows(backbone, layout)
    name = Path(name_or_path).name if gguf_file is None else Path(gguf_file).stem
    return Checkpoint(backbone, layout, tokenizer, name)


def _layout(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    name: Name | None,
    settings: Mapping[str, Any],
    lm: PreTrainedModel | None = None,
) -> Layout:
    if name is not None and not (folder / FILE_NAME).exists():
        if name != "instruct" or lm is None:
            return known_layout(tokenizer, name=name, **settings)
        closed = settings.get("eos") is not None
        by_files = foreign_layout(folder, tokenizer, lm.config.get_text_config(), closed=closed)
        layout = known_layout(tokenizer, name=name, **{**by_files, **settings})
        if "eos" not in settings:  # else the rows are to differ
            check_rows(folder, layout, tokenizer)
        return layout
    own = load_layout(folder)
    if name not in (None, own.name):
        raise InputError(f"{folder}: was saved with layout {own.name!r}, not {name!r}")
    try:
        return changed_layout(own, **settings)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def _settings_of(quantization: Any) -> str:
    return "" if quantization is None else json.dumps(quantization.to_dict(), sort_keys=True, default=str)


def _merged(folder: Path, base: Path, tokenizer: PreTrainedTokenizerBase, how: Loading) -> PreTrainedModel:
    """Return the base with the adapter that peft alone left in `folder` merged into it."""
    from peft import PeftModel

    lm = load_lm(base, **how)
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
    if max((*layout.control_ids, layout.eos)) >= rows:
        raise InputError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens, its model {rows} rows: the control "
            "tokens were never saved with the weights"
        )


def _refuse_longer_rows(backbone: Backbone, layout: Layout) -> None:
    most, longest = most_tokens(backbone, layout), layout.longest
    if layout.name == "instruct":
        longest -= 3 - (layout.bos is not None) - (layout.emb is not None)
    if most is not None and longest > most:
        window = " in a window, which latent steps look back through" if most != backbone.positions else ""
        raise InputError(
            f"the layout has rows of up to {longest} tokens, the model takes {most}{window}; "
            "lower query_length, thought_length or document_length"
        )
