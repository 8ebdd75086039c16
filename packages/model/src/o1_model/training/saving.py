"""What a training leaves on disk: weights that load as an Embedder and resume exactly, and its record.

A checkpoint is the plain model with its control rows merged, or an adapter (`lora.py`). While training, the
rows of control tokens in the embedding matrix are different ones: a tied head computes logits with them. The
checkpoints of a training keep those beside the model, so that a resumed training continues exactly. The
record, `o1_training.json`, says what the training was made from.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from o1_model.backbone import Backbone, embedding_matrix, load_lm
from o1_model.checkpoint.lora import (
    Base,
    has_lora,
    is_adapter,
    load_adapter_weights,
    save_adapter,
    save_control_rows,
)
from o1_model.checkpoint.save import save_mixture
from o1_model.embedder import Embedder
from o1_model.layout import FILE_NAME
from o1_records import InputError, atomic_write
from o1_records.kit.job import ChangedJobError, Lock, move_aside, refuse_changed

HEAD_ROWS = "o1_head_rows.safetensors"
_LM, _ROWS = "backbone.lm.", "backbone.control_rows"


def save_weights(
    embedder: Embedder,
    folder: str | Path,
    *,
    base: Base | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint of a training; `base` is needed for an adapter.

    `state` is the gathered state of a JointModel whose weights are spread over processes (FSDP).
    """
    folder = Path(folder)
    backbone = embedder.backbone
    if has_lora(backbone):
        if base is None:
            raise InputError("an adapter is saved with the name of its base; give base")
        save_adapter(backbone, folder, base, state=None if state is None else _lm_state(state))
        rows = backbone.control_rows if state is None else state[_ROWS]
        save_control_rows(rows, folder)
    elif state is None:
        embedder.save_pretrained(folder, certificate=not of_a_step(folder))
        if of_a_step(folder):
            _save_head_rows(embedding_matrix(backbone.lm)[backbone.control_ids], folder)
        return
    else:
        _save_gathered(backbone, _lm_state(state), state[_ROWS], folder)
    embedder.tokenizer.save_pretrained(folder)
    embedder.layout.save(folder)
    save_mixture(folder, embedder.mixture)


@torch.no_grad()
def load_weights(backbone: Backbone, folder: str | Path) -> None:
    """Read a training's checkpoint back into the same kind of backbone.

    Raises InputError when only one of them has an adapter.
    """
    folder = Path(folder)
    if is_adapter(folder) != has_lora(backbone):
        kinds = ("an adapter", "a whole model")
        raise InputError(
            f"{folder}: holds {kinds[not is_adapter(folder)]}, this run trains {kinds[is_adapter(folder)]}"
        )
    if has_lora(backbone):
        load_adapter_weights(backbone, folder)
        return
    backbone.lm.load_state_dict(load_lm(folder).state_dict())
    matrix = embedding_matrix(backbone.lm).detach()
    backbone.control_rows.copy_(matrix[backbone.control_ids])
    if (folder / HEAD_ROWS).exists():
        matrix[backbone.control_ids] = load_file(folder / HEAD_ROWS)["head_rows"].to(matrix)


def _save_gathered(backbone: Backbone, state: dict[str, Tensor], rows: Tensor, folder: Path) -> None:
    names = [
        name
        for name, value in backbone.lm.named_parameters(remove_duplicate=False)
        if value is backbone.lm.get_input_embeddings().weight
    ]
    ids = backbone.control_ids.cpu()
    merged = state[names[0]].clone()
    head_rows = merged[ids].clone()
    merged[ids] = rows.to(merged)
    # a tied head is the same tensor
    backbone.lm.save_pretrained(folder, state_dict={**state, **dict.fromkeys(names, merged)})
    if of_a_step(folder):
        _save_head_rows(head_rows, folder)


def _save_head_rows(rows: Tensor, folder: Path) -> None:
    save_file({"head_rows": rows.detach().cpu().contiguous()}, folder / HEAD_ROWS)


def _lm_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(_LM): value for name, value in state.items() if name.startswith(_LM)}


def of_a_step(folder: Path) -> bool:
    """Return whether a training resumes from this folder: it has the Trainer's name for a checkpoint."""
    return folder.name.startswith(PREFIX_CHECKPOINT_DIR)


# --- may a folder's training go on, and from where? ---------------------------------------------------

RECORD = "o1_training.json"
LOCK = "o1_training.lock"

