"""A checkpoint of o1-model, searched with o1-index, both driven by their commands.

The packages import no sibling and need not be in one environment; files go between them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from o1_bench.build_time import Stopwatch
from o1_bench.collection import Collection
from o1_bench.pipeline import Vectors
from o1_bench.result import exclusions
from o1_records import Hit, InputError, Query, Source, Thought, read_jsonl, write_jsonl
from o1_records.trec import read_run

INSTALL = {"o1-model": "pip install o1-model", "o1-index": "pip install 'o1-index[cpu]'"}


class CheckpointSearch:
    """The stages of a checkpoint over one collection; `folder` keeps vectors, index and logs.

    `options` are more options of `o1-model` for its two commands, as
    `{"think": ["--samples", "3"], "embed": ["--with-query"]}`.

    Raises:
        InputError: a command is not installed, or fails; the message ends with its own last words.
    """

    def __init__(
        self,
        model: Path,
        collection: Collection,
        folder: Path,
        *,
        device: str = "cpu",
        options: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._model, self._folder, self._device = model, folder, device
        self._collection, self._options = collection, options or {}
        self._watch = Stopwatch(folder / "index.seconds")
        for name in INSTALL:
            program(name)

    def build(self) -> int:
        """Embed the documents and build their index, unless both are there; its size in bytes."""
        corpus, index = self._folder / "corpus.jsonl", self._folder / "index"
        if not index.exists():
            write_jsonl(corpus, self._collection.documents)
            with self._watch.running():
                self._run("o1-model", "embed", "--corpus", corpus, "--out", self._folder / "documents")
                run("o1-index", "build", "--vectors", self._folder / "documents", "--out", index)
        return sum(path.stat().st_size for path in index.rglob("*") if path.is_file())

    @property
    def seconds(self) -> float | None:
        """How long `build` took, with starting the commands; None: not known."""
        return self._watch.seconds

    def think(self, queries: Sequence[Query]) -> list[Thought]:
        """The model's own thoughts; what came out blank is left out."""
        asked, out = self._files(queries, "thoughts.jsonl")
        # exit code 3: some thoughts were blank, the others are written
        self._run("o1-model", "think", "--queries", asked, "--out", out, accept=(0, 3))
        return list(read_jsonl(out, Thought))

    def embed(self, queries: Sequence[Query], *, thoughts: Sequence[Sequence[str]] | None) -> Vectors:
        """Vectors of the queries, with their thoughts where they have some."""
        from o1_records.vectors import VectorSet

        asked, out = self._files(queries, "vectors")
        given: list[str | Path] = []
        if thoughts is not None:
            given = ["--thoughts", asked.with_name("given.jsonl")]
            write_jsonl(given[1], _records(queries, thoughts))
        self._run("o1-model", "embed", "--queries", asked, "--out", out, *given)
        vectors = VectorSet(out)
        rows = {query_id: row for row, query_id in enumerate(vectors.ids())}
        return vectors.load()[[rows[query.query_id] for query in queries]]

    def search(self, vectors: Vectors, query_ids: Sequence[str], *, k: int) -> list[Hit]:
        """Hits of the index."""
        from o1_records.vectors import VectorSet, VectorWriter

        work = _fresh(self._folder / "search")
        encoder = VectorSet(self._folder / "documents").manifest.encoder
        asking = encoder and msgspec.structs.replace(encoder, role="query")
        writer = VectorWriter(work / "vectors", encoder=asking)
        writer.write(query_ids, vectors)
        writer.close()
        write_jsonl(work / "excluded.jsonl", exclusions(self._collection.excluded))
        run(
            "o1-index", "search", "--index", self._folder / "index", "--vectors", work / "vectors",
            "--excluded", work / "excluded.jsonl", "--k", k, "--out", work / "run.trec",
        )  # fmt: skip
        return list(read_run(work / "run.trec"))

    def _files(self, queries: Sequence[Query], name: str) -> tuple[Path, Path]:
        """The file of the queries and where the answer goes, both new."""
        work = _fresh(self._folder / "queries")
        write_jsonl(work / "queries.jsonl", queries)
        return work / "queries.jsonl", work / name

    def _run(self, name: str, command: str, *arguments: object, accept: Sequence[int] = (0,)) -> None:
        every = ("--model", self._model, "--device", self._device, *self._options.get(command, ()))
        run(name, command, *every, *arguments, accept=accept)


def program(name: str) -> str:
    """The path of a command, here or beside this Python. Raises InputError that says what to install."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise InputError(f"a checkpoint needs the command {name}; {INSTALL[name]}")
    return found


def run(name: str, *arguments: object, accept: Sequence[int] = (0,)) -> None:
    """Run a command to its end; its stderr is shown only when it fails."""
    command = [program(name), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode not in accept:
        words = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"{name} {arguments[0]} stopped with exit code {done.returncode}: {words}")


def _records(queries: Sequence[Query], thoughts: Sequence[Sequence[str]]) -> list[Thought]:
    return [
        Thought(query_id=query.query_id, thought_id=f"{number:04d}", text=text, source=Source(model="given"))
        for query, own in zip(queries, thoughts, strict=True)
        for number, text in enumerate(own)
        if text.strip()
    ]


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
