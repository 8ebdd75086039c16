"""Trainings on several processes, for test_model_distributed: `train_together.py MODEL OUT JOB...`.

A job is `processes:case`. Four processes are started once, and import everything once; of each job as many as
it needs meet over gloo, as torchrun would tell them to, and each of these writes its weights, the gradients
of its first step and its log.
"""

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainingArguments

from o1_model import Embedder
from o1_model.checkpoint.lora import Lora, add_lora, base_of
from o1_model.training.data import ExampleOrder, Examples, Exclusions, JointCollator
from o1_model.training.mining import Miner
from o1_model.training.objective import Objective
from o1_model.training.trainer import JointTrainer
from o1_records import Document, Example, InputError, Query, Source, Thought

WORDS = [
    *("open", "zip", "file", "sort", "list", "keys", "read"),
    *("text", "bytes", "close", "the", "file", "write", "a"),
]
GLOBAL_BATCH = 8
FSDP = {
    "fsdp": True,
    "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]},
}
# a checkpoint after the first step, from which another training takes the second
STOPPED = {"save_strategy": "steps", "save_steps": 1}
REDAPTER = Objective(temperature=0.1, redapter_from=1)
LATENT = Objective(temperature=0.1, distil_weight=1.0, align_weight=1.0)
CASES = {
    "direct": {},
    "cached": {"grad_cache": True},
    "lora": {"grad_cache": True, "lora": True, "objective": REDAPTER},
    "accumulated": {"grad_cache": True, "arguments": {"gradient_accumulation_steps": 2}},
    # 13 examples: a batch of 8 and one of 5, which 2 and 4 processes fill up with copies
    "partial": {"grad_cache": True, "examples": 13, "objective": REDAPTER, "thought_dropout": 0.3},
    "mixture": {"grad_cache": True, "objective": Objective(temperature=0.1, mixture_weight=1.0)},
    "latent": {"grad_cache": True, "objective": LATENT, "latent_steps": 3},
    "mined": {"grad_cache": True, "mined": True},
    "fsdp": {"grad_cache": True, "arguments": FSDP},
    "fsdp-latent": {"grad_cache": True, "objective": LATENT, "latent_steps": 3, "arguments": FSDP},
    "fsdp-lora": {"grad_cache": True, "lora": True, "objective": REDAPTER, "arguments": FSDP},
    "fsdp-direct": {"arguments": FSDP},
    "resumed": {"grad_cache": True, "arguments": STOPPED},
    "fsdp-adamw": {"grad_cache": True, "arguments": {**FSDP, "optim": "adamw_torch"}},
    "fsdp-adamw-resumed": {"grad_cache": True, "arguments": {**FSDP, **STOPPED, "optim": "adamw_torch"}},
    # on from the checkpoint of another number of processes
    "moved": {"grad_cache": True, "arguments": STOPPED, "from": "2:resumed"},
    "fsdp-adamw-moved": {
        "grad_cache": True,
        "arguments": {**FSDP, **STOPPED, "optim": "adamw_torch"},
        "from": "2:fsdp-adamw-resumed",
    },
    "nan": {"nan": True},
}


def examples():
    """Uneven: groups of one to three documents, shared ones, some without a thought."""
    for number in range(32):
        words = WORDS[number % 6 :]
        query = Query(query_id=f"q{number}", text=" ".join(words[: 2 + number % 3]))
        thought = Thought(
            query_id=query.query_id,
            thought_id="t",
            text=" ".join(words[: 1 + number % 4]),
            source=Source(model="m"),
        )
        documents = [
            Document(doc_id=f"d{n % 20}", text=" ".join(WORDS[n % 20 % 9 :][: 3 + n % 20 % 5]))
            for n in range(number, number + 1 + number % 3)
        ]
        yield Example(
            query=query,
            positives=tuple(documents[:1]),
            negatives=tuple(documents[1:]),
            thought=thought if number % 3 else None,
        )


class FirstGradients(TrainerCallback):
    """Keeps the gradients before the first optimiser step."""

    def __init__(self):
        self.gradients = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if self.gradients is None:
            self.gradients = {
                name.removeprefix("module."): whole(p.grad).clone()
                for name, p in model.named_parameters()
                if p.grad is not None
            }


