"""transformers' Trainer with our step: its checkpoints, resume, logging and flags.

Overridden is only what the objective needs: the step (`gradcache.py`), the order of batches, the number of
labels, the log line, the evaluation, and the contents of a checkpoint.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from o1_model.checkpoint.lora import Base
from o1_model.embedder import Embedder
from o1_model.layout import load_layout
from o1_model.training.arguments import BEST_METRIC
from o1_model.training.data import ExampleOrder, JointBatch
from o1_model.training.ema import Averaging, MovingAverage
from o1_model.training.evaluate import Collection, measure
from o1_model.training.gradcache import Plan, cached_step, direct_step
from o1_model.training.joint import JointModel
from o1_model.training.mining import Miner
from o1_model.training.objective import Objective
from o1_model.training.own_thoughts import OwnThoughts
from o1_model.training.saving import load_weights, of_a_step, save_weights
from o1_model.training.step import add_gradients, every, total, wait_for_all, world_size
from o1_records import InputError, atomic_write

STOPPED_AT = "stopped_at.json"


class JointTrainer(Trainer):
    """Trainer of the joint loss, whose checkpoints load as an Embedder.

    Args:
        embedder: what is trained.
        objective: the terms of the loss.
        args: transformers' arguments.
        grad_cache: take the step in two passes, so that vectors and not activations limit the batch.
            The numbers are the same. FSDP and DeepSpeed need it.
        order: the order of examples; None: the Trainer's own.
        own_thoughts: puts own thoughts into batches, for an objective that has them.
        miner: mines hard negatives anew on the way.
        base: the model under the adapter, if there is one (`lora.add_lora`).
        collection: what retrieval is measured on.
        samples: own thoughts per query in the evaluation; 0 measures without thinking.
        ema_decay: above 0, what is measured and saved is the moving average of the weights (`ema.py`).
        settings: of the Trainer, such as `train_dataset` and `data_collator`.
    """

    def __init__(
        self,
        embedder: Embedder,
        objective: Objective,
        *,
        args: TrainingArguments,
        grad_cache: bool = False,
        order: ExampleOrder | None = None,
        own_thoughts: OwnThoughts | None = None,
        miner: Miner | None = None,
        base: Base | None = None,
        collection: Collection | None = None,
        samples: int = 0,
        ema_decay: float = 0.0,
        **settings: Any,
    ) -> None:
        self.embedder = embedder
        self._collection, self._samples = collection, samples
        self.objective: Objective = objective
        embedder.mixture = objective.mixture  # retrieval is to mix as training does
        self._grad_cache, self._order, self._own_thoughts, self._base = grad_cache, order, own_thoughts, base
        self._miner = miner
        self._terms: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._logged_at = time.perf_counter()
        # the order gives every process equally many batches, of its own sizes
        accelerator: Any = args.accelerator_config
        accelerator.even_batches = order is None
        # the Trainer only asks whether there is one
        settings["eval_dataset"] = None if collection is None else collection.queries
        model = JointModel(embedder.backbone, embedder.layout, aligns=objective.align_weight > 0)
        super().__init__(model=model, args=args, **settings)
        self._average = MovingAverage(model, ema_decay) if ema_decay else None
        if self._average is not None:
            self.add_callback(Averaging(self._average))
        self._refuse_what_does_not_go_together()
        model.use_head = self._wrapper_reduces

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this process, in the order of `order`."""
        if self._order is None:
            return super().get_train_dataloader()
        workers = self.args.dataloader_num_workers
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self._order,
            collate_fn=self.data_collator if self._miner is None else list,
            num_workers=workers,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=self.args.dataloader_multiprocessing_context if workers else None,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Return the batches of one optimiser step and the number of their labels over all processes."""
        if self.state.global_step >= self.state.max_steps:
            # a finished training, started again in the middle of an epoch, would take one more step
            return [], None
        if self._miner is not None:
            epoch_iterator = self._miner.ahead(epoch_iterator, step=self.state.global_step)
        if self._own_thoughts is not None:
            epoch_iterator = self._own_thoughts.ahead(
                epoch_iterator,
                step=self.state.global_step,
                accumulation=self.args.gradient_accumulation_steps,
            )
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        labels = sum(inputs["batch"].n_labels for inputs in samples)
        return samples, int(total(torch.tensor(labels, device=device)))

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Add one batch's gradient and return its share of the step's loss over all processes.

        Raises InputError, with the batch's query_ids in a file, when the loss is not finite.
        """
        model.train()
        batch: JointBatch = inputs["batch"]
        plan = Plan(
            objective=self.objective,
            step=self.state.global_step,
            n_labels=int(num_items_in_batch or 0),
            batches=self.current_gradient_accumulation_steps,
            averaged_over=world_size() if self._wrapper_reduces else 1,
            even=self._wrapper_reduces,
        )
        # DistributedDataParallel would average, and waits for parameters that a part does not use
        encoder = model.module if isinstance(model, DistributedDataParallel) else model
        step = cached_step if self._grad_cache else direct_step
        terms = step(encoder, batch, plan, self._backward, self.args.device)
        if not torch.isfinite(terms["loss"]):
            self._stop_at(batch, float(terms["loss"]))
        if self.accelerator.sync_gradients and not self._wrapper_reduces:
            add_gradients(encoder.parameters())
        self._keep_for_the_log(batch, terms)
        return terms["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to a training line the mean of each loss term since the last, tokens per second and memory."""
        if self._terms and ("loss" in logs or "train_loss" in logs):
            means = {name: float(torch.stack(values).mean()) for name, values in self._terms.items()}
            steps = len(self._terms["tokens"])
            seconds, self._logged_at = time.perf_counter() - self._logged_at, time.perf_counter()
            tokens, padded = means.pop("tokens"), means.pop("padded_tokens")
            logs |= {name: round(value, 5) for name, value in means.items()}
            logs["real_tokens"] = round(tokens / padded, 4)
            logs["tokens_per_s"] = round(tokens * steps / seconds, 1)
            logs["memory_mb"] = round(peak_mb(self.args.device), 1)
            self._terms.clear()
        super().log(logs, start_time)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Measure retrieval on the collection; the Trainer keeps the best checkpoint by it."""
        if self._collection is None:
            return {}
        start = time.perf_counter()
        self.embedder.backbone.eval()
        with self._averaged():
            values = measure(
                self.embedder, self._collection, samples=self._samples, mixture=self.objective.mixture
            )
        self.embedder.backbone.train()
        metrics = {f"{metric_key_prefix}_{name}": round(value, 5) for name, value in values.items()}
        seconds = time.perf_counter() - start
        metrics[f"{metric_key_prefix}_seconds"] = round(seconds, 1)
        # tokens per second are those of training
        self._logged_at += seconds
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def end_average(self) -> None:
        """Give the model its moving average for good, if there is one."""
        if self._average is not None:
            self._average.put()
            self._average = None

    def figures(self) -> list[dict[str, float]]:
        """Return what each evaluation so far found, and at which step."""
        return [line for line in self.state.log_history if BEST_METRIC in line]

    @property
    def _wrapper_reduces(self) -> bool:
        """Whether FSDP or DeepSpeed reduces gradients, in every backward pass of every process."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def _recomputes(self) -> bool:
        """Whether layers keep no activations."""
        names = ("activation_checkpointing", "gradient_checkpointing")
        return any(getattr(self.args, name, False) for name in names)

    def _backward(self, loss: Tensor, last: bool) -> None:
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            state = self.accelerator.gradient_state
            whole = state.sync_gradients
            # its engine steps in the backward pass that it takes for the last
            state._set_sync_gradients(whole and last)
            self.accelerator.backward(loss, scale_wrt_gas=False)
            state._set_sync_gradients(whole)
        else:
            self.accelerator.backward(loss)

    def _keep_for_the_log(self, batch: JointBatch, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            if name != "loss":
                self._terms[name].append(value.float().cpu())
        counts = torch.tensor([batch.real_tokens, batch.padded_tokens], device=self.args.device)
        for name, value in zip(("tokens", "padded_tokens"), total(counts).cpu(), strict=True):
            self._terms[name].append(value.float())

    def _stop_at(self, batch: JointBatch, loss: float) -> None:
        query_ids = [query_id for own in every(list(batch.query_ids)) for query_id in own]
        path = Path(str(self.args.output_dir)) / STOPPED_AT
        if self.args.should_save:
            line = {"step": self.state.global_step, "loss": str(loss), "query_ids": query_ids}
            with atomic_write(path) as file:
                file.write(json.dumps(line, indent=1).encode())
        raise InputError(
            f"the loss is {loss} at step {self.state.global_step}: {path} names the {len(query_ids)} queries "
            "of the batch; check their texts, or lower learning_rate"
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            folder = output_dir or str(self.args.output_dir)
            with self._averaged() as weights:
                save_weights(self.embedder, folder, base=self._base, state=state_dict)
            if self._average is not None:
                self._average.save(folder, weights)
            if self._miner is not None and of_a_step(Path(folder)):
                self._miner.save(folder)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # the Trainer's state, which is written next, says that the checkpoint is whole
        wait_for_all()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        layout = load_layout(resume_from_checkpoint)
        if layout != self.embedder.layout:
            raise InputError(
                f"{resume_from_checkpoint}: has layout {layout}, this run {self.embedder.layout}"
            )
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.embedder.backbone, resume_from_checkpoint)
        if self._average is not None:
            self._average.load(resume_from_checkpoint)
        if self._miner is not None:
            self._miner.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        # the Trainer would look for weights under this model's names and silently load none
        best = Path(str(self.state.best_model_checkpoint)).name
        self._load_from_checkpoint(str(Path(str(self.args.output_dir)) / best))

    def _averaged(self) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Give the model its moving average meanwhile, if there is one; its own weights are the value."""
        return nullcontext({}) if self._average is None else self._average.in_place()

    def _refuse_what_does_not_go_together(self) -> None:
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        whole = "they need the whole weights on every process; start it without --fsdp"
        refusals = {
            "DeepSpeed's ZeRO-3 spreads weights that a step in two passes needs twice; use stage 1 or 2, "
            "or --fsdp": plugin is not None and plugin.zero_stage == 3,
            "FSDP and DeepSpeed reduce gradients part by part; add --grad_cache": self._wrapper_reduces
            and not self._grad_cache,
            "accelerate runs FSDP on several GPUs only; start it without --fsdp": bool(self.args.fsdp)
            and not self.is_fsdp_enabled,
            f"own thoughts and FSDP do not go together: {whole}": bool(self.is_fsdp_enabled)
            and self.objective.own_thoughts > 0,
            f"evaluation while training and FSDP do not go together: {whole}": bool(self.is_fsdp_enabled)
            and self.eval_dataset is not None,
            f"mining while training and FSDP do not go together: {whole}": bool(self.is_fsdp_enabled)
            and self._miner is not None,
            "latent_steps go on from keys and values, which are not kept with activation_checkpointing; "
            "leave one of them out (--grad_cache bounds memory, too)": self._recomputes
            and self.embedder.layout.latent_steps > 0,
            f"ema_decay and FSDP or DeepSpeed do not go together: {whole}": self._wrapper_reduces
            and self._average is not None,
        }
        for sentence, holds in refusals.items():
            if holds:
                raise InputError(sentence)


def peak_mb(device: torch.device) -> float:
    """Return the most memory used so far: of the GPU by tensors, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # kilobytes, but bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
