"""BEIR folders on disk: `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from o1_bench.collection import Collection
from o1_records import Document, InputError, quoted
from o1_records.beir import read_corpus, read_qrels, read_queries


def load_beir(
    folder: str | Path,
    split: str = "test",
    *,
    name: str = "",
    instruction: str = "",
    revision: str = "",
) -> Collection:
    """Load one split of a BEIR folder; of the queries, those that the split judges.

    The corpus stays on disk and is read again at every pass. The name is the folder's and the
    split's unless one is given. Raises InputError for a file that is missing or wrong.
    """
    folder = Path(folder)
    _refuse_missing(folder, split)
    qrels = tuple(read_qrels(folder, split))
    judged = {qrel.query_id for qrel in qrels}
    return Collection(
        name=name or f"{folder.resolve().name}/{split}",
        documents=BeirCorpus(folder),
        queries=tuple(query for query in read_queries(folder) if query.query_id in judged),
        qrels=qrels,
        instruction=instruction,
        revision=revision,
    )


@dataclass(frozen=True)
class BeirCorpus:
    """The documents of a BEIR folder, read from the disk whenever they are iterated."""

    folder: Path

    def __iter__(self) -> Iterator[Document]:
        return read_corpus(self.folder)


def _refuse_missing(folder: Path, split: str) -> None:
    # a split is a name, never a way out of the folder
    known = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if split not in known:
        raise InputError(f"{folder}: no split {quoted(split)} in qrels/; it has {', '.join(known) or 'none'}")
    for file in ("corpus.jsonl", "queries.jsonl"):
        if not (folder / file).is_file():
            raise InputError(f"{folder}: {file} is missing; is this a BEIR folder?")