def whole(tensor):
    """The tensor itself, gathered where it is spread over processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_on_cpus(args):
    """Let accelerate shard over CPU processes: it turns FSDP on for accelerators only, and says nothing."""
    plugin = FullyShardedDataParallelPlugin(**args.fsdp_plugin_args)
    Accelerator(cpu=True).state.fsdp_plugin = plugin
    # every state of accelerate begins with what this one says
    PartialState().distributed_type = DistributedType.FSDP


def trainer_of(folder, case, out, processes):
    """Two optimiser steps with a global batch of GLOBAL_BATCH."""
    settings = CASES[case]
    args = TrainingArguments(
        output_dir=str(out / "run"),
        per_device_train_batch_size=GLOBAL_BATCH // processes,
        max_steps=2,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        **{"save_strategy": "no", "optim": "sgd", **settings.get("arguments", {})},
    )
    torch.manual_seed(0)
    embedder = Embedder.from_backbone(
        folder, query_length=12, thought_length=12, latent_steps=settings.get("latent_steps", 0)
    )
    if settings.get("lora"):
        add_lora(embedder.backbone, Lora(rank=4, alpha=8, dropout=0.0))
        for name, parameter in embedder.backbone.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    if settings.get("nan") and args.process_index == 0:
        embedder.backbone.control_rows.data.fill_(float("nan"))
    if args.fsdp:
        shard_on_cpus(args)
    data = list(examples())[: settings.get("examples")]
    collator = JointCollator(
        tokenizer=embedder.tokenizer,
        layout=embedder.layout,
        negatives=2,
        chunk_tokens=40,
        mixture="document" if case == "mixture" else None,
        excluded=Exclusions(data),
    )
    dataset = Examples(data, thought_dropout=settings.get("thought_dropout", 0.0))
    miner = None
    if settings.get("mined"):
        miner = Miner(embedder, dataset, collator, steps=1, range_max=5, relative_margin=0.0)
    return JointTrainer(
        embedder,
        settings.get("objective", Objective(temperature=0.1)),
        args=args,
        grad_cache=settings.get("grad_cache", False),
        order=ExampleOrder(data, args.per_device_train_batch_size, world_size=processes, seed=1),
        base=base_of(folder) if settings.get("lora") else None,
        train_dataset=dataset,
        data_collator=collator,
        miner=miner,
        callbacks=[FirstGradients()],
    )


def train(folder, case, out, processes):
    """Train, in two runs if the case says so, and write what came out."""
    trainer = trainer_of(folder, case, out, processes)
    source = CASES[case].get("from")
    before = None if source is None else str(out.parent / source / "run" / "checkpoint-1")
    trainer.train(resume_from_checkpoint=before)
    (first,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, FirstGradients))
    if "resumed" in case:
        trainer = trainer_of(folder, case, out, processes)
        trainer.train(resume_from_checkpoint=str(out / "run" / "checkpoint-1"))
    args = trainer.args
    if args.fsdp:
        assert all(isinstance(p, DTensor) for p in trainer.model.parameters())
    gathered = {name: whole(p.detach()).contiguous() for name, p in trainer.model.named_parameters()}
    trainer.save_model(str(out / "model"))
    rank = args.process_index
    save_file(gathered, out / f"weights-{rank}.safetensors")
    save_file(first.gradients, out / f"gradients-{rank}.safetensors")
    if trainer._miner is not None:
        (out / f"mined-{rank}").mkdir()
        trainer._miner.save(out / f"mined-{rank}")
    (out / f"log-{rank}.json").write_text(json.dumps(trainer.state.log_history))


def work(folder, case, out, processes):
    """One process of a job; what the user would see goes to a file."""
    try:
        train(folder, case, out, processes)
    except InputError as error:
        (out / "refused.txt").write_text(str(error))


def take_part(rank, folder, out, jobs):
    """Take part in each job that needs so many processes; `jobs` have a port each."""
    torch.set_num_threads(1)
    for job, port in jobs:
        processes, case = job.split(":")
        if rank >= int(processes):
            continue
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
        work(folder, case, out / job, int(processes))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def main():
    """Run the jobs one after another."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    for job in sys.argv[3:]:
        (out / job).mkdir(parents=True)
    jobs = [(job, free_port()) for job in sys.argv[3:]]
    # not forked: a fork of a process with threads hangs once in a while
    spawn = multiprocessing.get_context("spawn")
    together = [spawn.Process(target=take_part, args=(rank, folder, out, jobs)) for rank in range(4)]
    for process in together:
        process.start()
    for process in together:
        process.join()
        if process.exitcode:
            for other in together:
                other.kill()
            sys.exit(f"a process ended with {process.exitcode}")


if __name__ == "__main__":
    main()
