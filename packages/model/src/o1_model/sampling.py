"""Choosing the next token: nucleus sampling, and the random stream of each thought."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TRIES = 6  # uniform draws a step; 0.1 ** 6 of the steps at top-p 0.9 need more


def stream(seed: int, name: str, sample: int, steps: int) -> Float[Tensor, "steps tries"]:
    """Uniform draws in [0, 1) that depend on nothing but the seed, the query and the sample."""
    label = f"{seed}\0{name}\0{sample}".encode()
    number = int.from_bytes(hashlib.sha256(label).digest()[:8], "big") >> 1
    return torch.rand(steps, TRIES, generator=torch.Generator().manual_seed(number))


def nucleus(
    logits: Float[Tensor, "rows vocab"], draws: Float[Tensor, "rows tries"], top_p: float
) -> Int[Tensor, "rows"]:
    """Choose one token a row from its nucleus: tokens with less than `top_p` of the mass above them.

    (Holtzman et al. 2020, arXiv 1904.09751; equal tokens are in or out together.) A token drawn from
    the whole distribution is kept when it lies in the nucleus, else it is drawn again: exact, and
    without sorting the vocabulary, which costs more than a small model's forward pass. The last draw
    is made inside the nucleus.
    """
    probabilities = logits.softmax(dim=-1)
    chosen = _drawn(probabilities, draws[:, 0])
    if top_p == 1:
        return chosen
    outside = (~_inside(probabilities, chosen, top_p)).nonzero()[:, 0]
    for column in range(1, draws.shape[1]):
        if not len(outside):
            return chosen
        left = probabilities[outside]
        last = column == draws.shape[1] - 1
        again = _drawn(_only_nucleus(left, top_p) if last else left, draws[outside, column])
        chosen[outside] = again
        outside = outside[~_inside(left, again, top_p)]
    return chosen


def log_likelihood(logits: Float[Tensor, "rows vocab"], chosen: Int[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    """Log-probability of the chosen tokens at temperature 1."""
    return logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(dim=-1)


def entropy(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows"]:
    """Entropy of the next token in nats, at temperature 1."""
    probabilities = logits.softmax(dim=-1)
    terms: Tensor = torch.special.xlogy(probabilities, probabilities)
    return -terms.sum(dim=-1)


def _drawn(masses: Float[Tensor, "rows vocab"], draws: Float[Tensor, "rows"]) -> Int[Tensor, "rows"]:
    # inverse transform; a draw is below 1, so that the place is before the end and its mass is not 0
    cumulative = masses.cumsum(dim=-1)
    return torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]


def _inside(
    probabilities: Float[Tensor, "rows vocab"], chosen: Int[Tensor, "rows"], top_p: float
) -> Bool[Tensor, "rows"]:
    own = probabilities.gather(1, chosen[:, None])
    # ones and zeros in the probabilities' own type: 15 times as fast as torch.where on a CPU
    above = torch.gt(probabilities, own, out=torch.empty_like(probabilities))
    return above.mul_(probabilities).sum(dim=-1) < top_p


def _only_nucleus(probabilities: Float[Tensor, "rows vocab"], top_p: float) -> Float[Tensor, "rows vocab"]:
    ordered = probabilities.sort(dim=-1, descending=True).values
    before = ordered.cumsum(dim=-1) - ordered
    smallest = torch.where(before < top_p, ordered, torch.inf).amin(dim=-1, keepdim=True)
    return torch.where(probabilities >= smallest, probabilities, 0)
