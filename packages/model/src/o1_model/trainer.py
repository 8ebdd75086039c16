"""transformers' Trainer with our loss: its checkpoints, resume, logging and flags."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from o1_model.backbone import embedding_matrix, load_lm
from o1_model.embedder import Embedder
from o1_model.joint import JointModel
from o1_model.layout import load_layout
from o1_model.objective import Objective
from o1_records import InputError


class JointTrainer(Trainer):
    """Trainer whose model returns the joint loss and whose checkpoints load as an Embedder."""

    def __init__(self, embedder: Embedder, objective: Objective, **settings: Any) -> None:
        self.embedder = embedder
        self._terms: defaultdict[str, list[Tensor]] = defaultdict(list)
        super().__init__(model=JointModel(embedder.backbone, embedder.layout, objective), **settings)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The joint loss of one batch; its terms are kept for the next log line."""
        terms = model(inputs["batch"])
        for name, value in terms.items():
            if name != "loss":
                self._terms[name].append(value.detach())
        loss = terms["loss"]
        if not torch.isfinite(loss):
            raise InputError(f"the loss is {loss.item()} at step {self.state.global_step}")
        return (loss, terms) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each loss term since the last line."""
        for name, values in self._terms.items():
            logs[name] = round(float(torch.stack(values).mean()), 4)
        self._terms.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.embedder.save_pretrained(output_dir or str(self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        layout = load_layout(resume_from_checkpoint)
        if layout != self.embedder.layout:
            raise InputError(
                f"{resume_from_checkpoint}: has layout {layout}, this run {self.embedder.layout}"
            )
        backbone = self.embedder.backbone
        backbone.lm.load_state_dict(load_lm(resume_from_checkpoint).state_dict())
        rows = embedding_matrix(backbone.lm)[list(layout.control_ids)]
        backbone.control_rows.data.copy_(rows.detach())
