"""One collection, and how systems run on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from o1_bench.collection import Collection
from o1_bench.evaluate import evaluate
from o1_bench.pipeline import Pipeline
from o1_bench.result import Result, System
from o1_bench.retrieve import Retrieve
from o1_bench.score import Measure
from o1_records import InputError, Thought


@dataclass(frozen=True, kw_only=True)
class Task:
    """One collection, and how systems run on it.

    Attributes:
        collection: what is asked, and of what.
        folder: each system gets a folder in here.
        measures: the first one is the main one.
        k: hits a query.
        thoughts: thoughts about the queries that are there already.
        think_ms: what writing them took, in milliseconds per query; None: not known.
        oracle: whether those thoughts look at the answer, so that results must say so.
        think: whether a checkpoint writes thoughts of its own.
        controls: whether the controls run beside what thinks.
        device: where models run.
        lexical: settings of BM25.
        query_times: how often BM25 reads the query before appended thoughts.
        encoder: settings of a sentence-transformers model.
        options: more options for the commands of o1-model, by command.
    """

    collection: Collection
    folder: Path
    measures: Sequence[Measure]
    k: int = 1000
    thoughts: Sequence[Thought] = ()
    think_ms: float | None = None
    oracle: bool = False
    think: bool = False
    controls: bool = False
    device: str = "cpu"
    lexical: Mapping[str, Any] = field(default_factory=dict)
    query_times: int = 1
    encoder: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def run(self, system: System, retrieve: Retrieve | Pipeline, *, part: int = 256) -> Result:
        """Run one system, or take what an earlier call kept."""
        return evaluate(
            self.collection, retrieve, system=system, folder=self.folder / slug(system.name), k=self.k,
            measures=self.measures, part=part, progress=True,
        )  # fmt: skip


def slug(name: str) -> str:
    """A name as the name of a folder: never a path, never hidden. Raises InputError for none."""
    found = re.sub(r"[^\w.-]+", "-", name.lower().replace("+", "and")).strip("-.")
    if not found:
        raise InputError(f"{name!r} has nothing to name a folder by; choose another name")
    return found
