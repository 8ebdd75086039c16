"""`o1-index search`: a TREC run of query vectors."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from o1_index.commands.serve import index_options, on_servers
from o1_index.databases.database import EFFORT, FORMS, open_store
from o1_index.documents import Excluded
from o1_index.fusion import FUSES, search_from
from o1_index.sharding import ShardProcesses
from o1_index.tuning import K
from o1_index.vector_store import Searchable, open_shards
from o1_index.vectors import open_vectors, read_ids
from o1_records import Exclusion, Hit, InputError, read_jsonl, trec
from o1_records.kit.command import EVERYTHING, at_least, reads, writes


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    index_options(command)
    command.add_argument(
        "--from", dest="database", metavar="DATABASE", help=f"or a collection in a database: {FORMS}"
    )
    command.add_argument(
        "--effort",
        type=at_least(1),
        help=f"of a database: candidates that a graph search looks at; by default {EFFORT}",
    )
    search_options(command)
    command.add_argument(
        "--processes", type=at_least(1), default=1, help="processes that search, if there are several indexes"
    )
    reads(command, "--only", once=True, help="text file of the doc_ids to search, one on each line")
    command.add_argument(
        "--where", action="append", help="filter on payloads, such as 'year >= 2020'; given twice, both hold"
    )
    command.add_argument(
        "--fuse", choices=FUSES, default="max", help="how several vectors of a query are fused"
    )


def search_options(command: argparse.ArgumentParser) -> None:
    """Add the options of every command that searches."""
    reads(command, "--vectors", required=True, inside=EVERYTHING, help="folder or file of query vectors")
    reads(command, "--ids", help="text file with the query_id of each vector, if --vectors has none")
    command.add_argument("--k", type=at_least(1), default=K, help="documents per query")
    writes(command, "--out", required=True, help="TREC run to write")
    reads(command, "--excluded", once=True, help="JSONL file of Exclusion records")
    command.add_argument("--mmap", action="store_true", help="leave the vectors on disk")
    command.add_argument("--device", default="cpu", help="where to search: cpu, auto, cuda, cuda:0,1")


def run(args: argparse.Namespace) -> int:
    """Search; the run appears whole or not at all."""
    queries = open_vectors(args.vectors, args.ids)
    found: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        hits = search_from(
            _opened(args, stack),
            queries,
            k=args.k,
            fuse=args.fuse,
            excluded=exclusions(args.excluded),
            only=set(read_ids(args.only)) if args.only else None,
            where=args.where,
        )
        count = trec.write_run(args.out, _counted(hits, found))
    print(f"{args.out}: {count} hits{shortfall(found, set(queries.owners()), args.k)}", file=sys.stderr)
    return 0


def _opened(args: argparse.Namespace, stack: contextlib.ExitStack) -> Searchable:
    """Return what is searched: an index, several as one, a collection in a database, or servers."""
    if [args.index, args.database, args.servers].count(None) != 2:
        raise InputError("give --index, or --from, a collection in a database, or --servers")
    if args.timeout is not None and args.servers is None:
        raise InputError("--timeout has no effect without --servers; leave it out")
    if args.index is None and (args.mmap or args.device != "cpu" or args.processes > 1):
        where = "a database" if args.servers is None else "servers"
        raise InputError(f"--mmap, --device and --processes have no effect on {where}; leave them out")
    if args.database is not None:
        return stack.enter_context(open_store(args.database, effort=args.effort or EFFORT))
    if args.effort:
        raise InputError("--effort is for a database; the parameters of an index are measured (`tune`)")
    if args.servers is not None:
        return stack.enter_context(on_servers(args))
    if args.processes == 1:
        return open_shards(args.index, mmap=args.mmap, device=args.device)
    if args.device != "cpu" or len(args.index) == 1:
        raise InputError("--processes is for several indexes on the CPU; leave it out")
    return stack.enter_context(ShardProcesses(args.index, processes=args.processes, mmap=args.mmap))


def shortfall(found: Counter[str], queries: set[str], k: int) -> str:
    """Return how many queries got fewer than k hits, in words; nothing where all got k."""
    few = sum(found[name] < k for name in queries)
    return f"; {few} of {len(queries)} queries have fewer than {k}" if few else ""


def _counted(hits: Iterable[Hit], found: Counter[str]) -> Iterator[Hit]:
    for hit in hits:
        found[hit.query_id] += 1
        yield hit


def exclusions(path: Path | None) -> Excluded:
    """Return what a file of Exclusion records leaves out for each query; nothing without a file."""
    excluded: defaultdict[str, set[str]] = defaultdict(set)
    for line in read_jsonl(path, Exclusion) if path else ():
        excluded[line.query_id].add(line.doc_id)
    return dict(excluded)
