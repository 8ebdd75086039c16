"""Models that embed: the vectors of a collection's documents on disk, and sentence-transformers models.

Thoughts with a plain encoder are the comparison that a thinking model has to beat at equal cost: the thought
appended to the query (Query2doc, Wang et al. 2023) or embedded as documents are (HyDE, Gao et al. 2023).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from o1_bench.collection import Collection
from o1_bench.running.pipeline import Vectors
from o1_bench.running.retrieve import ExactSearch
from o1_records import Document, MissingExtraError, Query, quoted
from o1_records.kit.job import ChangedJobError, move_aside
from o1_records.kit.models import loading, model_digest, model_folder

if TYPE_CHECKING:
    from o1_records.vectors import Encoder

_SHARD = 2048  # documents whose vectors a crash can lose
_SECONDS = "seconds"


class EncodedCollection:
    """A collection whose documents are embedded, ready for exact search.

    The vectors are kept in `folder`, shard by shard: a rerun continues, and vectors of another model, prompt
    or corpus are refused, or with `new_job` moved aside.

    Args:
        collection: its documents are embedded.
        embed: vectors of documents [documents, dim].
        encoder: what identifies `embed`.
        folder: where the vectors are kept.
        new_job: see above.
        progress: show a bar on stderr.
    """

    def __init__(
        self,
        collection: Collection,
        embed: Callable[[Sequence[Document]], Vectors],
        encoder: Encoder,
        folder: Path,
        *,
        new_job: bool = False,
        progress: bool = False,
    ) -> None:
        from tqdm import tqdm

        from o1_records.vectors import VectorSet, VectorWriter, refuse_other_origin

        source = f"sha256:{collection.digests['documents']}"
        if folder.exists():
            try:
                refuse_other_origin(VectorSet(folder), encoder, source)
            except ChangedJobError:
                if not new_job:
                    raise
                move_aside(folder)
        if not folder.exists():
            with VectorWriter(folder, encoder=encoder, source=source, new_job=new_job) as writer:
                # in the folder of the vectors, so that it is renamed and moved with them
                watch = Stopwatch(folder.with_name(f"{folder.name}.partial") / _SECONDS)
                kept = set(writer.ids)
                missing = (document for document in collection.documents if document.doc_id not in kept)
                shown = None if progress else True
                with tqdm(total=len(collection), initial=len(kept), desc="documents", disable=shown) as bar:
                    while shard := list(islice(missing, _SHARD)):
                        with watch.running():
                            writer.write([document.doc_id for document in shard], embed(shard))
                        bar.update(len(shard))
                writer.close()
        vectors = VectorSet(folder)
        self.seconds = Stopwatch(folder / _SECONDS).seconds
        self.search = ExactSearch(vectors.load(), vectors.ids(), excluded=collection.excluded)


class Stopwatch:
    """Adds up seconds in a file, one line for each stretch of work, over several processes.

    A stretch that fails is counted; one whose process was killed is not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time one stretch of work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="ascii") as file:
                file.write(f"{time.perf_counter() - began}\n")

    @property
    def seconds(self) -> float | None:
        """All stretches together; None if none was timed or the file is damaged."""
        try:
            return sum(map(float, self.path.read_text("ascii").split()))
        except (FileNotFoundError, ValueError):
            return None


class SentenceEncoder:
    """A sentence-transformers model by its folder or hub id; safetensors only, no remote code. Needs `[st]`.

    Args:
        model: folder or hub id.
        device: where it runs.
        batch: texts at a time.
        max_length: tokens of a text that are read; the model's own limit by default.
        query_prompt: goes before every query; `{instruction}` in it is replaced by the task. The
            model's own prompt by default.
        document_prompt: goes before every document; the model's own by default.

    Raises:
        InputError: there is no such model.
        MissingExtraError: sentence-transformers is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "cpu",
        batch: int = 32,
        max_length: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> None:
        try:
            import sentence_transformers
        except ModuleNotFoundError as error:
            raise MissingExtraError("o1-bench", "st", "A sentence-transformers model") from error
        self.model, self.name, self.device, self._batch = model, Path(model).name, device, batch
        self._folder = model_folder(model)
        with loading(model, "a sentence-transformers model"):
            self._loaded: Any = sentence_transformers.SentenceTransformer(
                str(self._folder),
                device=device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        if max_length is not None:
            self._loaded.max_seq_length = max_length
        own: dict[str, Any] = dict(self._loaded.prompts or {})
        self._query_prompt, self._document_prompt = query_prompt, document_prompt
        self.prompts = {
            "query": query_prompt if query_prompt is not None else own.get("query", ""),
            "document": document_prompt if document_prompt is not None else own.get("document", ""),
        }

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the vectors: the model's name, the digest of its files, length, similarity."""
        return {
            "model": self.model,
            "digest": f"sha256:{model_digest(self._folder)}",
            "max_length": self._loaded.max_seq_length,
            "similarity": str(self._loaded.similarity_fn_name),
        }

    @property
    def encoder(self) -> Encoder:
        """The same for the vectors of documents, as their folder holds it."""
        from o1_records.vectors import Encoder

        return Encoder(
            model=self.model,
            digest=f"{self.fingerprint['digest']} {quoted(self.prompts['document'])}",
            layout="sentence-transformers",
            pooling=self.fingerprint["similarity"],
            max_length=self.fingerprint["max_length"] or 0,
            role="document",
        )

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return vectors of documents [documents, dim]."""
        return self._documents([document.full_text for document in documents])

    def queries(self, queries: Sequence[Query], thoughts: Sequence[Sequence[str]] | None = None) -> Vectors:
        """Return vectors of queries [queries, dim], each with its thoughts appended as lines (Query2doc)."""
        own = thoughts if thoughts is not None else [()] * len(queries)
        texts = [
            "\n".join([query.text, *filter(None, each)]) for query, each in zip(queries, own, strict=True)
        ]
        if self._query_prompt is None:
            return self._encode(self._loaded.encode_query, texts)
        tasks = [query.instruction for query in queries]
        prompted = [
            self._query_prompt.replace("{instruction}", task) + text
            for task, text in zip(tasks, texts, strict=True)
        ]
        return self._encode(self._loaded.encode_query, prompted, prompt="")

    def hyde(self, queries: Sequence[Query], thoughts: Sequence[Sequence[str]] | None = None) -> Vectors:
        """Return the mean of a query's vector and those of its thoughts, embedded as documents (HyDE)."""
        vectors = self.queries(queries)
        for row, own in enumerate(thoughts or ()):
            if written := [text for text in own if text]:
                every = np.concatenate([vectors[row : row + 1], self._documents(written)])
                mean = every.mean(axis=0)
                vectors[row] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return vectors

    def _documents(self, texts: Sequence[str]) -> Vectors:
        changed = {} if self._document_prompt is None else {"prompt": self._document_prompt}
        return self._encode(self._loaded.encode_document, texts, **changed)

    def _encode(self, encode: Any, texts: Sequence[str], **changed: str) -> Vectors:
        vectors = encode(
            list(texts),
            batch_size=self._batch,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=self._loaded.similarity_fn_name != "dot",
            **changed,
        )
        return np.asarray(vectors, dtype=np.float32)
