"""Training from files: checks of the data, a run that resumes where it stopped, its card."""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from o1_model.backbone import load_tokenizer
from o1_model.checkpoint.card import Card
from o1_model.checkpoint.fit import fit
from o1_model.checkpoint.lora import (
    Lora,
    add_lora,
    base_of,
    four_bits,
    is_adapter,
    load_adapter,
    merge_lora,
    read_base,
)
from o1_model.embedder import Embedder
from o1_model.layout import load_layout, new_layout
from o1_model.retriever.identity import digest_of_records
from o1_model.training import checks
from o1_model.training.arguments import DataArguments, EvalArguments, ModelArguments, changed
from o1_model.training.data import ExampleOrder, Examples, Exclusions, JointCollator
from o1_model.training.evaluate import figures_of, open_collection
from o1_model.training.files import ExampleFile, chosen_examples, read_files
from o1_model.training.mining import Miner
from o1_model.training.objective import Objective
from o1_model.training.own_thoughts import OwnThoughts
from o1_model.training.saving import (
    has_effect,
    newest_checkpoint,
    refuse_half_a_state,
    settings_of,
    training_in,
)
from o1_model.training.trainer import JointTrainer
from o1_records import Document, Example, InputError, open_documents
from o1_records.kit.models import model_digest

logger = logging.getLogger(__name__)

NO_EVALUATION = EvalArguments()
PAPER = Objective()


def train(
    model: ModelArguments,
    data: DataArguments,
    args: TrainingArguments,
    *,
    objective: Objective = PAPER,
    evaluation: EvalArguments = NO_EVALUATION,
    examples: Sequence[Example] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    new_job: bool = False,
) -> Path:
    """Train, save a checkpoint and its card in `args.output_dir`, and return that folder.

    `examples` replace the files of `data.train_data`. Resumes from the newest checkpoint in the folder, if
    that was trained with the same settings and data; `new_job` moves another training aside. Every mistake
    that can be known is reported before the first step. `callbacks` are transformers' own.

    Raises:
        ChangedJobError: the folder holds a training with other settings or data; the message names them.
        InputError: settings, model or examples cannot be trained with.
    """
    checks.refuse_settings(args)
    checks.refuse_adapter(model.model_name_or_path, rank=model.lora_rank)
    if data.thought_dropout and model.layout == "instruct" and objective.mixture is None:
        raise InputError("thought_dropout would have no effect: the layout instruct reads no thoughts")
    checks.refuse_unsafe_files(model.model_name_or_path)
    files = read_files(data) if examples is None else [ExampleFile("", None, list(examples))]
    batch = args.per_device_train_batch_size * args.world_size
    said: list[str] = []
    for file in files:
        told = checks.check_examples(file.examples, file.path, negatives=data.negatives, batch=batch)
        said += [*file.said, *(told if len(files) == 1 else (f"{file.path}: {line}" for line in told))]
    known = chosen_examples(files, data, seed=_data_seed(args))
    path = ", ".join(str(file.path) for file in files) if examples is None else None
    said += checks.check_terms(known, path, objective, layout=model.layout, latent_steps=model.latent_steps)
    said += checks.check_batches(known, same_dataset=data.same_dataset)
    said += checks.check_saving(objective, args)
    order = _order(known, data, args)
    steps = _steps(order, args)
    checks.check_starts(objective, steps=steps)
    checks.check_mining(data, objective, steps=steps)
    figures = figures_of(evaluation, thinks=model.layout != "instruct", mixture=objective.mixture)
    checks.check_evaluation(args, measured=figures)
    collection = open_collection(evaluation)
    embedder = _embedder(model, args.seed)
    groups = (model, data, objective, evaluation)
    card = Card(
        base_model=model.model_name_or_path,
        data=data.train_data[0] if len(files) == 1 else ", ".join(Path(str(f.path)).name for f in files),
        data_sha256=digest_of_records(known)[0],
        examples=known,
        lengths=checks.lengths(known, embedder.tokenizer, embedder.layout, negatives=data.negatives),
        settings=_of_the_card(changed(*groups, args)),
        processes=args.world_size,
        measured_on=str(collection),
    )
    said += checks.spelt_control_tokens(known, embedder.tokenizer, embedder.layout)
    said += [checks.table(card.lengths, len(known)), *([str(collection)] if collection else [])]
    for sentence in said:
        logger.info(sentence)
    started_from = model.model_name_or_path
    continued = is_adapter(started_from)
    base = (read_base(started_from) if continued else base_of(started_from)) if model.lora_rank else None
    digests = {"examples_sha256": card.data_sha256, "base_sha256": base.digest if base else None}
    mined = list(open_documents(data.mine_corpus)) if data.mine_corpus else []
    if mined:
        digests["mine_corpus_sha256"] = digest_of_records(mined)[0]
    excluded = Exclusions(known, mined)
    for sentence in excluded.check(known):
        logger.info(sentence)
    if continued:
        digests["adapter_sha256"] = model_digest(started_from)
    output = Path(str(args.output_dir))
    with training_in(args, {**settings_of(groups, args), **digests}, new_job=new_job):
        trainer = JointTrainer(
            embedder,
            objective,
            collection=collection,
            samples=evaluation.eval_samples,
            base=base,
            ema_decay=model.ema_decay,
            callbacks=list(callbacks),
            order=order,
            **_batches(embedder, known, data, objective, args, mined, excluded),
        )
        newest = newest_checkpoint(output)
        if newest is not None:
            refuse_half_a_state(newest, args)
            # the figures of the untrained model are in its log
            args.eval_on_start = False
        try:
            trainer.train(resume_from_checkpoint=newest)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{newest}: contains pickles of more than tensors, which could run code; remove it"
            ) from error
        _save(trainer, card, merge=bool(model.lora_rank) and model.merge)
    return output


