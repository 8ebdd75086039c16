"""The files of a training: examples of several data sets, with names, weights and most examples.

A file holds Example records, or FlagEmbedding's or Tevatron's rows, told by the fields of its first line.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from o1_model.training.arguments import DataArguments, named_file
from o1_records import Example, InputError, quoted, read_jsonl
from o1_records.files import is_folder, plain_name
from o1_records.flagembedding import Extra
from o1_records.flagembedding import read as read_flagembedding
from o1_records.lines import checked_lines
from o1_records.tevatron import read as read_tevatron

_SUFFIXES = (".jsonl", ".json")
# fields of foreign rows that say nothing about training
_PASSED_OVER = ("id", "all_thought")


@dataclass(frozen=True)
class ExampleFile:
    """A file of examples, in its order, and what is said about it; `path` None is a list given in Python."""

    dataset: str
    path: str | None
    examples: Sequence[Example]
    said: Sequence[str] = ()


def read_files(data: DataArguments) -> list[ExampleFile]:
    """Read the files of `data.train_data`.

    Of several files, and of one with a name, examples without a `dataset` get the file's: the name given,
    else that of the file without its suffix. Raises InputError with file and line.
    """
    named = list(_named_files(data.train_data))
    names = Counter(name for name, _, _ in named)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise InputError(f"train_data: two files are called {quoted(twice)}; name one of them, NAME=FILE")
    files = []
    for name, path, is_given in named:
        examples, said = _read(path)
        if is_given or len(named) > 1:
            examples = [e if e.dataset else msgspec.structs.replace(e, dataset=name) for e in examples]
        files.append(ExampleFile(name, str(path), examples, said))
    return files


def chosen_examples(files: Sequence[ExampleFile], data: DataArguments, *, seed: int) -> list[Example]:
    """Return the examples to train on: of each dataset at most `max_examples`, drawn by seed, in their order.

    Raises InputError for a name in `max_examples` or `data_weights` that no example has.
    """
    examples = [example for file in files for example in file.examples]
    datasets = Counter(example.dataset for example in examples)
    for flag, values in (("max_examples", data.most_examples), ("data_weights", data.weights)):
        unknown = next((name for name in values if name and name not in datasets), None)
        if unknown is not None:
            known = ", ".join(sorted(quoted(name) for name in datasets))
            raise InputError(f"{flag}: no example is of the dataset {quoted(unknown)}; there are {known}")
    kept: set[int] = set()
    for name in datasets:
        own = [number for number, example in enumerate(examples) if example.dataset == name]
        most = data.most_examples.get(name, data.most_examples.get("", len(own)))
        draw = random.Random(f"{seed}\0{name}")
        kept.update(own if most >= len(own) else draw.sample(own, most))
    return [example for number, example in enumerate(examples) if number in kept]


def _named_files(values: Iterable[str]) -> Iterator[tuple[str, Path, bool]]:
    for name, path in map(named_file, values):
        if name or not is_folder(path):
            yield name or _stem(path), path, bool(name)
            continue
        inside = sorted(p for p in path.iterdir() if plain_name(p).endswith(_SUFFIXES))
        if not inside:
            raise InputError(f"{path}: the folder has no .jsonl file; name the files to train on")
        yield from ((_stem(p), p, False) for p in inside)


def _stem(path: Path) -> str:
    return Path(plain_name(path)).stem


def _read(path: Path) -> tuple[list[Example], list[str]]:
    try:
        return list(read_jsonl(path, Example)), []
    except InputError:
        fields = _fields_of_first_line(path)
        left: Counter[str] = Counter()
        if "pos" in fields:

            def count(extra: Extra) -> None:
                left.update(name for name in extra.fields if name not in _PASSED_OVER)

            return list(read_flagembedding(path, extra=count)), list(_told(path, "FlagEmbedding", left))
        if "positive_passages" in fields:
            return list(read_tevatron(path, unread=left)), list(_told(path, "Tevatron", left))
        raise


def _told(path: Path, kind: str, left: Counter[str]) -> Iterator[str]:
    yield f"{path}: rows of {kind}"
    if left:
        counts = ", ".join(f"{name} ({count:,})" for name, count in sorted(left.items()))
        yield f"{path}: fields of its rows that are not read, and in how many rows: {counts}"


def _fields_of_first_line(path: Path) -> frozenset[str]:
    """Return the names of a file's fields; none for what is no file (a pipe is read only once) or no JSON."""
    if not path.is_file():
        return frozenset()

    def fields(line: bytes, _: str) -> frozenset[str]:
        try:
            return frozenset(msgspec.json.decode(line, type=dict[str, msgspec.Raw]))
        except (msgspec.MsgspecError, UnicodeError):
            return frozenset()

    return next(iter(checked_lines(path, fields)), frozenset())
