"""The `o1-index` command: build an index of vectors and search it."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

import o1_index
from o1_index import store
from o1_index.faiss_index import build_from, fingerprint, open_index
from o1_index.fusion import search_max, search_mean
from o1_index.hits import Excluded, Hits
from o1_index.settings import METRICS
from o1_records import Exclusion, Hit, InputError, read_jsonl, run_command, trec
from o1_records.vectors import VectorSet

FUSIONS: dict[str, Callable[..., Hits]] = {"max": search_max, "mean": search_mean}
BATCH_QUERIES = 256


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = options.run
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="o1-index", description=__doc__)
    parser.add_argument("--version", action="version", version=o1_index.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build an index of a folder of vectors")
    build.add_argument("--vectors", required=True, type=Path, help="folder of document vectors")
    build.add_argument("--out", required=True, type=Path, help="folder of the index")
    build.add_argument("--factory", default="Flat", help="FAISS's factory string (default: Flat)")
    build.add_argument("--parameters", default="", help="search parameters, as nprobe=16")
    build.add_argument("--metric", choices=METRICS, default="inner_product")
    build.add_argument("--device", default="cpu", help="where to build: cpu, auto, cuda, cuda:0,1")
    build.set_defaults(run=_build)
    search = commands.add_parser("search", help="search an index and write a TREC run")
    search.add_argument("--index", required=True, type=Path, help="folder of the index")
    search.add_argument("--vectors", required=True, type=Path, help="folder of query vectors")
    search.add_argument("--k", type=_positive, default=100, help="documents a query (100)")
    search.add_argument("--out", required=True, type=Path, help="TREC run to write")
    search.add_argument("--excluded", type=Path, help="JSONL of exclusions")
    search.add_argument("--fuse", choices=FUSIONS, default="max", help="several vectors a query")
    search.add_argument("--mmap", action="store_true", help="leave the vectors on the disk")
    search.add_argument("--device", default="cpu", help="cpu, auto, cuda, cuda:0,1")
    search.set_defaults(run=_search)
    return parser


def _build(options: argparse.Namespace) -> int:
    vectors = VectorSet(options.vectors)
    if options.out.exists():
        _refuse_another(options, vectors)
        print(f"{options.out}: up to date", file=sys.stderr)
        return 0
    index = build_from(vectors, factory=options.factory, metric=options.metric, device=options.device)
    index.set_parameters(options.parameters)
    index.save(options.out)
    print(f"{options.out}: {len(index)} vectors of {index.dim} dimensions", file=sys.stderr)
    return 0


def _refuse_another(options: argparse.Namespace, vectors: VectorSet) -> None:
    manifest = store.read_manifest(options.out)
    settings = manifest.settings
    found = (manifest.made_from, settings.factory, settings.parameters, settings.metric)
    wanted = (fingerprint(vectors), options.factory, options.parameters, options.metric)
    if found != wanted:
        raise InputError(
            f"{options.out}: holds an index of (vectors, factory, parameters, metric) {found}, this "
            f"would be {wanted}; remove it or choose another name"
        )


def _search(options: argparse.Namespace) -> int:
    if options.excluded and options.out.exists() and options.out.samefile(options.excluded):
        raise InputError(f"--out {options.out} is the file of --excluded; choose another name")
    queries = VectorSet(options.vectors)
    index = open_index(options.index, mmap=options.mmap, device=options.device)
    index.settings.refuse_other_encoder(queries.manifest.encoder)
    excluded = _excluded(options.excluded)
    fuse = FUSIONS[options.fuse]

    def hits() -> Iterator[Hit]:
        vectors, ids, owners = queries.load(), queries.ids(), queries.owners()
        for rows in tqdm(list(_batches(owners)), desc="search", unit=" batches"):
            batch = vectors[rows]
            if ids == owners:
                names = [ids[row] for row in rows]
                yield from index.search(batch, names, k=options.k, excluded=excluded)
            else:
                names = [owners[row] for row in rows]
                yield from fuse(index, batch, names, k=options.k, excluded=excluded)

    count = trec.write_run(options.out, hits())
    print(f"{options.out}: {count} hits for {len(set(queries.owners()))} queries", file=sys.stderr)
    return 0


def _batches(owners: Sequence[str]) -> Iterator[list[int]]:
    """Rows in batches; those of one owner stay together."""
    places: dict[str, list[int]] = {}
    for row, owner in enumerate(owners):
        places.setdefault(owner, []).append(row)
    groups = list(places.values())
    for start in range(0, len(groups), BATCH_QUERIES):
        yield [row for group in groups[start : start + BATCH_QUERIES] for row in group]


def _excluded(path: Path | None) -> Excluded:
    excluded: defaultdict[str, set[str]] = defaultdict(set)
    for line in read_jsonl(path, Exclusion) if path else ():
        excluded[line.query_id].add(line.doc_id)
    return dict(excluded)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
