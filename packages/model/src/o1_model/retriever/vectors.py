"""Vectors of documents that `o1-model embed` wrote, read back for the model that made them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from o1_model.retriever.embedders import EmbeddingModel, Vectors, encoder_of
from o1_model.retriever.identity import digest_of_records
from o1_records import Document, InputError, quoted
from o1_records.vectors import Encoder, VectorSet


def known_vectors(
    folder: str | Path | None, model: EmbeddingModel | None, documents: Sequence[Document]
) -> Vectors | None:
    """Return the vectors of documents [documents, dim], in their order, out of a folder; None without one.

    Raises InputError where there is no model to search them, where another model or dtype made them, where
    thoughts take part in them, or where they are not those of exactly these documents, as they are now.
    """
    if folder is None:
        return None
    if model is None:
        raise InputError("document_vectors are for dense and hybrid search; leave them out")
    place = Path(folder)
    if not (place / "manifest.json").is_file():
        raise InputError(f"{place}: no folder of vectors; give what `o1-model embed --corpus` wrote")
    vectors, here = VectorSet(place), encoder_of(model)
    made_by = refuse_other_maker(place, vectors.manifest.encoder, model.name, here)
    if not made_by.digest:
        raise InputError(f"{place}: made by a model that was never saved, which any may be; save it first")
    if made_by.dtype != here.dtype:
        raise InputError(
            f"{place}: made in {made_by.dtype}, and the model here computes in {here.dtype}; choose the "
            "dtype of the vectors, or embed the corpus in this one"
        )
    if made_by.thoughts:
        raise InputError(f"{place}: thoughts take part in these vectors; embed the corpus without --thoughts")
    by_id = {document.doc_id: document for document in documents}
    ids = vectors.ids()
    for where, others in (("corpus", by_id.keys() - set(ids)), ("folder", set(ids) - by_id.keys())):
        if others:
            raise InputError(
                f"{place}: not the vectors of this corpus: only the {where} has {len(others):,} document(s), "
                f"the first {quoted(min(others))}; embed this corpus"
            )
    if digest_of_records(by_id[doc_id] for doc_id in ids)[0] != vectors.manifest.source:
        raise InputError(
            f"{place}: some documents have another text now, or `o1-model embed` did not write these "
            "vectors; embed the corpus into another folder"
        )
    rows = {doc_id: row for row, doc_id in enumerate(ids)}
    found: Vectors = vectors.load().astype(np.float32, copy=False)
    return found[[rows[document.doc_id] for document in documents]]


def refuse_other_maker(
    place: Path, made_by: Encoder | None, model: str, encoder: Encoder, corpus: str | Path = "CORPUS"
) -> Encoder:
    """Return what made the vectors there; raise InputError unless it is this encoder, of documents."""
    if made_by is None:
        raise InputError(
            f"{place}: does not say which model made its vectors, so that they cannot be searched "
            f"with {model}; embed the corpus with `o1-model embed --model {model} --corpus {corpus}`"
        )
    if made_by.role == "query":
        raise InputError(f"{place}: holds vectors of queries; give those of the documents")
    if not made_by.same_space(encoder):
        raise InputError(
            f"{place}: its vectors were made by {_named(made_by)}, but the model here is "
            f"{_named(encoder)}; embed the corpus with it as it is set now, or use the one that did"
        )
    return made_by


def _named(encoder: Encoder) -> str:
    digest = f"digest {encoder.digest[:16]}" if encoder.digest else "never saved"
    known = filter(None, (digest, encoder.layout, encoder.pooling, encoder.dtype))
    return f"{encoder.model} ({', '.join(known)})"
