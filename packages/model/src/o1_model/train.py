"""Training from files: arguments, checks of the data, one run that starts again where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from o1_model.data import JointCollator
from o1_model.embedder import Embedder
from o1_model.objective import Objective
from o1_model.trainer import JointTrainer
from o1_records import Example, InputError, atomic_write, read_jsonl


@dataclass
class ModelArguments:
    """What to train, on what (the names are FlagEmbedding's and Tevatron's)."""

    model_name_or_path: str = field(metadata={"help": "folder or hub id of a causal LM or a BERT"})
    train_data: str = field(metadata={"help": "JSONL of Example records, as o1-vote elect writes"})
    readout: Literal["token", "mean"] = field(
        default="token", metadata={"help": "the state at <emb>, or the mean"}
    )
    attention: Literal["causal", "prefix"] = field(
        default="causal", metadata={"help": "prefix suits encoders: two-way up to the first <emb>"}
    )
    query_length: int = field(default=64, metadata={"help": "tokens of a query"})
    thought_length: int = field(default=64, metadata={"help": "tokens of a thought"})
    document_length: int = field(default=192, metadata={"help": "tokens of a document"})
    dropout: float | None = field(default=None, metadata={"help": "rate instead of the backbone's own"})
    negatives: int = field(default=15, metadata={"help": "hard negatives an example, at most"})
    embed_weight: float = field(default=0.8, metadata={"help": "w of the joint loss"})
    contrastive_temperature: float = field(default=0.02, metadata={"help": "InfoNCE temperature"})
    chunk_tokens: int = field(default=2048, metadata={"help": "padded tokens of one forward pass"})


class Examples(Dataset[Example]):
    """Examples in memory, each checked by the reader."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = list(examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


def train(
    model: ModelArguments, args: TrainingArguments, *, examples: Sequence[Example] | None = None
) -> Path:
    """Train and save a checkpoint in `args.output_dir`; returns its folder.

    Starts again from the newest checkpoint in the folder. Raises InputError for unusable data.
    """
    data = list(read_jsonl(model.train_data, Example)) if examples is None else list(examples)
    if not data:
        raise InputError(f"{model.train_data}: holds no examples")
    if args.world_size > 1 or args.n_gpu > 1:
        raise InputError(
            f"training runs on one process and device so far, not on {args.world_size} x {args.n_gpu}: "
            "negatives would not be shared; set CUDA_VISIBLE_DEVICES to one"
        )
    output = Path(str(args.output_dir))
    _refuse_other_run(output, model, args, data)
    args.remove_unused_columns = False
    torch.manual_seed(args.seed)
    embedder = Embedder.from_backbone(
        model.model_name_or_path,
        readout=model.readout,
        attention=model.attention,
        query_length=model.query_length,
        thought_length=model.thought_length,
        document_length=model.document_length,
    )
    if model.dropout is not None:
        set_dropout(embedder.backbone, model.dropout)
    collator = JointCollator(
        tokenizer=embedder.tokenizer,
        layout=embedder.layout,
        negatives=model.negatives,
        chunk_tokens=model.chunk_tokens,
    )
    objective = Objective(embed_weight=model.embed_weight, temperature=model.contrastive_temperature)
    trainer = JointTrainer(
        embedder, objective, args=args, train_dataset=Examples(data), data_collator=collator
    )
    trainer.train(resume_from_checkpoint=newest_checkpoint(output))
    trainer.save_model(str(output))
    return output


def newest_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was written to its end; the Trainer writes its state last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def _refuse_other_run(
    folder: Path, model: ModelArguments, args: TrainingArguments, data: Sequence[Example]
) -> None:
    """Stop when the folder belongs to a training with other data or settings: they would be mixed."""
    examples = hashlib.sha256()
    for example in data:
        examples.update(msgspec.json.encode(example) + b"\n")
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "seed", "bf16")
    this = {
        "examples_sha256": examples.hexdigest(),
        **{name: value for name, value in vars(model).items() if name != "train_data"},
        **{name: getattr(args, name) for name in names},
    }
    path = folder / "o1_training.json"
    if not path.exists():
        with atomic_write(path) as file:
            file.write(json.dumps(this, indent=1).encode())
        return
    other = json.loads(path.read_bytes())
    for name, value in this.items():
        if other.get(name) != value:
            raise InputError(
                f"{folder}: was trained with {name} {other.get(name)}, this run has {value}; "
                "choose another output_dir or remove it"
            )


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
