"""The files that the command reads and writes: none of them is two things at once."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from o1_records import InputError


def files_of(path: str | Path, inside: Iterable[str]) -> list[Path]:
    """The file itself; of a folder, the files that are read `inside`."""
    path = Path(path)
    return [path / name for name in inside] if path.is_dir() else [path]


def files_of_options(args: argparse.Namespace, *names: str) -> dict[str, list[Path]]:
    """The files that each of these options reads, if it was given; of a BEIR folder those inside."""
    qrels = f"qrels/{args.split}.tsv"
    inside = {"queries": ["queries.jsonl", qrels], "corpus": ["corpus.jsonl"], "qrels": [qrels]}
    given = {name: place for name in names if (place := getattr(args, name))}
    return {name: files_of(place, inside.get(name, ())) for name, place in given.items()}


def refuse_one_file_twice(inputs: Mapping[str, Sequence[Path]], outputs: Mapping[str, Path | None]) -> None:
    """Raise InputError for an output that is a folder, an input or another output, naming the options.

    Both are keyed by the name of their option. Two paths of one file count as one, also through
    symbolic links.
    """
    taken = {file.resolve(): name for name, files in inputs.items() for file in files}
    for name, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"--{name} {path} is a folder; name a file")
        other = taken.setdefault(path.resolve(), name)
        if other != name:
            raise InputError(
                f"--{name} {path} is the same file as that of --{other}; give each a file of its own"
            )
