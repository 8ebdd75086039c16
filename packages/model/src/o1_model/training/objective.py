"""What a training step minimises: its settings and its terms.

```
loss  = w * embed + (1 - w) * think
embed = contrastive + distil_weight * distil + align_weight * align + teacher_weight * teacher
```
(O1 Embedder, arXiv 2502.07555, section 3.3, with both read-outs of its figure 2.) The contrastive loss of an
example is the mean of InfoNCE(v_q) and InfoNCE(v_t), weighted by `query_weight` and `thought_weight`, or
InfoNCE(v_q) alone where it has no thought; that of the batch is the mean over examples, or Redapter's
weighted mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from o1_model.encoding.pooling import normalise
from o1_model.training.loss import distil_loss, embed_loss, margin_mse, reasoning_intensity, teacher_kl
from o1_model.training.step import Judgements, StepVectors, each_once, negatives, prefix
from o1_records import InputError
from o1_records.mixture import Mixture

MIXTURE = Mixture()


@dataclass(frozen=True)
class Objective:
    """Which terms there are and what they weigh; the defaults are O1 Embedder's.

    `false_negative_margin` 0.1 is Qwen3-Embedding's, `redapter_from` 100 ReasonEmbed's, `distil_weight` 10
    and `align_weight` 0.1 LaSER's, beside the sum of both InfoNCE, of which ours is the mean; None and 0
    leave a term out. The mixture is `unit((1 - share) * v_q + share * u)` with u the vector of the example's
    thought, as a retriever has it (`o1_records.mixture`). Raises InputError for values out of range and for
    settings without effect.
    """

    _argument_group_name = "objective"

    embed_weight: float = field(
        default=0.8, metadata={"help": "w: the embedding terms against 1 - w for thinking"}
    )
    temperature: float = field(default=0.02, metadata={"help": "of InfoNCE and of distilled distributions"})
    query_weight: float = field(default=1.0, metadata={"help": "InfoNCE of v_q, read before the thought"})
    thought_weight: float = field(default=1.0, metadata={"help": "InfoNCE of v_t, read after the thought"})
    mixture_weight: float = field(
        default=0.0, metadata={"help": "InfoNCE of the mixture of v_q and the thought's vector"}
    )
    mixture_share: float = field(
        default=MIXTURE.weight, metadata={"help": "share of the thought in the mixture, as in retrieval"}
    )
    mixture_reading: Literal["joint", "query", "document"] = field(
        default=MIXTURE.reading,
        metadata={"help": "how the thought is read for the mixture: as v_t, or alone, as one or the other"},
    )
    distil_weight: float = field(
        default=0.0, metadata={"help": "KL of the document distribution with thoughts to v_q's"}
    )
    distil_from: Literal["thought", "mixture"] = field(
        default="thought", metadata={"help": "what v_q learns the distribution of: v_t, or the mixture"}
    )
    align_weight: float = field(
        default=0.0, metadata={"help": "KL of the document distribution along the thought to latent steps'"}
    )
    teacher: Literal["none", "kl", "margin_mse"] = field(
        default="none", metadata={"help": "how to learn from the examples' teacher_scores"}
    )
    teacher_weight: float = field(default=1.0, metadata={"help": "of the teacher term, when there is one"})
    false_negative_margin: float | None = field(
        default=None, metadata={"help": "a document that scores this far above the positive is no negative"}
    )
    matryoshka_dims: list[int] = field(
        default_factory=list,
        metadata={"help": "lengths of prefixes to train beside the whole vector"},
    )
    redapter_from: int | None = field(
        default=None, metadata={"help": "optimiser step from which Redapter weighs the examples"}
    )
    own_thoughts: float = field(
        default=0.0, metadata={"help": "share of examples that get the model's own thought, not cloned"}
    )
    own_thoughts_from: int = field(default=0, metadata={"help": "optimiser step at which own thoughts start"})
    own_thoughts_every: int = field(
        default=10, metadata={"help": "steps between two refreshes of own thoughts"}
    )

    def __post_init__(self) -> None:
        """Raise InputError for values out of range."""
        not_negative = (
            "query_weight",
            "thought_weight",
            "mixture_weight",
            "distil_weight",
            "align_weight",
            "teacher_weight",
            "false_negative_margin",
            "redapter_from",
            "own_thoughts_from",
        )
        refuse_out_of_range(
            self,
            embed_weight=(0 <= self.embed_weight <= 1, "between 0 and 1"),
            temperature=(self.temperature > 0, "above 0"),
            mixture_share=(0 < self.mixture_share <= 1, "above 0 and at most 1"),
            own_thoughts=(0 <= self.own_thoughts <= 1, "between 0 and 1"),
            own_thoughts_every=(self.own_thoughts_every >= 1, "at least 1"),
            matryoshka_dims=(all(dim >= 1 for dim in self.matryoshka_dims), "at least 1 each"),
            **{name: ((getattr(self, name) or 0) >= 0, "at least 0") for name in not_negative},
        )
        if self.query_weight + self.thought_weight + self.mixture_weight == 0:
            raise InputError(
                "query_weight, thought_weight and mixture_weight are all 0: no vector would be trained"
            )
        if not self.distil_weight:
            refuse_changed_defaults(self, "distil_weight", "distil_from")
        if self.mixture is None:
            refuse_changed_defaults(
                self, "mixture_weight (or distil_from mixture)", "mixture_share", "mixture_reading"
            )
        if self.teacher == "none":
            refuse_changed_defaults(self, "teacher", "teacher_weight")
        if not self.own_thoughts:
            refuse_changed_defaults(self, "own_thoughts", "own_thoughts_from", "own_thoughts_every")

    @property
    def mixture(self) -> Mixture | None:
        """How thoughts are mixed into queries, if the objective has a term of the mixture."""
        if self.mixture_weight == 0 and (self.distil_weight == 0 or self.distil_from == "thought"):
            return None
        return Mixture(weight=self.mixture_share, reading=self.mixture_reading)

    def redapter_on(self, step: int) -> bool:
        """Return whether Redapter weighs the examples of this optimiser step (counted from 0)."""
        return self.redapter_from is not None and step >= self.redapter_from


def refuse_out_of_range(settings: object, **needed: tuple[bool, str]) -> None:
    """Raise InputError for the first setting that is not what it must be: (whether it is, in words)."""
    for name, (holds, words) in needed.items():
        if not holds:
            raise InputError(f"{name} must be {words}, got {getattr(settings, name)}")


def refuse_changed_defaults(settings: Any, without: str, *names: str) -> None:
    """Raise InputError for a setting that is not its default and has no effect `without` another one."""
    defaults = {known.name: known.default for known in fields(settings)}
    for name in names:
        if getattr(settings, name) != defaults[name]:
            raise InputError(f"{name} would have no effect without {without}; give that too, or leave it out")


def embed_terms(
    vectors: StepVectors, judgements: Judgements, objective: Objective, *, step: int
) -> dict[str, Tensor]:
    """Return the terms on vectors of the global batch, by name, and their weighted total under `embed`.

    `embed_q`, `embed_t` (over examples with a thought) and `embed_m` (the mixture, over the same) are plain
    means, whatever Redapter does; `embed_m`, `distil`, `align` and `teacher` are there if the objective has
    them. Without gradient: `intensity_mean`, `_max` and `_clamped` (share) of Redapter, and `false_negatives`
    (masked documents per query). With `matryoshka_dims` every value is the mean over the prefixes and the
    whole vector.

    Of a document that occurs several times, the first counts; without any thought `embed` is the term of
    v_q alone. Computed in float32 or better even under autocast.
    """
    with torch.autocast(vectors.v_q.device.type, enabled=False):
        vectors, judgements = each_once(vectors, judgements)
        whole = vectors.v_q.shape[1]
        if any(dim >= whole for dim in objective.matryoshka_dims):
            raise InputError(
                f"matryoshka_dims must be below {whole}, a vector's length, got {objective.matryoshka_dims}"
            )
        each = [
            _terms(prefix(vectors, dim), judgements, objective, step)
            for dim in (*objective.matryoshka_dims, whole)
        ]
        return {name: torch.stack([terms[name] for terms in each]).mean(dim=0) for name in each[0]}


def _terms(
    vectors: StepVectors, judgements: Judgements, objective: Objective, step: int
) -> dict[str, Tensor]:
    read_outs = [
        _ReadOut(
            vectors.v_q @ vectors.documents.T, objective.query_weight, torch.ones_like(judgements.mixes)
        ),
        _ReadOut(vectors.v_t @ vectors.documents.T, objective.thought_weight, judgements.has_thought),
    ]
    if objective.mixture is not None:
        mixed = _mixed(vectors, judgements, objective.mixture_share)
        read_outs.append(_ReadOut(mixed @ vectors.documents.T, objective.mixture_weight, judgements.mixes))
    scores_q = read_outs[0].scores
    negative = negatives(judgements)
    place = torch.arange(judgements.rows.shape[1], device=negative.device)
    positives = judgements.rows.masked_fill(place >= judgements.n_positives[:, None], -1)
    positives = positives[:, : int(judgements.n_positives.max())]

    def info_nce(scores: Tensor) -> Tensor:
        return embed_loss(
            scores,
            positives,
            negative,
            temperature=objective.temperature,
            margin=objective.false_negative_margin,
        )

    losses = [info_nce(read_out.scores) for read_out in read_outs]
    contrastive = _over_read_outs(losses, read_outs)
    terms = {"embed_q": losses[0].mean(), "embed_t": _mean(losses[1], judgements.has_thought)}
    if objective.mixture is not None:
        terms["embed_m"] = _mean(losses[2], judgements.mixes)
    if objective.redapter_on(step):
        reasoning = vectors.v_t if vectors.reasoning is None else vectors.reasoning
        reasoned = info_nce(reasoning.detach() @ vectors.documents.detach().T)
        intensity, weights = reasoning_intensity(losses[0], reasoned)
        terms |= {
            "intensity_mean": intensity.mean(),
            "intensity_max": intensity.max(),
            "intensity_clamped": (intensity >= 5).to(intensity.dtype).mean(),
        }
        total = (weights * contrastive).sum()
    else:
        total = contrastive.mean()
    if objective.distil_weight:
        teacher = read_outs[1 if objective.distil_from == "thought" else 2]
        kl = distil_loss(scores_q, teacher.scores, temperature=objective.temperature)
        terms["distil"] = _mean(kl, teacher.has)
        total = total + objective.distil_weight * terms["distil"]
    if objective.align_weight:
        assert vectors.steps is not None and vectors.thought_steps is not None
        along = [
            distil_loss(
                own @ vectors.documents.T, far @ vectors.documents.T, temperature=objective.temperature
            )
            for own, far in zip(vectors.steps.unbind(1), vectors.thought_steps.unbind(1), strict=True)
        ]
        terms["align"] = _mean(torch.stack(along).mean(dim=0), judgements.has_thought)
        total = total + objective.align_weight * terms["align"]
    if objective.teacher != "none":
        terms["teacher"] = _teacher(read_outs, judgements, objective)
        total = total + objective.teacher_weight * terms["teacher"]
    if objective.false_negative_margin is not None:
        own = scores_q.detach().gather(1, positives[:, :1])
        masked = (scores_q.detach() > own + objective.false_negative_margin) & negative
        terms["false_negatives"] = masked.sum(dim=1).to(scores_q.dtype).mean()
    return {**terms, "embed": total}


@dataclass(frozen=True)
class _ReadOut:
    """The scores of one vector of each query, what its loss weighs, and which queries have it."""

    scores: Float[Tensor, "queries documents"]
    weight: float
    has: Bool[Tensor, "queries"]


def _mixed(vectors: StepVectors, judgements: Judgements, share: float) -> Float[Tensor, "queries dim"]:
    """Return the queries with their thoughts mixed in; a query without one is v_q."""
    thoughts = vectors.v_t if vectors.thoughts is None else vectors.thoughts
    mixed = normalise((1 - share) * vectors.v_q + share * thoughts)
    return torch.where(judgements.mixes[:, None], mixed, vectors.v_q)


def _over_read_outs(
    losses: Sequence[Float[Tensor, "queries"]], read_outs: Sequence[_ReadOut]
) -> Float[Tensor, "queries"]:
    """Return the weighted mean of each query's losses over the read-outs that it has; else that of v_q."""
    total = torch.zeros_like(losses[0])
    weights = torch.zeros_like(losses[0])
    for loss, read_out in zip(losses, read_outs, strict=True):
        has = read_out.has.to(loss.dtype)
        total = total + read_out.weight * has * loss
        weights = weights + read_out.weight * has
    return torch.where(weights > 0, total / weights.clamp(min=1e-30), losses[0])


def _teacher(
    read_outs: Sequence[_ReadOut], judgements: Judgements, objective: Objective
) -> Float[Tensor, ""]:
    def loss(scores: Tensor) -> Tensor:
        if objective.teacher == "kl":
            return teacher_kl(scores, judgements.rows, teacher, temperature=objective.temperature)
        return margin_mse(
            scores, judgements.rows, teacher, judgements.n_positives, temperature=objective.temperature
        )

    taught = judgements.teacher.isfinite().any(dim=1)
    teacher = judgements.teacher.nan_to_num().to(read_outs[0].scores.dtype)
    return _mean(_over_read_outs([loss(own.scores) for own in read_outs], read_outs), taught)


def _mean(values: Float[Tensor, "queries"], chosen: Bool[Tensor, "queries"]) -> Float[Tensor, ""]:
    """Return the mean over the chosen; 0 for none."""
    return values.masked_fill(~chosen, 0.0).sum() / chosen.sum().clamp(min=1)
