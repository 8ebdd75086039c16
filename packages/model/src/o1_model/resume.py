"""Whether a folder's training can go on, and from where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from transformers import TrainingArguments

from o1_model.layout import FILE_NAME
from o1_records import Example, InputError, atomic_write, quoted

RECORD = "o1_training.json"

# A training ends the same whatever these say: names, or how names begin.
_WITHOUT_EFFECT = (
    "output_dir", "run_name", "project", "report_to", "disable_tqdm", "debug", "log_", "logging_", "trackio_",
    "hub_", "push_to_hub", "save_", "do_", "eval_", "per_device_eval", "prediction_loss_only",
    "bf16_full_eval", "fp16_full_eval", "include_", "batch_eval_metrics", "skip_memory_metrics",
    "resume_from_checkpoint",
    "local_rank", "ddp_", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "use_cpu", "torch_empty_cache_steps",
    "gradient_checkpointing", "activation_checkpointing", "remove_unused_columns", "label_names",
    "length_column_name", "use_cache", "enable_jit_checkpoint", "restore_callback_states",
)  # fmt: skip


def newest_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was written to its end; the Trainer writes its state last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def settings_of(groups: Iterable[Any], args: TrainingArguments) -> dict[str, Any]:
    """Every setting that changes what a training ends with, by its flag's name.

    The batch is counted over all processes, so that a training may go on with more or fewer of them.
    """
    settings = {name: value for group in groups for name, value in vars(group).items()}
    own: dict[str, Any] = args.to_dict()  # type: ignore[no-untyped-call]
    settings |= {name: value for name, value in own.items() if has_effect(name)}
    # the digest of the examples says more than the name of their file
    settings.pop("train_data", None)
    batch = settings.pop("per_device_train_batch_size") * args.world_size
    if settings["lr_scheduler_type"] == "constant":
        # then the steps done so far are the same, however many follow
        del settings["max_steps"], settings["num_train_epochs"]
    known: dict[str, Any] = json.loads(json.dumps({"batch_of_all_processes": batch, **settings}, default=str))
    return known


def has_effect(name: str) -> bool:
    """Whether a flag of transformers changes what a training ends with."""
    return not name.startswith(_WITHOUT_EFFECT)


def examples_digest(examples: Iterable[Example]) -> str:
    """sha256 of the examples, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(msgspec.json.encode(example) + b"\n")
    return digest.hexdigest()


def refuse_other_run(folder: Path, this: Mapping[str, Any]) -> None:
    """Stop when the folder holds a training with other data or settings: they would be mixed.

    A folder in which nothing was saved yet is free. Raises InputError.
    """
    path = folder / RECORD
    if path.exists() and (newest_checkpoint(folder) or (folder / FILE_NAME).exists()):
        other = _read(path)
        for name in dict.fromkeys([*this, *other]):
            if other.get(name) != this.get(name):
                raise InputError(
                    f"{folder}: was trained with {name} {quoted(other.get(name))}, "
                    f"this run has {quoted(this.get(name))}; choose another output_dir or remove it"
                )
    with atomic_write(path) as file:
        file.write(json.dumps(this, indent=1).encode())


def _is_json(path: Path) -> bool:
    # the Trainer writes it in place: a run killed at that moment leaves half of it
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f"{path}: {error}; it belongs to another training? remove the folder") from error
