"""`o1-index search`: a TREC run of query vectors."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from o1_index.build import open_index
from o1_index.fusion import search_max, search_mean
from o1_index.hits import Excluded, Hits
from o1_index.index import Index
from o1_records import Exclusion, Hit, InputError, read_jsonl, trec
from o1_records.command import at_least
from o1_records.vectors import VectorSet

FUSIONS: dict[str, Callable[..., Hits]] = {"max": search_max, "mean": search_mean}
BATCH_QUERIES = 256


def declare(command: argparse.ArgumentParser) -> None:
    """What to search for, and where."""
    search_options(command)
    command.add_argument("--fuse", choices=FUSIONS, default="max", help="several vectors a query")


def search_options(command: argparse.ArgumentParser) -> None:
    """The options of every command that searches."""
    command.add_argument("--index", required=True, type=Path, help="folder of the index")
    command.add_argument("--vectors", required=True, type=Path, help="folder of query vectors")
    command.add_argument("--k", type=at_least(1), default=100, help="documents a query (100)")
    command.add_argument("--out", required=True, type=Path, help="TREC run to write")
    command.add_argument("--excluded", type=Path, help="JSONL of exclusions")
    command.add_argument("--mmap", action="store_true", help="leave the vectors on the disk")
    command.add_argument("--device", default="cpu", help="cpu, auto, cuda, cuda:0,1")


def run(args: argparse.Namespace) -> int:
    """Search, batch by batch; the run appears whole or not at all."""
    refuse_overwriting(args)
    index, queries = open_both(args)
    count = trec.write_run(args.out, dense_hits(args, index, queries, FUSIONS[args.fuse]))
    print(f"{args.out}: {count} hits", file=sys.stderr)
    return 0


def open_both(args: argparse.Namespace) -> tuple[Index, VectorSet]:
    """The index and the query vectors. Raises InputError when they do not belong together."""
    queries = VectorSet(args.vectors)
    index = open_index(args.index, mmap=args.mmap, device=args.device)
    index.settings.refuse_other_encoder(queries.manifest.encoder)
    return index, queries


def dense_hits(
    args: argparse.Namespace, index: Index, queries: VectorSet, fuse: Callable[..., Hits] = search_max
) -> Iterator[Hit]:
    """The hits of a folder of query vectors; `fuse` makes one ranking of a query's several vectors."""
    excluded = exclusions(args.excluded)
    vectors, ids, owners = queries.load(), queries.ids(), queries.owners()
    for rows in tqdm(list(_batches(owners)), desc="search", unit=" batches", disable=None):
        names = [owners[row] for row in rows]
        if ids == owners:
            yield from index.search(vectors[rows], names, k=args.k, excluded=excluded)
        else:
            yield from fuse(index, vectors[rows], names, k=args.k, excluded=excluded)


def refuse_overwriting(args: argparse.Namespace) -> None:
    """Raise InputError when the run would be written over the exclusions."""
    if args.excluded and args.out.exists() and args.out.samefile(args.excluded):
        raise InputError(f"--out {args.out} is the file of --excluded; choose another name")


def _batches(owners: Sequence[str]) -> Iterator[list[int]]:
    """Rows in batches; those of one owner stay together."""
    places: dict[str, list[int]] = {}
    for row, owner in enumerate(owners):
        places.setdefault(owner, []).append(row)
    groups = list(places.values())
    for start in range(0, len(groups), BATCH_QUERIES):
        yield [row for group in groups[start : start + BATCH_QUERIES] for row in group]


def exclusions(path: Path | None) -> Excluded:
    """Read what must not come back; nothing without a file."""
    excluded: defaultdict[str, set[str]] = defaultdict(set)
    for line in read_jsonl(path, Exclusion) if path else ():
        excluded[line.query_id].add(line.doc_id)
    return dict(excluded)
