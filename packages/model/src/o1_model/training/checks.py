"""Checks before the first step: the settings, the files of the model, the examples, the lengths."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedTokenizerBase, TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from o1_model.checkpoint.card import Lengths
from o1_model.checkpoint.lora import is_adapter
from o1_model.layout import Layout, text_ids
from o1_model.training.arguments import DataArguments
from o1_model.training.objective import Objective
from o1_records import Example, InputError, quoted
from o1_records.lines import checked_lines

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
SAMPLED_EXAMPLES = 2000


def refuse_unsafe_files(model: str | Path) -> None:
    """Raise InputError for a model's folder whose weights are pickles, or that needs code of its own.

    Either may run a stranger's code. A hub id is left to `load_lm`, which asks for safetensors and runs no
    remote code.
    """
    folder = Path(model)
    if not folder.is_dir():
        return
    pickles = sorted(path for pattern in PICKLES for path in folder.glob(pattern))
    if pickles and not list(folder.glob("*.safetensors")):
        raise InputError(
            f"{pickles[0]}: is a pickle, which can run code when it is read, and the folder has no "
            "safetensors; convert the weights if you trust them, or choose a model with safetensors"
        )
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if "auto_map" in settings and settings.get("model_type") not in CONFIG_MAPPING:
        raise InputError(
            f"{folder}/config.json: auto_map {quoted(settings['auto_map'])} asks for code of its own, "
            "which this package never runs; choose a model that transformers knows"
        )


def refuse_adapter(model: str | Path, *, rank: int = 0) -> None:
    """Raise InputError for an adapter that cannot be trained on: not one of ours, or no `rank` is given."""
    if not (Path(model) / "adapter_config.json").exists() or (rank and is_adapter(model)):
        return
    on = ", or give its --lora_rank to train it on" if is_adapter(model) else ""
    raise InputError(
        f"{model}: is an adapter; make a whole model of it first, with "
        f"Embedder.from_pretrained({str(model)!r}).save_pretrained(...){on}"
    )


def check_examples(examples: Sequence[Example], path: str | None, *, negatives: int, batch: int) -> list[str]:
    """Check the examples of one file and return what the user should know, a sentence each.

    `path` is the file they came from, whose lines errors name; `batch` counts a step's examples over
    all processes. Raises InputError for examples that cannot be trained on.
    """
    if not examples:
        raise InputError(f"{path or 'examples'}: holds no examples")
    if batch < 1:
        raise InputError("per_device_train_batch_size must be at least 1, got 0")
    for index, example in enumerate(examples):
        if not example.positives:
            raise InputError(
                f"{place(path, index)}: query {quoted(example.query.query_id)} has no positive document; "
                "give it one or leave it out"
            )
        if not any(document.full_text.strip() for document in example.positives):
            raise InputError(
                f"{place(path, index)}: the positives of query {quoted(example.query.query_id)} are blank; "
                "give it one with a text or leave it out"
            )
    few = sum(len(example.negatives) < negatives for example in examples)
    none = sum(not example.negatives for example in examples)
    if none == len(examples) and batch == 1:
        raise InputError(
            f"{path or 'examples'}: no example has a negative, and a batch of 1 has no other example's "
            "documents, so that there is nothing to compare with; raise per_device_train_batch_size or mine "
            "negatives"
        )
    said = []
    if few:
        said.append(
            f"{few:,} of {len(examples):,} examples have fewer than the {negatives} negatives asked for "
            f"({none:,} have none): their other negatives are the documents of the batch"
        )
    thoughtless = sum(example.thought is None for example in examples)
    if thoughtless:
        said.append(f"{thoughtless:,} of {len(examples):,} examples have no thought: they train only v_q")
    return [*said, *_about_documents(examples)]


def _about_documents(examples: Sequence[Example]) -> Iterator[str]:
    texts: dict[str, str] = {}
    several: dict[str, None] = {}
    blank = 0
    for example in examples:
        for document in (*example.positives, *example.negatives):
            blank += not document.full_text.strip()
            if texts.setdefault(document.doc_id, document.full_text) != document.full_text:
                several[document.doc_id] = None
    if blank:
        yield f"{blank:,} documents of examples are blank; they train as they are"
    if several:
        yield (
            f"{len(several):,} doc_ids have several texts (such as {quoted(next(iter(several)))}): documents "
            "are told apart by their texts, not by their ids"
        )


def check_batches(examples: Sequence[Example], *, same_dataset: bool) -> list[str]:
    """Return what the user should know about batches of one dataset.

    Raises InputError where `same_dataset` would have no effect.
    """
    own = sum(example.batch_size is not None for example in examples)
    if not same_dataset:
        return [f"{own:,} examples have a batch_size, which only --same_dataset reads"] if own else []
    if len({(example.dataset, example.group_size, example.batch_size) for example in examples}) == 1:
        name = examples[0].dataset
        raise InputError(
            f"same_dataset would have no effect: all {len(examples):,} examples are of "
            f"{f'the dataset {quoted(name)}' if name else 'no dataset'}; give several files to --train_data, "
            "each of which is a dataset, or leave it out"
        )
    return []


def check_terms(
    examples: Sequence[Example],
    path: str | None,
    objective: Objective,
    *,
    layout: str = "o1",
    latent_steps: int = 0,
) -> list[str]:
    """Check for what the objective's terms read and return a sentence if some examples lack it.

    Redapter's q' is the query with its thought in the layout `o1`, in others a reasoning query too. Raises
    InputError if all examples lack it.
    """
    if objective.mixture is not None and layout == "reference":
        raise InputError(
            "the layout reference reads one vector, with the thought in it, so that there is nothing to mix; "
            "choose the layout o1"
        )
    joint = objective.mixture is not None and objective.mixture.reading == "joint"
    if layout != "o1" and (joint or (objective.distil_weight and objective.distil_from == "thought")):
        flag = "--mixture_reading joint" if joint else "--distil_from thought"
        raise InputError(f"{flag} needs v_t beside v_q, which the layout o1 has; {layout} does not")
    if objective.align_weight and not (latent_steps and layout == "o1"):
        raise InputError(
            "align_weight aligns latent steps with thoughts; it needs latent_steps and the layout o1, got "
            f"latent_steps {latent_steps} and layout {layout}"
        )
    needs = []
    if objective.teacher != "none":
        needs.append(("teacher score", "--teacher", [bool(e.teacher_scores) for e in examples]))
    if objective.redapter_from is not None:
        asks = layout != "o1"
        reasoned = [(asks and bool(e.reasoning_query)) or e.thought is not None for e in examples]
        what = "reasoning query or thought" if asks else "thought (the layout o1 reads no reasoning query)"
        needs.append((what, "--redapter_from", reasoned))
    if objective.align_weight and not objective.own_thoughts:
        needs.append(("thought", "--align_weight", [e.thought is not None for e in examples]))
    if objective.mixture is not None and not objective.own_thoughts:
        needs.append(("thought", "the mixture", [e.thought is not None for e in examples]))
    said = []
    for what, flag, have in needs:
        if not any(have):
            raise InputError(f"{path or 'examples'}: no example has a {what}; leave out {flag} or add them")
        if not all(have):
            said.append(f"{have.count(False):,} of {len(examples):,} examples have no {what}, for {flag}")
    return said


def check_saving(objective: Objective, args: TrainingArguments) -> list[str]:
    """Return a warning if a training that is cut short would not resume exactly."""
    every = objective.own_thoughts_every
    if objective.own_thoughts == 0 or args.save_strategy != "steps" or args.save_steps % every == 0:
        return []
    return [
        f"save_steps {args.save_steps} is not a multiple of own_thoughts_every {every}: after a resume, the "
        "next own thoughts are those of a newer model"
    ]


def check_starts(objective: Objective, *, steps: int) -> None:
    """Raise InputError for a term of the loss that would start after the last of so many steps."""
    for name in ("redapter_from", "own_thoughts_from"):
        start = getattr(objective, name)
        if start and start >= steps:
            raise InputError(
                f"{name} {start} would have no effect: the training has {steps} steps, counted from 0; "
                "start earlier, train longer, or leave that term out"
            )


def check_mining(data: DataArguments, objective: Objective, *, steps: int) -> None:
    """Raise InputError for a mining without effect in so many steps, or that does not go with the rest."""
    if not data.mine_every:
        return
    own = objective.own_thoughts_every
    refusals = {
        "mine_every would have no effect with negatives 0; give both, or neither": data.negatives == 0,
        f"mine_every {data.mine_every} would have no effect: the training has {steps} steps": (
            steps <= data.mine_every
        ),
        "negatives that are mined on the way have no teacher_scores; leave out teacher or mine_every": (
            objective.teacher != "none"
        ),
        f"mine_every must be a multiple of own_thoughts_every ({own}), got {data.mine_every}: so many steps "
        "ahead are batches made": objective.own_thoughts > 0 and data.mine_every % own != 0,
    }
    for sentence, holds in refusals.items():
        if holds:
            raise InputError(sentence)


def refuse_settings(args: TrainingArguments) -> None:
    """Raise InputError for settings of transformers that do not fit, or that would have no effect."""
    if args.n_gpu > 1:
        # one process would split batches, and negatives with them
        raise InputError(
            f"one process sees {args.n_gpu} GPUs; start one process for each with torchrun "
            f"--nproc_per_node {args.n_gpu} -m o1_model train ..., or set CUDA_VISIBLE_DEVICES to one"
        )
    if args.fsdp and args.world_size == 1:
        raise InputError(
            "fsdp spreads a model over processes, and there is only one; use torchrun or leave it out"
        )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and args.world_size == 1:
        raise InputError(
            f"torchrun started {started} processes that do not see each other: each would train a model of "
            "its own into output_dir; on CPUs add --use_cpu"
        )
    for known in fields(TrainingArguments):
        why = WITHOUT_EFFECT.get(known.name)
        default = known.default if known.default_factory is MISSING else known.default_factory()
        value = getattr(args, known.name)
        if why and getattr(value, "value", value) not in (default, *_DEFAULTS.get(known.name, ())):
            raise InputError(f"{known.name} would have no effect: {why}; leave it out")
    accelerator: Any = args.accelerator_config
    if accelerator.split_batches or accelerator.dispatch_batches:
        raise InputError(
            "accelerator_config: split_batches and dispatch_batches would split batches again that belong to "
            "single processes; leave them out"
        )
    places: Any = args.report_to
    try:
        for callback in get_reporting_integration_callbacks(places):  # type: ignore[no-untyped-call]
            callback()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"report_to {', '.join(places)}: {error}") from error


# fields of transformers' TrainingArguments that nothing reads in a joint training, and why
WITHOUT_EFFECT = {
    "label_smoothing_factor": "the joint loss has none",
    "neftune_noise_alpha": "the joint loss has none",
    "use_liger_kernel": "the joint loss uses liger's kernel wherever it is installed",
    "liger_kernel_config": "the joint loss uses liger's kernel wherever it is installed",
    "resume_from_checkpoint": "a training resumes from the newest checkpoint in output_dir",
    "torch_compile": "the layers of a joint training are not compiled",
    "torch_compile_backend": "the layers of a joint training are not compiled",
    "torch_compile_mode": "the layers of a joint training are not compiled",
    "use_cache": "no pass of a training has a cache",
    "torch_empty_cache_steps": "the joint step does not empty the cache",
    "auto_find_batch_size": "negatives come from the batch; lower chunk_tokens or give --grad_cache instead",
    "average_tokens_across_devices": "thought tokens are always averaged over all processes",
    "logging_nan_inf_filter": "a loss that is not finite ends the training",
    "include_num_input_tokens_seen": "the log has tokens_per_s, over queries and documents",
    "parallelism_config": "processes share the batch, or the weights with --fsdp",
    # the evaluation is a retrieval over eval_collection
    "bf16_full_eval": "retrieval is measured with the weights that train",
    "fp16_full_eval": "retrieval is measured with the weights that train",
    "per_device_eval_batch_size": "retrieval is measured in batches of the embedder's own",
    "prediction_loss_only": "the evaluation measures retrieval",
    "eval_do_concat_batches": "the evaluation measures retrieval",
    "eval_use_gather_object": "the evaluation measures retrieval",
    "eval_accumulation_steps": "the evaluation measures retrieval",
    "include_for_metrics": "the evaluation measures retrieval",
    "batch_eval_metrics": "the evaluation measures retrieval",
    "do_train": "the command trains",
    "do_predict": "the command trains; o1-model embed embeds",
    # uploading: transformers would write its own card over ours
    **dict.fromkeys(
        (
            "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy",
            "hub_always_push", "hub_revision",
        ),
        "the checkpoint has a card of its own; upload output_dir with `hf upload` when it is there",
    ),
    # the data: an order of its own, batches that are ready for the model
    "train_sampling_strategy": "the order is random, or by --same_dataset; a step groups its rows by length",
    "length_column_name": "examples have no column of lengths",
    "label_names": "examples have no label columns",
    "dataloader_in_order": "batches have to come in their order",
    # gradients are added up by the joint step, not by DistributedDataParallel
    "ddp_find_unused_parameters": "the joint step adds up the gradients itself",
    "ddp_bucket_cap_mb": "the joint step adds up the gradients itself",
    "ddp_broadcast_buffers": "the joint step adds up the gradients itself",
    "ddp_static_graph": "the joint step adds up the gradients itself",
}  # fmt: skip
# further values that a field has when nobody set it
_DEFAULTS: dict[str, tuple[Any, ...]] = {"include_num_input_tokens_seen": ("no",)}


def check_evaluation(args: TrainingArguments, *, measured: Sequence[str]) -> None:
    """Raise InputError if there is nothing to evaluate on, or no figure to choose the best checkpoint by.

    `measured` are the figures of an evaluation, none without a collection.
    """
    if args.eval_strategy != "no" and not measured:
        raise InputError("eval_strategy needs eval_collection, a BEIR folder to measure on")
    wanted = args.metric_for_best_model
    if wanted is None or wanted.removeprefix("eval_") in measured:
        return
    what = f"measures {' and '.join(measured)}" if measured else "needs eval_collection"
    raise InputError(f"cannot keep the best checkpoint by {quoted(wanted)}: the evaluation {what}")


def place(path: str | None, index: int) -> str:
    """Return where an example is: `file.jsonl:17`; blank lines count."""
    if path is None:
        return f"example {index + 1}"
    return next(islice(checked_lines(path, lambda _, place: place), index, None))


def lengths(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, layout: Layout, *, negatives: int
) -> list[Lengths]:
    """Return the lengths of queries, thoughts and documents in a sample of at most SAMPLED_EXAMPLES.

    Prompts, which are never cut, do not count.
    """
    sample = examples
    if len(examples) > SAMPLED_EXAMPLES:
        sample = random.Random(0).sample(examples, SAMPLED_EXAMPLES)
    documents = {d.full_text for e in sample for d in (*e.positives, *e.negatives[:negatives])}
    thoughts = [e.thought.text for e in sample if e.thought is not None and layout.thinks]
    kinds = [
        ("query", [example.query.text for example in sample], layout.query_length),
        ("thought", thoughts, layout.thought_length),
        ("document", sorted(documents), layout.document_length),
    ]
    found = []
    for kind, texts, limit in kinds:
        counts = [len(ids) for ids in text_ids(tokenizer, texts)]
        if counts:
            cut = sum(count > limit for count in counts) / len(counts)
            found.append(Lengths(kind, len(texts), median(counts), max(counts), limit, cut))
    return found


def table(parts: Sequence[Lengths], examples: int) -> str:
    """Return the lengths as a table to read, one kind of text a line."""
    sample = f" (of {SAMPLED_EXAMPLES:,} of {examples:,} examples)" if examples > SAMPLED_EXAMPLES else ""
    head = f"{'tokens':<10}{'texts':>9}{'median':>9}{'longest':>9}{'kept':>7}{'cut':>9}{sample}"
    rows = [
        f"{part.kind:<10}{part.texts:>9,}{part.median:>9.0f}{part.longest:>9,}{part.limit:>7}{part.cut:>9.1%}"
        for part in parts
    ]
    return "\n".join([head, *rows])


def spelt_control_tokens(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, layout: Layout
) -> list[str]:
    """Return a note if texts spell control tokens; they stay text, so nothing has to be done."""
    tokens = list(tokenizer.convert_ids_to_tokens(list(layout.control_ids)))
    count = 0
    for example in examples:
        texts = [example.query.instruction, example.query.text, example.reasoning_query]
        texts += [] if example.thought is None else [example.thought.text]
        texts += [document.full_text for document in (*example.positives, *example.negatives)]
        count += sum(any(token in text for token in tokens) for text in texts)
    if not count:
        return []
    spelt = " or ".join(tokens)
    return [f"{count:,} texts spell {spelt}: they are read as ordinary text, never as control tokens"]