# settings (or how their names begin) that do not change what a training ends with
_WITHOUT_EFFECT = (
    "output_dir", "run_name", "project", "report_to", "disable_tqdm", "debug", "log_", "logging_", "trackio_",
    "hub_", "push_to_hub", "save_", "do_", "eval_", "per_device_eval", "prediction_loss_only",
    "bf16_full_eval", "fp16_full_eval", "include_", "batch_eval_metrics", "skip_memory_metrics",
    "resume_from_checkpoint", "new_job",
    "local_rank", "ddp_", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "use_cpu", "torch_empty_cache_steps",
    "gradient_checkpointing", "activation_checkpointing", "remove_unused_columns", "label_names",
    "length_column_name", "use_cache", "enable_jit_checkpoint", "restore_callback_states",
)  # fmt: skip


def newest_checkpoint(folder: Path) -> str | None:
    """Return the last complete checkpoint; the Trainer writes its state last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def refuse_half_a_state(checkpoint: str, args: TrainingArguments) -> None:
    """Raise InputError for a checkpoint from which steps are left to take, but that holds the model alone."""
    folder = Path(checkpoint)
    state = json.loads((folder / "trainer_state.json").read_bytes())
    epochs = args.num_train_epochs / state["num_train_epochs"]
    steps = args.max_steps if args.max_steps > 0 else state["max_steps"] * epochs
    # of PyTorch's optimisers, of FSDP, of DeepSpeed
    kept = any(next(folder.glob(name), None) for name in ("optimizer.*", "optimizer_*", "global_step*"))
    if state["global_step"] < steps and not kept:
        raise InputError(
            f"{checkpoint}: was saved without the optimiser (save_only_model), so that the training cannot "
            "go on as if it had not stopped; start again with --new_job, or from it with --model_name_or_path"
        )


def settings_of(groups: Iterable[Any], args: TrainingArguments) -> dict[str, Any]:
    """Return every setting that changes what a training ends with, by its flag's name.

    The batch is counted over all processes, so that a training may continue on more or fewer of them.
    """
    settings = {name: value for group in groups for name, value in vars(group).items()}
    own: dict[str, Any] = args.to_dict()  # type: ignore[no-untyped-call]
    settings |= {name: value for name, value in own.items() if has_effect(name)}
    # digests of what is in them say more than the names of files
    for name in ("train_data", "mine_corpus"):
        settings.pop(name, None)
    batch = settings.pop("per_device_train_batch_size") * args.world_size
    if settings["lr_scheduler_type"] == "constant":
        # the steps done so far are the same, however many follow
        del settings["max_steps"], settings["num_train_epochs"]
    known: dict[str, Any] = json.loads(json.dumps({"batch_of_all_processes": batch, **settings}, default=str))
    return known


def has_effect(name: str) -> bool:
    """Return whether a flag of transformers changes what a training ends with."""
    return not name.startswith(_WITHOUT_EFFECT)


@contextlib.contextmanager
def training_in(
    args: TrainingArguments, made_from: Mapping[str, Any], *, new_job: bool = False
) -> Iterator[None]:
    """Hold `args.output_dir` for a training made from these settings and data, and note them in it.

    A folder in which nothing was saved yet is free. Of several processes the main one does this, and the
    others wait for it.

    Raises:
        ChangedJobError: the folder holds a training with other settings or data; the message names every
            difference. With `new_job` that training is moved aside.
        InputError: somebody else trains there, or the record of the earlier training is damaged.
    """
    folder = Path(str(args.output_dir))
    lock = None
    with args.main_process_first(local=False):
        if args.process_index == 0:
            lock = _hold(folder, made_from, new_job)
        else:
            _refuse_other_training(folder, made_from)
    try:
        yield
    finally:
        if lock is not None:
            _let_go(lock)


def _hold(folder: Path, made_from: Mapping[str, Any], new_job: bool) -> Lock:
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / LOCK)
    try:
        _refuse_other_training(folder, made_from)
    except InputError as error:
        _let_go(lock)
        if not (new_job and isinstance(error, ChangedJobError)):
            raise
        move_aside(folder)
        return _hold(folder, made_from, new_job=False)
    with atomic_write(folder / RECORD) as file:
        file.write(json.dumps(made_from, indent=1).encode())
    return lock


def _let_go(lock: Lock) -> None:
    # removed while it is held, so that nobody else's is
    lock.path.unlink(missing_ok=True)
    lock.close()


def _refuse_other_training(folder: Path, made_from: Mapping[str, Any]) -> None:
    path = folder / RECORD
    if not path.exists() or not (newest_checkpoint(folder) or (folder / FILE_NAME).exists()):
        return
    try:
        begun = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ChangedJobError(
            f"{path}: damaged: {error}; choose another output_dir, or give --new-job to move this one aside"
        ) from error
    refuse_changed(
        folder,
        *({name: json.dumps(each[name]) for name in each} for each in (begun, made_from)),
        remedy="choose another output_dir, or give --new-job to move the earlier training aside",
    )


def _is_json(path: Path) -> bool:
    # the Trainer writes it in place: a run killed at that moment leaves half of it
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
