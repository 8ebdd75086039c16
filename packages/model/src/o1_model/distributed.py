"""Several processes as one batch: gather vectors, add up counts and gradients.

Every process holds its own queries and documents. Each computes the loss of the *global* batch, whose
vectors it has gathered, and the gradient of its own; gradients of the weights are then added up, not
averaged, so that any number of processes gives the same gradient (the public O1 code scales its
contrastive gradient by 1 / world size, method.md section 5). On one process everything is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.nn import Parameter

from o1_model.step import Judgements, StepVectors, join

_BUCKET = 2**24  # elements a collective call

T = TypeVar("T")


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _together() else 1


def every(value: T) -> list[T]:
    """One small value of each process, in their order."""
    if not _together():
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def total(value: Tensor) -> Tensor:
    """The sum over processes, without gradient."""
    summed = value.detach().clone()
    if _together():
        distributed.all_reduce(summed)
    return summed


def wait_for_all() -> None:
    """Return when every process is here."""
    if _together():
        distributed.barrier()


def gather(vectors: StepVectors, judgements: Judgements) -> tuple[StepVectors, Judgements]:
    """The vectors and judgements of all processes; only this process's own vectors carry a gradient.

    Processes may hold different numbers of queries and of documents.
    """
    device = vectors.v_q.device
    if not _together():
        return vectors, judgements.to(device)
    parts = every(judgements)
    queries = [len(part.has_thought) for part in parts]
    documents = [len(part.document_keys) for part in parts]
    gathered = StepVectors(
        v_q=_rows(vectors.v_q, queries),
        v_t=_rows(vectors.v_t, queries),
        documents=_rows(vectors.documents, documents),
    )
    if vectors.reasoning is not None:
        gathered = replace(gathered, reasoning=_rows(vectors.reasoning, queries))
    return gathered, join(parts).to(device)


@torch.no_grad()
def add_gradients(parameters: Iterable[Parameter]) -> None:
    """Replace each gradient by its sum over processes.

    A parameter that no process used keeps no gradient, so that weight decay leaves it alone, as it does
    on one process.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not _together() or not trained:
        return
    device = trained[0].device
    used = torch.tensor([parameter.grad is not None for parameter in trained], device=device).int()
    distributed.all_reduce(used, distributed.ReduceOp.MAX)
    gradients = []
    for parameter, somewhere in zip(trained, used.tolist(), strict=True):
        if somewhere and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        distributed.all_reduce(flat)
        pieces = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, piece in zip(bucket, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _rows(local: Float[Tensor, "n dim"], counts: Sequence[int]) -> Float[Tensor, "all dim"]:
    # collectives want equal shapes
    padded = local.new_zeros(max(counts), *local.shape[1:])
    padded[: len(local)] = local.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    rows = [part[:count] for part, count in zip(parts, counts, strict=True)]
    rows[distributed.get_rank()] = local
    return torch.cat(rows)


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = []
    room, kind = 0, None
    for gradient in gradients:
        if gradient.numel() > room or gradient.dtype != kind:
            buckets.append([])
            room, kind = _BUCKET, gradient.dtype
        buckets[-1].append(gradient)
        room -= gradient.numel()
    return buckets
