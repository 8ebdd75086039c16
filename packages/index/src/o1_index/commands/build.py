"""`o1-index build`: an index of a folder of vectors."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from o1_index import store
from o1_index.auto import choose
from o1_index.build import build_from, fingerprint
from o1_index.settings import METRICS
from o1_records import InputError
from o1_records.lock import lock
from o1_records.vectors import VectorSet


def declare(command: argparse.ArgumentParser) -> None:
    """What to build."""
    command.add_argument("--vectors", required=True, type=Path, help="folder of document vectors")
    command.add_argument("--out", required=True, type=Path, help="folder of the index")
    command.add_argument("--factory", default="Flat", help="FAISS's factory string, or auto (default: Flat)")
    command.add_argument("--parameters", default="", help="search parameters, as nprobe=16")
    command.add_argument("--recall", type=float, default=0.95, help="what auto aims at; 1 is exact")
    command.add_argument("--memory-gib", type=float, help="what auto may use (half of the machine's)")
    command.add_argument("--metric", choices=METRICS, default="inner_product")
    command.add_argument("--device", default="cpu", help="where to build: cpu, auto, cuda, cuda:0,1")


def run(args: argparse.Namespace) -> int:
    """Build; an interrupted build goes on from its last checkpoint."""
    vectors = VectorSet(args.vectors)
    if args.factory == "auto":
        memory = None if args.memory_gib is None else int(args.memory_gib * 2**30)
        choice = choose(len(vectors), vectors.manifest.dim, recall=args.recall, memory=memory)
        args.factory, parameters = choice.factory, args.parameters or choice.parameters
        print(f"auto: {choice.factory} {parameters}: {choice.reason}", file=sys.stderr)
    else:
        parameters = args.parameters
    if args.out.exists():
        _refuse_another(args, vectors)
        print(f"{args.out}: up to date", file=sys.stderr)
        return 0
    checkpoints = args.out.with_name(args.out.name + ".partial") / "checkpoint"
    with _only_builder(checkpoints):
        index = build_from(
            vectors, factory=args.factory, metric=args.metric, device=args.device, checkpoints=checkpoints
        )
        index.set_parameters(parameters)
        index.save(args.out)
    print(f"{args.out}: {len(index)} vectors of {index.dim} dimensions", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _only_builder(checkpoints: Path) -> Iterator[None]:
    """Refuse a second process, naming the first; leave nothing behind when there is no checkpoint."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    with lock(checkpoints / "lock") as file:
        try:
            yield
        finally:
            Path(file.name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # there is a checkpoint, or it was published
                checkpoints.rmdir()
                checkpoints.parent.rmdir()


def _refuse_another(args: argparse.Namespace, vectors: VectorSet) -> None:
    manifest = store.open_version(args.out).manifest
    settings = manifest.settings
    found = (manifest.made_from, settings.factory, settings.metric)
    wanted = (fingerprint(vectors), args.factory, args.metric)
    if found != wanted or (args.parameters and settings.parameters != args.parameters):
        raise InputError(
            f"{args.out}: holds an index of (vectors, factory, metric) {found} with parameters "
            f"{settings.parameters!r}, this would be {wanted} with {args.parameters!r} (vectors '': it was "
            "changed since it was built); remove it or choose another name"
        )
