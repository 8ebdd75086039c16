"""Any sentence-transformers model as a retriever over one collection. Needs the `[st]` extra.

With thoughts it is the comparison that a thinking model has to beat at equal cost: the thought
appended to the query (Query2doc, Wang et al. 2023) or embedded as documents are (HyDE, Gao et al. 2023).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from o1_bench.build_time import Stopwatch
from o1_bench.collection import Collection
from o1_bench.exact import ExactSearch
from o1_bench.pipeline import Vectors
from o1_records import Document, InputError, MissingExtraError, Query, quoted, sha256_file

_SHARD = 2048  # documents that a crash can lose
_FINGERPRINTED = (".safetensors", ".json", ".txt", ".model")


class SentenceEncoder:
    """A sentence-transformers model by its folder or hub id; safetensors only, no remote code.

    Args:
        model: folder or hub id.
        device: where it runs.
        batch: texts at a time.
        max_length: tokens a text; the model's own limit by default.
        query_prompt: stands before every query; `{instruction}` in it becomes the task. The
            model's own prompt by default.
        document_prompt: stands before every document; the model's own by default.

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
        self.model, self.device, self._batch = model, device, batch
        self._loaded = _load(model, device)
        if max_length is not None:
            self._loaded.max_seq_length = max_length
        own = dict(self._loaded.prompts or {})
        self._query_prompt, self._document_prompt = query_prompt, document_prompt
        self.prompts = {
            "query": query_prompt if query_prompt is not None else own.get("query", ""),
            "document": document_prompt if document_prompt is not None else own.get("document", ""),
        }

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What makes the vectors: the model's name, the digest of its files, length, normalisation."""
        return {
            "model": self.model,
            "digest": _digest(_folder(self.model)),
            "max_length": self._loaded.max_seq_length,
            "similarity": str(self._loaded.similarity_fn_name),
        }

    def queries(self, texts: Sequence[str], instructions: Sequence[str]) -> Vectors:
        """Vectors of queries [texts, dim], each with the instruction of its task."""
        if self._query_prompt is None:
            return self._encode(self._loaded.encode_query, texts)
        pairs = zip(texts, instructions, strict=True)
        prompted = [self._query_prompt.replace("{instruction}", task) + text for text, task in pairs]
        return self._encode(self._loaded.encode_query, prompted, prompt="")

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of documents [texts, dim]."""
        changed = {} if self._document_prompt is None else {"prompt": self._document_prompt}
        return self._encode(self._loaded.encode_document, texts, **changed)

    def _encode(self, encode: Any, texts: Sequence[str], **changed: str) -> Vectors:
        normalize = self._loaded.similarity_fn_name != "dot"
        vectors = encode(
            list(texts),
            batch_size=self._batch,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=normalize,
            **changed,
        )
        return np.asarray(vectors, dtype=np.float32)


class EncodedCollection:
    """A collection whose documents an encoder has embedded, and the stages to search it with.

    The document vectors are kept in `folder`, shard by shard: a rerun continues, and another
    model, prompt or corpus is refused. `seconds` is what embedding took, all shards together.
    """

    def __init__(
        self, encoder: SentenceEncoder, collection: Collection, folder: Path, *, progress: bool = False
    ) -> None:
        from o1_records.vectors import Encoder, VectorSet, VectorWriter, refuse_other_origin

        self.encoder, self._collection = encoder, collection
        made_by = Encoder(
            model=encoder.model,
            digest=f"{encoder.fingerprint['digest']} {quoted(encoder.prompts['document'])}",
            layout="sentence-transformers",
            pooling=encoder.fingerprint["similarity"],
            max_length=encoder.fingerprint["max_length"] or 0,
            role="document",
        )
        source = f"sha256:{collection.digests['documents']}"
        watch = Stopwatch(folder.with_suffix(".seconds"))
        if not folder.exists():
            writer = VectorWriter(folder, encoder=made_by, source=source)
            _write(writer, encoder, collection, watch, progress)
        vectors = VectorSet(folder)
        refuse_other_origin(vectors, made_by, source)
        self.seconds = watch.seconds
        self.search = ExactSearch(vectors.load(), vectors.ids(), excluded=collection.excluded)

    def appended(self, queries: Sequence[Query], *, thoughts: Sequence[Sequence[str]] | None) -> Vectors:
        """Vectors of the queries, each with its thoughts on lines of their own (Query2doc)."""
        own = thoughts or [()] * len(queries)
        texts = [
            "\n".join([query.text, *filter(None, each)]) for query, each in zip(queries, own, strict=True)
        ]
        return self.encoder.queries(texts, self._instructions(queries))

    def hyde(self, queries: Sequence[Query], *, thoughts: Sequence[Sequence[str]] | None) -> Vectors:
        """The mean of a query's vector and those of its thoughts, embedded as documents (HyDE)."""
        vectors = self.encoder.queries([query.text for query in queries], self._instructions(queries))
        for row, own in enumerate(thoughts or ()):
            if written := [text for text in own if text]:
                every = np.concatenate([vectors[row : row + 1], self.encoder.documents(written)])
                mean = every.mean(axis=0)
                vectors[row] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return vectors

    def _instructions(self, queries: Sequence[Query]) -> list[str]:
        return [query.instruction or self._collection.instruction for query in queries]


def _write(
    writer: Any, encoder: SentenceEncoder, collection: Collection, watch: Stopwatch, progress: bool
) -> None:
    from tqdm import tqdm

    kept = set(writer.ids)
    missing = (document for document in collection.documents if document.doc_id not in kept)
    with tqdm(
        total=len(collection), initial=len(kept), desc="documents", disable=None if progress else True
    ) as bar:
        while shard := list(islice(missing, _SHARD)):
            with watch.running():
                writer.write([d.doc_id for d in shard], encoder.documents(_texts(shard)))
            bar.update(len(shard))
    writer.close()


def _texts(documents: Iterable[Document]) -> list[str]:
    return [document.full_text for document in documents]


def _load(model: str, device: str) -> Any:
    try:
        import safetensors
        import sentence_transformers
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-bench", "st", "A sentence-transformers model") from error
    try:
        return sentence_transformers.SentenceTransformer(
            model, device=device, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{quoted(model)} cannot be loaded as a sentence-transformers model: {first_line}"
        ) from error


def _folder(model: str) -> Path:
    """Where the files of a loaded model lie."""
    if Path(model).is_dir():
        return Path(model)
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(model, "config.json")
    if not isinstance(cached, str):
        raise InputError(f"{quoted(model)}: its files are not in the hub's cache; give its folder")
    return Path(cached).parent


def _digest(folder: Path) -> str:
    """The sha256 of the names and contents of a model's files."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _FINGERPRINTED)
    lines = [f"{path.relative_to(folder).as_posix()} {sha256_file(path)}" for path in files]
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()
