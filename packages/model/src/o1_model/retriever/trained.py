"""A trained thinker: a LoRA adapter on an instruct model, and what it learnt to be asked.

Its folder holds peft's own `adapter_model.safetensors` and `adapter_config.json`, which names the base, and
`o1_thinker.json`. An adapter without that file is asked in a style that is given, like any instruct model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from transformers import PreTrainedModel

from o1_model.checkpoint.lora import is_adapter
from o1_model.retriever.thinker import Thinker
from o1_records import InputError, Query, Record, atomic_write
from o1_records.kit.models import loading
from o1_records.styles import Style

CONFIG_FILE = "adapter_config.json"
FILE_NAME = "o1_thinker.json"


class Example(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query, and the thought that the trained thinker wrote about it, greedily."""

    query: str
    thought: str


class Trained(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a trained thinker is: the content of `o1_thinker.json`.

    Args:
        style: what it was trained to be asked for.
        base: the folder or hub id of its base, as people know it.
        base_digest: what names the weights of the base that the examples were written on.
        examples: greedy thoughts on that base, a certificate for other runtimes and bases.
    """

    style: Style
    base: str
    base_digest: str
    examples: tuple[Example, ...] = ()


def is_tuned(folder: Path) -> bool:
    """Return whether a folder holds the adapter of an instruct model, not a checkpoint of this package."""
    return (folder / CONFIG_FILE).exists() and not is_adapter(folder)


def read_trained(folder: Path) -> Trained | None:
    """Return what a folder says about its trained thinker, or None where it says nothing.

    Raises InputError for a file that is damaged or of another version.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Trained)
    except msgspec.MsgspecError as error:
        raise InputError(f"{path}: {error}") from error


def write_trained(trained: Trained, folder: Path) -> None:
    """Write `o1_thinker.json` beside an adapter."""
    with atomic_write(folder / FILE_NAME) as file:
        file.write(msgspec.json.format(msgspec.json.encode(trained), indent=1))


def base_of(folder: Path) -> tuple[str, str | None]:
    """Return the folder or hub id of an adapter's base, and its revision. Raises InputError without one."""
    path = folder / CONFIG_FILE
    try:
        config: Any = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: {error}") from error
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise InputError(f"{path}: names no base_model_name_or_path; give base")
    return base, config.get("revision")


def add_adapter(lm: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Add an adapter to the weights of its base. Raises InputError for an adapter of another model."""
    from peft import PeftModel  # takes seconds to import

    with loading(folder, "an adapter of this base"):
        merged: PreTrainedModel = PeftModel.from_pretrained(lm, str(folder)).merge_and_unload()
    return merged


def examples_of(thinker: Thinker, texts: Sequence[str]) -> tuple[Example, ...]:
    """Return what a thinker writes about each text as it usually thinks, "" where nothing is kept of it."""
    queries = [Query(query_id=str(place), text=text) for place, text in enumerate(texts)]
    thoughts = thinker.think(queries, thinker.usual)
    return tuple(
        Example(query=text, thought=own[0].text if own else "")
        for text, own in zip(texts, thoughts, strict=True)
    )
