"""What is looked at before the first step: the files of the model, the examples, the lengths."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedTokenizerBase, TrainingArguments

from o1_model.layout import Layout, query_text, text_ids
from o1_model.objective import Objective
from o1_records import Example, InputError, quoted
from o1_records.lines import checked_lines

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
SAMPLED_EXAMPLES = 2000


def refuse_unsafe_files(model: str | Path) -> None:
    """Stop at a model's folder whose weights are pickles, or that only its own code can run.

    Either may run a stranger's code. A name on a hub is left to `load_lm`, which asks for safetensors
    and runs no remote code. Raises InputError.
    """
    folder = Path(model)
    if not folder.is_dir():
        return
    pickles = sorted(path for pattern in PICKLES for path in folder.glob(pattern))
    if pickles and not list(folder.glob("*.safetensors")):
        raise InputError(
            f"{pickles[0]}: is a pickle, which can run code when it is read, and the folder has no "
            "safetensors; convert the weights where you trust them, or choose a model with safetensors"
        )
    settings = _read_json(folder / "config.json")
    if "auto_map" in settings and settings.get("model_type") not in CONFIG_MAPPING:
        raise InputError(
            f"{folder}/config.json: auto_map {quoted(settings['auto_map'])} asks for code of its own, "
            "which this package never runs; choose a model that transformers knows"
        )


def refuse_adapter(model: str | Path) -> None:
    """Stop at an adapter where a whole model is to be trained: its base would be looked for elsewhere."""
    if (Path(model) / "adapter_config.json").exists():
        raise InputError(
            f"{model}: is an adapter; make a whole model of it first, with "
            f"Embedder.from_pretrained({str(model)!r}).save_pretrained(...)"
        )


def refuse_several_devices(args: TrainingArguments) -> None:
    """Stop at one process that sees several GPUs: it would split batches, and negatives with them."""
    if args.n_gpu > 1:
        raise InputError(
            f"one process sees {args.n_gpu} GPUs; start one process for each with torchrun "
            f"--nproc_per_node {args.n_gpu} -m o1_model train ..., or set CUDA_VISIBLE_DEVICES to one"
        )


def check_examples(examples: Sequence[Example], path: str | None, *, negatives: int, batch: int) -> list[str]:
    """Look through the examples; returns what the user should know, a sentence each.

    `path` is the file they came from, whose lines errors name; `batch` counts a step's examples over
    all processes. Raises InputError for examples that cannot be trained on.
    """
    if not examples:
        raise InputError(f"{path or 'examples'}: holds no examples")
    if batch < 1:
        raise InputError("cannot train with per_device_train_batch_size 0; give it at least 1")
    for index, example in enumerate(examples):
        if not example.positives:
            raise InputError(
                f"{place(path, index)}: query {quoted(example.query.query_id)} has no positive document; "
                "give it one or leave it out"
            )
    few = sum(len(example.negatives) < negatives for example in examples)
    none = sum(not example.negatives for example in examples)
    if none == len(examples) and batch == 1:
        raise InputError(
            f"{path or 'examples'}: no example has a negative, and a batch of 1 has no other example's "
            "documents: there is nothing to tell apart; raise per_device_train_batch_size or mine negatives"
        )
    said = []
    if few:
        said.append(
            f"{few:,} of {len(examples):,} examples have fewer than the {negatives} negatives asked for "
            f"({none:,} have none): their other negatives are the batch's documents"
        )
    thoughtless = sum(example.thought is None for example in examples)
    if thoughtless:
        said.append(f"{thoughtless:,} of {len(examples):,} examples have no thought: they train v_q alone")
    return said


def check_terms(
    examples: Sequence[Example], path: str | None, objective: Objective, *, layout: str = "o1"
) -> list[str]:
    """Look for what the objective's terms read; returns a sentence where some examples lack it.

    Redapter's q' is the query with its thought in the layout `o1`, elsewhere a reasoning query too. Raises
    InputError where all of them do.
    """
    needs = []
    if objective.teacher != "none":
        needs.append(("teacher score", "--teacher", [bool(e.teacher_scores) for e in examples]))
    if objective.redapter_from is not None:
        asks = layout != "o1"
        reasoned = [(asks and bool(e.reasoning_query)) or e.thought is not None for e in examples]
        what = "reasoning query or thought" if asks else "thought (the layout o1 reads no reasoning query)"
        needs.append((what, "--redapter_from", reasoned))
    said = []
    for what, flag, have in needs:
        if not any(have):
            raise InputError(f"{path or 'examples'}: no example has a {what}; leave {flag} out or add them")
        if not all(have):
            said.append(f"{have.count(False):,} of {len(examples):,} examples have no {what}, for {flag}")
    return said


def check_saving(objective: Objective, args: TrainingArguments) -> list[str]:
    """Say so when a training that is cut short would not go on exactly."""
    every = objective.own_thoughts_every
    if objective.own_thoughts == 0 or args.save_strategy != "steps" or args.save_steps % every == 0:
        return []
    return [
        f"save_steps {args.save_steps} is no multiple of own_thoughts_every {every}: after a resume, the "
        "next own thoughts are those of a newer model"
    ]


def refuse_what_is_not_read(args: TrainingArguments) -> None:
    """Stop at settings of transformers that this training would pass over. Raises InputError."""
    if args.fsdp and args.world_size == 1:
        raise InputError(
            "fsdp spreads a model over processes, and there is one: use torchrun or leave it out"
        )
    unread = {"label_smoothing_factor": 0.0, "neftune_noise_alpha": None, "use_liger_kernel": False}
    for name, without in unread.items():
        if getattr(args, name) != without:
            raise InputError(f"the joint loss does not know {name}; leave it out")


def check_evaluation(args: TrainingArguments, *, measured: Sequence[str]) -> None:
    """Stop where there is nothing to evaluate on, or the best is kept by a figure that no evaluation gives.

    `measured` are the figures of an evaluation, none without a collection. Raises InputError.
    """
    if args.eval_strategy != "no" and not measured:
        raise InputError("eval_strategy needs eval_collection, a BEIR folder to measure on")
    wanted = args.metric_for_best_model
    if wanted is None or wanted.removeprefix("eval_") in measured:
        return
    what = f"measures {' and '.join(measured)}" if measured else "needs eval_collection"
    raise InputError(f"cannot keep the best checkpoint by {quoted(wanted)}: the evaluation {what}")


def place(path: str | None, index: int) -> str:
    """Where an example stands: `file.jsonl:17`; blank lines count."""
    if path is None:
        return f"example {index + 1}"
    return next(islice(checked_lines(path, lambda _, place: place), index, None))


@dataclass(frozen=True)
class Lengths:
    """Tokens of one kind of text against what the layout keeps. `cut` is the share that is cut."""

    kind: str
    texts: int
    median: float
    longest: int
    limit: int
    cut: float


def lengths(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, layout: Layout, *, negatives: int
) -> list[Lengths]:
    """Lengths of queries, thoughts and documents, in a sample of at most SAMPLED_EXAMPLES examples."""
    sample = _sample(examples)
    documents = {d.doc_id: d.full_text for e in sample for d in (*e.positives, *e.negatives[:negatives])}
    thoughts = [e.thought.text for e in sample if e.thought is not None and layout.thinks]
    kinds = [
        ("query", [query_text(layout, example.query) for example in sample], layout.query_length),
        ("thought", thoughts, layout.thought_length),
        ("document", list(documents.values()), layout.document_length),
    ]
    return [_lengths(kind, texts, tokenizer, limit) for kind, texts, limit in kinds if texts]


def table(parts: Sequence[Lengths], examples: int) -> str:
    """Lengths for reading, one kind of text a line."""
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
    """Say so when texts spell control tokens; they stay text, so nothing has to be done."""
    tokens = list(tokenizer.convert_ids_to_tokens(list(layout.control_ids)))
    count = sum(any(token in text for token in tokens) for example in examples for text in _texts(example))
    if not count:
        return []
    spelt = " or ".join(tokens)
    return [f"{count:,} texts spell {spelt}: they are read as ordinary text, never as control tokens"]


def _texts(example: Example) -> Iterable[str]:
    yield from (example.query.instruction, example.query.text, example.reasoning_query)
    if example.thought is not None:
        yield example.thought.text
    yield from (document.full_text for document in (*example.positives, *example.negatives))


def _lengths(kind: str, texts: list[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> Lengths:
    counts = [len(ids) for ids in text_ids(tokenizer, texts)]
    cut = sum(count > limit for count in counts) / len(counts)
    return Lengths(kind, len(texts), median(counts), max(counts), limit, cut)


def _sample(examples: Sequence[Example]) -> Sequence[Example]:
    if len(examples) <= SAMPLED_EXAMPLES:
        return examples
    return random.Random(0).sample(examples, SAMPLED_EXAMPLES)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return content if isinstance(content, dict) else {}
