"""What a training step minimises."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """Weights of the joint loss; the papers' values are the defaults."""

    embed_weight: float = 0.8
    temperature: float = 0.02
