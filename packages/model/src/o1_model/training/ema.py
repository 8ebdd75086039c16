"""The moving average of the weights of a training: what is measured and saved in the place of the last ones.

    average = d * average + (1 - d) * weights         d = min(decay, (1 + step) / (10 + step))

after every optimiser step, counted from 0, so that the first steps are soon forgotten (as in TensorFlow and
diffusers). A checkpoint of a step holds the average as its model, and beside it what a resume needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from o1_records import InputError

WEIGHTS_FILE = "o1_weights_in_training.safetensors"
_WEIGHTS, _AVERAGE = "weights.", "average."


class MovingAverage:
    """The moving average, in float32, of the parameters of a model that are trained.

    Every process keeps its own, which are equal, for so are the weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = {name: own for name, own in model.named_parameters() if own.requires_grad}
        self._decay = decay
        self._values = self._now()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights in, after the optimiser step `step`."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, own in self._parameters.items():
            self._values[name].lerp_(own.detach().to(self._values[name]), 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[Mapping[str, Tensor]]:
        """Give the model its average, and at the end the weights that it has now; these are yielded."""
        weights = {name: own.detach().clone() for name, own in self._parameters.items()}
        self.put()
        try:
            yield weights
        finally:
            self._fill(weights)

    def put(self) -> None:
        """Give the model its average for good."""
        self._fill(self._values)

    def save(self, folder: str | Path, weights: Mapping[str, Tensor]) -> None:
        """Write the weights beside a model that has the average; and the average where that is rounded."""
        rounded = {n: own for n, own in self._values.items() if weights[n].dtype != own.dtype}
        tensors = {f"{_WEIGHTS}{name}": own for name, own in weights.items()}
        tensors |= {f"{_AVERAGE}{name}": own for name, own in rounded.items()}
        kept = {name: own.detach().cpu().contiguous() for name, own in tensors.items()}
        save_file(kept, Path(folder) / WEIGHTS_FILE)

    def load(self, folder: str | Path) -> None:
        """Take the average from a model that was just loaded from `folder`, and give that its weights.

        Raises InputError for a checkpoint that was written without an average.
        """
        path = Path(folder) / WEIGHTS_FILE
        if not path.exists():
            raise InputError(f"{folder}: no {WEIGHTS_FILE}, so it has no moving average; leave out ema_decay")
        tensors = load_file(path)
        self._values = self._now() | {
            name.removeprefix(_AVERAGE): own.to(self._parameters[name.removeprefix(_AVERAGE)].device)
            for name, own in tensors.items()
            if name.startswith(_AVERAGE)
        }
        self._fill({name: tensors[f"{_WEIGHTS}{name}"] for name in self._parameters})

    def _now(self) -> dict[str, Tensor]:
        return {name: own.detach().float().clone() for name, own in self._parameters.items()}

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, own in self._parameters.items():
            own.copy_(values[name].to(own))


class Averaging(TrainerCallback):
    """Updates the average after each optimiser step of a Trainer."""

    def __init__(self, average: MovingAverage) -> None:
        self._average = average

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take the weights in; the step is not counted yet."""
        self._average.update(state.global_step)
