"""What a path on the command line stands for: a collection, judgements, a result, the values of a measure."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

from o1_bench.collection import Collection
from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.manifest import NAME
from o1_bench.datasets.stdlib import load_stdlib
from o1_bench.result import load_result
from o1_bench.score import DEFAULT, Measure, by_query, score
from o1_bench.suites import expand, load, measures, named
from o1_bench.systems import Task, slug
from o1_records import InputError, Metric, Qrel, Thought, quoted, read_jsonl
from o1_records.trec import read_qrels, read_run


def load_collection(folder: Path, split: str, excluded: Mapping[str, Set[str]] | None = None) -> Collection:
    """Load a split of a BEIR folder or of a built one, or `ROOT/NAME`: a collection that has a name.

    Such a name (`data/bright/biology`, see `o1_bench.suites`) brings its split, exclusions and
    instruction. Raises InputError for anything else.
    """
    if (folder / NAME).is_file():
        loaded = load_stdlib(folder, split)
    elif (known := named(folder)) and not (folder / "qrels").is_dir():
        if split != "test":
            raise InputError(f"{folder}: {known[0]} has a split of its own; leave out {quoted(split)}")
        loaded = load(*known)
    elif folder.is_dir():
        loaded = load_beir(folder, split)
    else:
        raise InputError(f"{folder}: not a folder; a collection is a BEIR folder, or ROOT/bright/biology")
    return dataclasses.replace(loaded, excluded=excluded) if excluded else loaded


def load_qrels(path: Path, split: str) -> list[Qrel]:
    """Load the judgements of a BEIR folder's split or of a TREC file."""
    if path.is_dir():
        return list(load_beir(path, split).qrels)
    return list(read_qrels(path))


def load_values(path: Path, measure: Measure, *, qrels: Path | None, split: str) -> dict[str, float]:
    """Load the value of the measure for each query, from a result, a file of metrics or a run.

    Raises InputError when a run comes without `qrels`, and when there is no such measure.
    """
    known: Mapping[str, dict[str, float]]
    if is_result(path):
        known = load_result(path).per_query
    elif path.suffix == ".jsonl":
        known = by_query(read_jsonl(path, Metric))
    elif qrels:
        known = by_query(score(load_qrels(qrels, split), read_run(path), measures=[measure]))
    else:
        raise InputError(f"{path}: a run needs --qrels; or give metrics (.jsonl) or a result")
    if str(measure) not in known:
        raise InputError(f"{path}: has no {measure}; it has {', '.join(known) or 'nothing'}")
    return known[str(measure)]


def is_result(path: Path) -> bool:
    """Whether a path can only be a result: a folder or its `result.json`."""
    return path.is_dir() or path.suffix == ".json"


def result_files(path: Path) -> list[Path]:
    """The results in a folder, and in the folders in it, by name; a result itself is the only one.

    Raises InputError for a folder without any.
    """
    if not path.is_dir() or (path / "result.json").is_file():
        return [path]
    found = sorted([*path.glob("*/result.json"), *path.glob("*/*/result.json")])
    if not found:
        raise InputError(f"{path}: neither it nor a folder in it has a result.json")
    return found


def tasks(args: argparse.Namespace) -> Iterator[Task]:
    """What `o1-bench run` runs on: each collection with its protocol, loaded when its turn comes.

    Raises InputError for unknown names before anything is loaded.
    """
    for collection, protocol in _collections(args):
        yield Task(
            collection=collection,
            folder=args.out / slug(collection.name),
            measures=args.measures or protocol,
            k=args.k,
            thoughts=load_thoughts(args.thoughts, collection.name) if args.thoughts else (),
            think_ms=args.think_ms,
            oracle=args.oracle,
            think=args.think,
            controls=args.controls,
            device=args.device,
            lexical={"k1": args.k1, "b": args.b, "split_identifiers": args.split_identifiers},
            query_times=args.query_times,
            encoder={
                "batch": args.batch,
                "max_length": args.max_length,
                "query_prompt": args.query_prompt,
                "document_prompt": args.document_prompt,
            },
            options={"think": args.think_options, "embed": args.embed_options},
        )


def _collections(args: argparse.Namespace) -> Iterator[tuple[Collection, Sequence[Measure]]]:
    if args.collection:
        known = named(args.collection)
        yield load_collection(args.collection, args.split), measures(known[0]) if known else DEFAULT
        return
    names = expand(args.suite)
    if args.thoughts and len(names) > 1 and not args.thoughts.is_dir():
        raise InputError(f"{args.thoughts}: {len(names)} collections need a folder with a file for each")
    for name in names:
        yield load(name, args.data), measures(name)


def load_thoughts(path: Path, collection: str) -> list[Thought]:
    """The thoughts of a file, or of a folder's file for a collection."""
    return list(read_jsonl(path / f"{slug(collection)}.jsonl" if path.is_dir() else path, Thought))
