"""The vectors of one training step and which of them belong together, on one process or on many.

Tensors only, so that processes can gather them. The loss sees the *global* batch, with every document once.
Each process holds its own queries and documents, gathers the vectors of all, and computes the gradient of its
own; gradients of the weights are then added up, not averaged, so that loss and gradient are the same for any
number of processes (the public O1 code scales its contrastive gradient by 1 / world size). On one process
every collective function is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed
from torch.nn import Parameter
from torch.nn import functional as F

from o1_model.encoding.pooling import normalise

_BUCKET = 2**24  # elements a collective call

T = TypeVar("T")


@dataclass(frozen=True)
class StepVectors:
    """Unit vectors of one step: of one process, or of all after gathering.

    `v_t` is the row of v_q where there is no thought. `reasoning` holds vectors of the reasoning queries (q'
    of Redapter) for layouts without a place for a thought; None for the others, whose q' is v_t. It never
    has a gradient. `thoughts` are the vectors of thoughts that are read alone, for the mixture, and v_q's
    where there is none; None where the mixture reads v_t, or there is no mixture. `steps` are those of
    the latent steps and `thought_steps` those of the thought as far as each of them; None where they are not
    aligned.
    """

    v_q: Float[Tensor, "queries dim"]
    v_t: Float[Tensor, "queries dim"]
    documents: Float[Tensor, "documents dim"]
    reasoning: Float[Tensor, "queries dim"] | None = None
    thoughts: Float[Tensor, "queries dim"] | None = None
    steps: Float[Tensor, "queries steps dim"] | None = None
    thought_steps: Float[Tensor, "queries steps dim"] | None = None


@dataclass(frozen=True)
class Judgements:
    """Which documents are right for which queries: of one process, or of all after `join`. Tensors only.

    Dimension 0 is queries, in `document_keys` documents. `rows` is the only tensor that refers to documents
    by position.

    Attributes:
        document_keys: a 64-bit digest of each document's text; a document may occur several times.
        rows: each example's own documents, positives first, -1 after the last.
        n_positives: how many of `rows` are positives; at least 1.
        excluded_keys: the documents that are no negatives of the query, present or not: its known positives
            and itself. Padded with the first.
        has_thought: whether v_t is a read-out of its own, after a thought between two `<emb>`.
        mixes: whether there is a thought to mix into v_q.
        counts: whether the query is more than a copy that gives every process equally many.
        teacher: the teacher's scores of `rows`; NaN where there is none.
    """

    document_keys: Int[Tensor, "documents"]
    rows: Int[Tensor, "queries group"]
    n_positives: Int[Tensor, "queries"]
    excluded_keys: Int[Tensor, "queries excluded"]
    has_thought: Bool[Tensor, "queries"]
    mixes: Bool[Tensor, "queries"]
    counts: Bool[Tensor, "queries"]
    teacher: Float[Tensor, "queries group"]

    def to(self, device: torch.device) -> Judgements:
        """Return the judgements on another device."""
        return Judgements(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def join(parts: Sequence[Judgements]) -> Judgements:
    """Return the judgements of several processes as one, in the order in which documents are stacked."""
    counts = [len(part.document_keys) for part in parts]
    offsets = [sum(counts[:number]) for number in range(len(parts))]
    shifted = [
        torch.where(part.rows < 0, -1, part.rows + offset)
        for part, offset in zip(parts, offsets, strict=True)
    ]
    return Judgements(
        document_keys=torch.cat([part.document_keys for part in parts]),
        rows=_stacked(shifted, -1),
        n_positives=torch.cat([part.n_positives for part in parts]),
        excluded_keys=_stacked([part.excluded_keys for part in parts], None),
        has_thought=torch.cat([part.has_thought for part in parts]),
        mixes=torch.cat([part.mixes for part in parts]),
        counts=torch.cat([part.counts for part in parts]),
        teacher=_stacked([part.teacher for part in parts], float("nan")),
    )


def negatives(judgements: Judgements) -> Bool[Tensor, "queries documents"]:
    """Return which documents are negatives of a query: all but those that are excluded."""
    shape = (len(judgements.excluded_keys), len(judgements.document_keys))
    negative = torch.ones(shape, dtype=torch.bool, device=judgements.rows.device)
    for keys in judgements.excluded_keys.unbind(dim=1):
        negative &= judgements.document_keys != keys[:, None]
    return negative


def each_once(vectors: StepVectors, judgements: Judgements) -> tuple[StepVectors, Judgements]:
    """Keep the queries that count, and of each document the first occurrence, to which all rows refer."""
    keys = judgements.document_keys
    _, which = torch.unique(keys, return_inverse=True)
    place = torch.arange(len(keys), device=keys.device)
    first = torch.full_like(keys, len(keys)).scatter_reduce(0, which, place, "amin")[which]
    kept = (first == place).nonzero()[:, 0]
    moved = torch.searchsorted(kept, first)
    rows = torch.where(judgements.rows < 0, -1, moved[judgements.rows])
    of_queries = {
        name: value[judgements.counts]
        for name, value in vars(replace(judgements, rows=rows)).items()
        if name != "document_keys"
    }
    of_vectors = {
        name: value[judgements.counts]
        for name, value in vars(vectors).items()
        if name != "documents" and value is not None
    }
    return (
        StepVectors(**of_vectors, documents=vectors.documents[kept]),
        Judgements(**of_queries, document_keys=keys[kept]),
    )


def prefix(vectors: StepVectors, dim: int) -> StepVectors:
    """Return the first `dim` numbers of every vector, of unit length again, in float32 or better."""

    def cut(whole: Tensor) -> Tensor:
        if dim < whole.shape[-1]:
            return normalise(whole[..., :dim])
        return whole.to(torch.promote_types(whole.dtype, torch.float32))

    present = {name: value for name, value in vars(vectors).items() if value is not None}
    return StepVectors(**{name: cut(value) for name, value in present.items()})


def _stacked(parts: Sequence[Tensor], fill: float | None) -> Tensor:
    """Stack the rows of tensors of several widths; `fill` None repeats the first column."""
    width = max(part.shape[1] for part in parts)
    return torch.cat(
        [
            F.pad(part, (0, width - part.shape[1]), value=fill)
            if fill is not None
            else torch.cat([part, part[:, :1].expand(-1, width - part.shape[1])], dim=1)
            for part in parts
        ]
    )


# --- several processes --------------------------------------------------------------------------------


def world_size() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if _together() else 1


def process() -> int:
    """Return which of them this one is, from 0."""
    return distributed.get_rank() if _together() else 0


def every(value: T) -> list[T]:
    """Return one small value of each process, in their order."""
    if not _together():
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def total(value: Tensor) -> Tensor:
    """Return the sum over processes, without gradient."""
    summed = value.detach().clone()
    if _together():
        distributed.all_reduce(summed)
    return summed


def wait_for_all() -> None:
    """Wait until every process is here."""
    if _together():
        distributed.barrier()


def gather(vectors: StepVectors, judgements: Judgements) -> tuple[StepVectors, Judgements]:
    """Return the vectors and judgements of all processes; only this process's vectors have a gradient.

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
    for name in ("reasoning", "thoughts", "steps", "thought_steps"):
        own = getattr(vectors, name)
        if own is not None:
            gathered = replace(gathered, **{name: _rows(own, queries)})
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


def _rows(local: Float[Tensor, "n *steps dim"], counts: Sequence[int]) -> Float[Tensor, "all *steps dim"]:
    # collectives want equal shapes
    padded = local.new_zeros(max(counts), *local.shape[1:])
    padded[: len(local)] = local.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    rows = [part[:count] for part, count in zip(parts, counts, strict=True)]
    rows[process()] = local
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
