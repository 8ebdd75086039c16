"""Training from files: checks of the data, one run that starts again where it stopped, its card."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from o1_model import checks
from o1_model.arguments import DataArguments, EvalArguments, ModelArguments, changed
from o1_model.card import Card
from o1_model.data import JointCollator
from o1_model.embedder import Embedder
from o1_model.evaluate import EvaluatedTrainer, figures_of, open_collection
from o1_model.lora import Lora, add_lora, base_of, four_bits, merge_lora
from o1_model.objective import Objective
from o1_model.order import ExampleOrder
from o1_model.own_thoughts import OwnThoughts
from o1_model.resume import examples_digest, has_effect, newest_checkpoint, refuse_other_run, settings_of
from o1_model.trainer import JointTrainer
from o1_records import Example, InputError, read_jsonl

logger = logging.getLogger(__name__)

NO_EVALUATION = EvalArguments()
PAPER = Objective()


class Examples(Dataset[Example]):
    """Examples in memory, each checked by the reader."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = list(examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


def train(
    model: ModelArguments,
    data: DataArguments,
    args: TrainingArguments,
    *,
    objective: Objective = PAPER,
    evaluation: EvalArguments = NO_EVALUATION,
    examples: Sequence[Example] | None = None,
) -> Path:
    """Train and save a checkpoint and its card in `args.output_dir`; returns its folder.

    `examples` take the place of the file `data.train_data`. Starts again from the newest checkpoint in
    the folder. Whatever can be known to be wrong stops before the first step: raises InputError.
    """
    checks.refuse_several_devices(args)
    known = list(read_jsonl(data.train_data, Example)) if examples is None else list(examples)
    said = _look(model, data, args, objective, known, data.train_data if examples is None else None)
    checks.check_evaluation(args, measured=figures_of(evaluation, thinks=model.layout != "instruct"))
    collection = open_collection(evaluation)
    embedder = _embedder(model, args.seed)
    groups = (model, data, objective, evaluation)
    card = Card(
        base_model=model.model_name_or_path,
        data=data.train_data,
        data_sha256=examples_digest(known),
        examples=known,
        lengths=checks.lengths(known, embedder.tokenizer, embedder.layout, negatives=data.negatives),
        settings={name: value for name, value in changed(*groups, args).items() if _for_the_card(name)},
        processes=args.world_size,
        measured_on=str(collection),
    )
    said += checks.spelt_control_tokens(known, embedder.tokenizer, embedder.layout)
    for sentence in [
        *said,
        checks.table(card.lengths, len(known)),
        *([str(collection)] if collection else []),
    ]:
        logger.info(sentence)

    output = Path(str(args.output_dir))
    base = base_of(model.model_name_or_path) if model.lora_rank else None
    digests = {"examples_sha256": card.data_sha256, "base_sha256": base.digest if base else None}
    refuse_other_run(output, {**settings_of(groups, args), **digests})
    trainer = EvaluatedTrainer(
        embedder,
        objective,
        collection=collection,
        samples=evaluation.eval_samples,
        base=base,
        **_batches(embedder, known, data, objective, args),
    )
    _run(trainer, newest_checkpoint(output))
    _save(trainer, card, merge=bool(model.lora_rank) and model.merge)
    return output


def _look(
    model: ModelArguments,
    data: DataArguments,
    args: TrainingArguments,
    objective: Objective,
    examples: Sequence[Example],
    path: str | None,
) -> list[str]:
    """What can be known before the model is loaded; sentences for the user. Raises InputError."""
    checks.refuse_several_devices(args)
    checks.refuse_what_is_not_read(args)
    checks.refuse_adapter(model.model_name_or_path)
    checks.refuse_unsafe_files(model.model_name_or_path)
    batch = args.per_device_train_batch_size * args.world_size
    return [
        *checks.check_examples(examples, path, negatives=data.negatives, batch=batch),
        *checks.check_terms(examples, path, objective, layout=model.layout),
        *checks.check_saving(objective, args),
    ]


def _for_the_card(name: str) -> bool:
    """Whether a setting belongs to what trains and measures the same again."""
    if name == "accelerator_config":  # transformers fills it in
        return False
    return has_effect(name) or name.startswith(("eval_", "save_st"))


def _save(trainer: EvaluatedTrainer, card: Card, *, merge: bool) -> None:
    """Write the model as it is now, which need not be as it was last, and its card."""
    output = Path(str(trainer.args.output_dir))
    figures, steps = trainer.figures(), trainer.state.global_step
    saved = trainer.evaluate(metric_key_prefix="saved")
    if saved:
        logger.info("saved: %s", ", ".join(f"{name[6:]} {value}" for name, value in saved.items()))
    if merge:
        merge_lora(trainer.embedder.backbone)
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        replace(card, steps=steps, figures=figures, saved=saved).write(output)


def _run(trainer: JointTrainer, checkpoint: str | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except pickle.UnpicklingError as error:
        raise InputError(f"{checkpoint}: has pickles of more than tensors in it; remove it") from error


def _embedder(model: ModelArguments, seed: int) -> Embedder:
    torch.manual_seed(seed)
    embedder = Embedder.from_backbone(
        model.model_name_or_path,
        quantization=four_bits(rank=model.lora_rank, merge=model.merge) if model.load_in_4bit else None,
        name=model.layout,
        readout=model.readout,
        attention=model.attention,
        query_length=model.query_length,
        thought_length=model.thought_length,
        document_length=model.document_length,
        instruction=model.instruction,
    )
    if model.dropout is not None:
        set_dropout(embedder.backbone, model.dropout)
    if model.lora_rank:
        add_lora(embedder.backbone, Lora(model.lora_rank, model.lora_alpha, model.lora_dropout))
    return embedder


def _batches(
    embedder: Embedder,
    examples: Sequence[Example],
    data: DataArguments,
    objective: Objective,
    args: TrainingArguments,
) -> dict[str, Any]:
    """What JointTrainer is told of data, their order and the passes of a step."""
    # the collator reads whole examples, which have no columns to remove
    args.remove_unused_columns = False
    seed = args.seed if args.data_seed is None else args.data_seed
    own = OwnThoughts(embedder, objective, chunk_tokens=data.chunk_tokens, seed=seed)
    return {
        "args": args,
        "train_dataset": Examples(examples),
        "data_collator": JointCollator(
            tokenizer=embedder.tokenizer,
            layout=embedder.layout,
            negatives=data.negatives,
            chunk_tokens=data.chunk_tokens,
            thought_dropout=data.thought_dropout,
            reasoning_queries=objective.redapter_from is not None and not embedder.layout.two_read_outs,
            seed=seed,
        ),
        "order": ExampleOrder(
            examples,
            args.per_device_train_batch_size,
            world_size=args.world_size,
            seed=seed,
            same_dataset=data.same_dataset,
            group_size=data.negatives + 1,
            drop_last=args.dataloader_drop_last,
        ),
        "own_thoughts": own if objective.own_thoughts else None,
        "grad_cache": data.grad_cache,
    }


def set_dropout(backbone: torch.nn.Module, rate: float) -> None:
    """Set the rate of every dropout layer; a model without any stays without."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate


def faster_dtype(device: str = "cpu") -> torch.dtype:
    """The faster of float32 and bfloat16 for matrix products here, by a timing of some milliseconds."""
    left = torch.randn(512, 512, device=device)

    def seconds(dtype: torch.dtype) -> float:
        a = left.to(dtype)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(8):
                _ = a @ a
            best = min(best, time.perf_counter() - start)
        return best

    return min((torch.float32, torch.bfloat16), key=seconds)
