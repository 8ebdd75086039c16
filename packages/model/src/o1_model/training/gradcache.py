"""One training step: vectors of all parts, the loss of the global batch, gradients of the weights.

`direct_step` keeps the graph of the whole batch. `cached_step` gives the same gradient in two passes
(GradCache, arXiv 2101.06983): first vectors alone, without a graph, and the gradient of the loss with
respect to them; then each part again, with the same random numbers, and its share of the gradient. So
vectors, not activations, bound the batch. The thinking loss has no term that joins two rows: each part
has its share of it in the second pass, and logits are computed there only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from o1_model.batch import Batch
from o1_model.training.data import JointBatch
from o1_model.training.joint import Vectors, parts_of, step_vectors
from o1_model.training.objective import Objective, embed_terms
from o1_model.training.step import every, gather, total

Backward = Callable[[Tensor, bool], None]


@dataclass(frozen=True)
class Plan:
    """What a step needs to know besides its batch.

    Attributes:
        objective: the terms and their weights.
        step: the optimiser step, counted from 0.
        n_labels: thought tokens of the global batch: over all processes and accumulated batches.
        batches: how many batches accumulate before the optimiser steps.
        averaged_over: by how many processes the wrapper divides gradients; 1 where they are added up.
        even: whether every process must encode equally many parts, because each is a collective call.
    """

    objective: Objective
    step: int
    n_labels: int
    batches: int = 1
    averaged_over: int = 1
    even: bool = False

    @property
    def embed_share(self) -> float:
        """What the contrastive term of one batch weighs in the loss of the step."""
        return self.objective.embed_weight / self.batches

    @property
    def think_share(self) -> float:
        """What the thinking term weighs; it is divided by `n_labels` already."""
        return 1 - self.objective.embed_weight


def direct_step(
    model: nn.Module, batch: JointBatch, plan: Plan, backward: Backward, device: torch.device
) -> dict[str, Tensor]:
    """Add the step's gradient to the weights' in one pass; returns the loss and its terms.

    `model` is a JointModel, wrapped or not. `backward(loss, last)` is called once.
    """
    encoded: list[Vectors] = []
    think = torch.zeros((), device=device)
    for number, part in enumerate(parts_of(batch)):
        with torch.set_grad_enabled(number < _trained(batch)):
            first, last, share = model(part.to(device), _denominator(number, batch, plan))
        encoded.append((first, last))
        think = think + share
    terms = embed_terms(
        *gather(step_vectors(batch, encoded), batch.judgements), plan.objective, step=plan.step
    )
    loss = plan.embed_share * terms["embed"] + plan.think_share * think
    backward(loss * plan.averaged_over, True)
    return _report(terms, think, plan)


def cached_step(
    model: nn.Module, batch: JointBatch, plan: Plan, backward: Backward, device: torch.device
) -> dict[str, Tensor]:
    """Add the step's gradient to the weights' in two passes; returns the loss and its terms.

    `backward(surrogate, last)` is called once a part of the queries and documents.
    """
    encoded: list[Vectors] = []
    states = []
    extra = _missing_parts(batch) if plan.even else 0
    with torch.no_grad():
        for part in [*parts_of(batch), *_repeated(batch, extra)]:
            states.append(RandomState(device))
            first, last, _ = model(part.to(device), None)
            encoded.append((first.requires_grad_(), last.requires_grad_()))
    terms = embed_terms(
        *gather(step_vectors(batch, encoded), batch.judgements), plan.objective, step=plan.step
    )
    (plan.embed_share * plan.averaged_over * terms["embed"]).backward()  # type: ignore[no-untyped-call]
    trained = _trained(batch)
    think = torch.zeros((), device=device)
    for number, part in enumerate([*parts_of(batch)[:trained], *_repeated(batch, extra)]):
        with states[number].replayed():
            vectors = model(part.to(device), _denominator(number, batch, plan))
        surrogate = vectors[2] * (plan.think_share * plan.averaged_over)
        for vector, cached in zip(vectors, encoded[number], strict=False):
            # a repeated part only keeps the processes in step
            weights = (
                cached.grad if number < trained and cached.grad is not None else torch.zeros_like(vector)
            )
            surrogate = surrogate + (vector * weights).sum()
        backward(surrogate, number == trained + extra - 1)
        think = think + vectors[2].detach()
    return _report(terms, think, plan)


class RandomState:
    """The random numbers to come, on the CPU and on the device, to be drawn again later."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._there = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw the same numbers inside; outside nothing was drawn."""
        devices = [] if self._there is None else [self._device]
        with torch.random.fork_rng(devices, device_type=self._device.type):
            torch.set_rng_state(self._cpu)
            if self._there is not None:
                torch.get_device_module(self._device).set_rng_state(self._there, self._device)
            yield


def _report(terms: dict[str, Tensor], think: Tensor, plan: Plan) -> dict[str, Tensor]:
    think = total(think)
    loss = plan.embed_share * terms["embed"].detach() + plan.think_share * think
    return {"loss": loss, "think": think * plan.batches, **{name: t.detach() for name, t in terms.items()}}


def _trained(batch: JointBatch) -> int:
    """Return how many parts get a gradient: reasoning queries, the last ones, do not."""
    return len(parts_of(batch)) - len(batch.reasoning)


def _denominator(number: int, batch: JointBatch, plan: Plan) -> int | None:
    return max(plan.n_labels, 1) if number < len(batch.queries) else None


def _missing_parts(batch: JointBatch) -> int:
    counts = every(len(parts_of(batch)))
    return max(counts) - len(parts_of(batch))


def _repeated(batch: JointBatch, times: int) -> list[Batch]:
    return [batch.documents[-1]] * times
