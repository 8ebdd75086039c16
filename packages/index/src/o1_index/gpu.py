"""Copy an engine to GPUs. Needs faiss-gpu (the extra `gpu`) and an NVIDIA GPU.

Devices are "cpu", "cuda" (the first GPU), "cuda:1", "cuda:0,1" (replicated, or sharded on request) and "auto"
(the first GPU where there is one, else the CPU, with one line in the log).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from o1_index.documents import Rows
from o1_index.engine import load_faiss, refusals, search
from o1_index.hits import Scores
from o1_index.vectors import Vectors, as_numpy
from o1_records import InputError, quoted

MOST_FETCHED = 2048
"""The most hits a query that FAISS finds on a GPU; beyond it the CPU engine answers."""

_DEVICE = re.compile(r"cuda(?::(\d+(?:,\d+)*))?")
_log = logging.getLogger("o1_index")


@dataclass(frozen=True)
class Placement:
    """Where a copy goes: several GPUs hold a copy each, or with `shard` a part; `half` stores float16."""

    device: str
    shard: bool = False
    half: bool = False


@dataclass(frozen=True)
class Accelerator:
    """A copy of an engine on GPUs, with the resources that it needs and the most hits it can fetch."""

    engine: Any
    resources: tuple[Any, ...]
    placement: Placement
    most: int = MOST_FETCHED

    def search(self, vectors: Vectors, fetch: int) -> tuple[Scores, Rows]:
        """Return scores and rows [queries, fetch]; a tensor stays on its GPU."""
        return search(self.engine, self.reachable(vectors), fetch)

    def reachable(self, vectors: Vectors) -> Vectors:
        """Return a tensor as it is if only GPUs read it, else as an array in host memory."""
        # the transform of "PCA64,Flat", say, runs on the CPU
        return vectors if _only_gpus(self.engine) else as_numpy(vectors)

    def of(self, engine: Any) -> Accelerator:
        """Return this copy while it holds all of the engine, else a new one."""
        if self.engine.ntotal == engine.ntotal:
            return self
        return accelerate(engine, self.placement) or self


def accelerate(engine: Any, placement: Placement) -> Accelerator | None:
    """Return a copy of an engine on the device; None for the CPU.

    Raises InputError for an unknown device, a GPU that is not there, and a factory without a GPU version;
    with "auto" such a factory stays on the CPU, with one line in the log.
    """
    gpus = gpus_of(placement.device, count_gpus())
    if not gpus:
        return None
    faiss = load_faiss()
    try:
        if isinstance(faiss.downcast_index(engine), faiss.IndexHNSWCagra):
            raise InputError(f"device {placement.device!r}: CAGRA is built on a GPU and searched on the CPU")
        with refusals(f"device {placement.device!r}"):
            resources = tuple(faiss.StandardGpuResources() for _ in gpus)
            # cuVS is FAISS's own choice where the wheel was built with it
            options = faiss.GpuMultipleClonerOptions()
            options.useFloat16 = placement.half
            options.shard = placement.shard
            if len(gpus) == 1:
                copy = faiss.index_cpu_to_gpu(resources[0], gpus[0], engine, options)
            else:
                copy = faiss.index_cpu_to_gpu_multiple_py(resources, engine, options, gpus)
    except InputError as error:
        if placement.device != "auto":
            raise
        _log.warning("searching on the CPU: %s", error)
        return None
    return Accelerator(copy, resources, placement)


def cagra(engine: Any, vectors: Vectors, gpu: int) -> None:
    """Fill an empty `IndexHNSWCagra` with all vectors and their graph, which cuVS builds on a GPU."""
    faiss = load_faiss()
    links = engine.hnsw.nb_neighbors(0)
    config = faiss.GpuIndexCagraConfig()
    config.device, config.graph_degree, config.intermediate_graph_degree = gpu, links, 2 * links
    with refusals(f"CAGRA{links}"):
        builder = faiss.GpuIndexCagra(faiss.StandardGpuResources(), engine.d, engine.metric_type, config)
        builder.train(as_numpy(vectors))
        builder.copyTo(engine)


def refuse_no_cagra(factory: str, gpus: list[int]) -> None:
    """Raise InputError unless a graph can be built on one of these GPUs."""
    faiss = load_faiss()
    if not gpus or "CUVS" not in faiss.get_compile_options():
        raise InputError(
            f"factory {quoted(factory)} is built on an NVIDIA GPU: give the device cuda, and pip install "
            "'o1-index[cagra]' instead of faiss-cpu or faiss-gpu; or choose HNSW32, which is built on the CPU"
        )


def _only_gpus(engine: Any) -> bool:
    faiss = load_faiss()
    engine = faiss.downcast_index(engine)
    if isinstance(engine, faiss.IndexReplicas | faiss.IndexShards):
        return all(_only_gpus(engine.at(place)) for place in range(engine.count()))
    return hasattr(engine, "getDevice")


def to_cpu(engine: Any) -> Any:
    """Return a copy of a GPU engine in host memory."""
    return load_faiss().index_gpu_to_cpu(engine)


def gpus_of(device: str, count: int) -> list[int]:
    """Return the GPUs that a device names, out of `count`; none for the CPU."""
    if device == "cpu":
        return []
    if device == "auto":
        if count == 0:
            _log.warning("FAISS sees no GPU; searching on the CPU")
        return [0] if count else []
    match = _DEVICE.fullmatch(device)
    if not match:
        raise InputError(f"unknown device {quoted(device)}; give cpu, auto, cuda, cuda:0 or cuda:0,1")
    gpus = [int(number) for number in (match[1] or "0").split(",")]
    missing = [gpu for gpu in gpus if gpu >= count]
    if missing:
        raise InputError(
            f"device {quoted(device)}: FAISS sees {count} GPUs; it needs an NVIDIA GPU and "
            "pip install 'o1-index[gpu]' instead of faiss-cpu; or use the device cpu"
        )
    return gpus


def count_gpus() -> int:
    """Return how many GPUs FAISS can use; 0 if it was built without them."""
    faiss = load_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0