def _of_the_card(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that train and measure the same again."""
    return {
        name: value
        for name, value in settings.items()
        # transformers fills in accelerator_config
        if name != "accelerator_config" and (has_effect(name) or name.startswith(("eval_", "save_st")))
    }


def _save(trainer: JointTrainer, card: Card, *, merge: bool) -> None:
    """Write the model as it is now (perhaps the best, not the last) and its card."""
    output = Path(str(trainer.args.output_dir))
    figures, steps = trainer.figures(), trainer.state.global_step
    trainer.end_average()
    saved = trainer.evaluate(metric_key_prefix="saved")
    if saved:
        logger.info("saved: %s", ", ".join(f"{name[6:]} {value}" for name, value in saved.items()))
    if merge:
        merge_lora(trainer.embedder.backbone)
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        replace(card, steps=steps, figures=figures, saved=saved).write(output)


def _embedder(model: ModelArguments, seed: int) -> Embedder:
    torch.manual_seed(seed)
    layout: dict[str, Any] = {
        "name": model.layout,
        "readout": model.readout,
        "attention": model.attention,
        "query_length": model.query_length,
        "thought_length": model.thought_length,
        "document_length": model.document_length,
        "instruction": model.instruction,
        "query_prompt": model.query_prompt,
        "document_prompt": model.document_prompt,
        "latent_steps": model.latent_steps,
    }
    if model.row_end == "none":
        layout["eos"] = None
    quantization = four_bits(rank=model.lora_rank, merge=model.merge) if model.load_in_4bit else None
    lora = Lora(model.lora_rank, model.lora_alpha, model.lora_dropout, tuple(model.lora_targets))
    if is_adapter(model.model_name_or_path):
        if model.dropout is not None:
            raise InputError("dropout is that of a whole model, and an adapter has its own; leave it out")
        return _of_an_adapter(model.model_name_or_path, lora, layout, model.dtype, quantization)
    embedder = Embedder.from_backbone(
        model.model_name_or_path, dtype=model.dtype, quantization=quantization, **layout
    )
    if model.dropout is not None:
        set_dropout(embedder.backbone, model.dropout)
    if model.lora_rank:
        add_lora(embedder.backbone, lora)
    return embedder


def _of_an_adapter(
    folder: str, lora: Lora, settings: Mapping[str, Any], dtype: str, quantization: Any
) -> Embedder:
    """Return an adapter checkpoint whose adapter and control rows go on training."""
    before, tokenizer = load_layout(folder), load_tokenizer(folder)
    layout = new_layout(tokenizer, **settings)
    if (layout.name, layout.control_ids) != (before.name, before.control_ids):
        raise InputError(f"{folder}: was trained with layout {before.name!r}; give --layout {before.name}")
    backbone = load_adapter(folder, dtype=dtype, quantization=quantization)
    config: Any = backbone.lm.peft_config["default"]
    own = Lora(config.r, config.lora_alpha, config.lora_dropout)
    if lora != own:
        raise InputError(
            f"{folder}: its adapter has lora_rank {own.rank}, lora_alpha {own.alpha}, lora_dropout "
            f"{own.dropout} and its own projections; give these three, and no lora_targets"
        )
    fit(backbone, layout, folder)
    return Embedder(backbone, layout, tokenizer, name=Path(folder).name)


def _order(examples: Sequence[Example], data: DataArguments, args: TrainingArguments) -> ExampleOrder:
    return ExampleOrder(
        examples,
        args.per_device_train_batch_size,
        world_size=args.world_size,
        seed=_data_seed(args),
        same_dataset=data.same_dataset,
        group_size=data.negatives + 1,
        batch_size_scale=data.batch_size_scale,
        weights=data.weights,
        drop_last=args.dataloader_drop_last,
    )


def _steps(order: ExampleOrder, args: TrainingArguments) -> int:
    """Return how many optimiser steps the Trainer will take."""
    if args.max_steps > 0:
        return args.max_steps
    in_an_epoch = -(-len(order) // (args.world_size * args.gradient_accumulation_steps))
    steps: int = math.ceil(args.num_train_epochs * in_an_epoch)
    return steps


def _batches(
    embedder: Embedder,
    examples: Sequence[Example],
    data: DataArguments,
    objective: Objective,
    args: TrainingArguments,
    corpus: Sequence[Document],
    excluded: Exclusions,
) -> dict[str, Any]:
    """Return JointTrainer's arguments about the data and the passes of a step.

    `corpus` is where negatives are mined, beside the documents of the examples.
    """
    # the collator reads whole examples, which have no columns to remove
    args.remove_unused_columns = False
    seed = _data_seed(args)
    own = OwnThoughts(embedder, objective, chunk_tokens=data.chunk_tokens, seed=seed)
    dataset = Examples(examples, draw=data.draw, thought_dropout=data.thought_dropout, seed=seed)
    collator = JointCollator(
        tokenizer=embedder.tokenizer,
        layout=embedder.layout,
        negatives=data.negatives,
        positives=data.positives,
        chunk_tokens=data.chunk_tokens,
        reasoning_queries=objective.redapter_from is not None and not embedder.layout.two_read_outs,
        mixture=None if objective.mixture is None else objective.mixture.reading,
        excluded=excluded,
    )
    miner = None
    if data.mine_every:
        miner = Miner(
            embedder,
            dataset,
            collator,
            corpus,
            steps=data.mine_every,
            range_max=data.mine_range_max,
            relative_margin=data.mine_relative_margin,
        )
    return {
        "args": args,
        "train_dataset": dataset,
        "data_collator": collator,
        "miner": miner,
        "own_thoughts": own if objective.own_thoughts else None,
        "grad_cache": data.grad_cache,
    }


def _data_seed(args: TrainingArguments) -> int:
    return args.seed if args.data_seed is None else args.data_seed


def set_dropout(backbone: torch.nn.Module, rate: float) -> None:
    """Set the rate of every dropout layer."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate


def faster_dtype(device: str = "cpu") -> torch.dtype:
    """Return the faster of float32 and bfloat16 for matrix products here, timed for some milliseconds."""
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
