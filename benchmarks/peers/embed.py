"""Embedding passages with all-MiniLM-L6-v2: ours against sentence-transformers on torch, ONNX and OpenVINO.

All read the same folder, with its own length of 256 tokens, and sort by length. A job compares sides of one
precision; bfloat16, where the processor has instructions for it, is compared with ours in float32 as well.
ONNX Runtime has no bfloat16 on CPUs. Its int8 (weights and activations, quantised on the way) stands in a
job of its own beside ours in bfloat16, with what either costs of nDCG@10: documents of SciFact with its test
queries where $O1_DATA has them, else passages that their own first words have to find. O1_OPENVINO_PYTHON
and O1_ONNX_PYTHON name the Python of environments with sentence-transformers and optimum-intel, or
optimum-onnx, which ask for an older transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    Arrays,
    Disagreement,
    Job,
    Side,
    Size,
    Work,
    main,
    minilm,
    passages,
    refuse_other_directions,
)

MOST_LOST = 0.02
"""The most that nDCG@10 may be below that of float32."""
LEAST = {"float32": 0.99999, "bfloat16": 0.999}
"""The least cosine with ours in float32, by precision."""
HINTS = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names for precisions."""


def prepare(folder: Path, size: Size) -> None:
    (folder / "texts.json").write_text(json.dumps(passages(size["documents"], size["words"])))


def texts_of(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "texts.json").read_text())
    return found


def ours(dtype: str) -> Callable[[Path, Size], Work]:
    def start(folder: Path, _size: Size) -> Work:
        from o1_model import Embedder

        texts = texts_of(folder)
        model = Embedder.from_pretrained(minilm(), device="cpu", dtype=dtype)
        model.encode_document(texts[:8])
        return lambda: {"vectors": model.encode_document(texts)}

    return start


def sentence_transformers(backend: str, dtype: str = "float32") -> Callable[[Path, Size], Work]:
    def start(folder: Path, size: Size) -> Work:
        import torch
        from sentence_transformers import SentenceTransformer

        texts = texts_of(folder)
        how: dict[str, Any] = {
            "torch": {"dtype": getattr(torch, dtype)},
            "onnx": {"export": True},
            "openvino": {"export": True, "ov_config": {"INFERENCE_PRECISION_HINT": HINTS[dtype]}},
        }[backend]
        model = SentenceTransformer(minilm(), device="cpu", backend=backend, model_kwargs=how)
        model.encode(texts[:8])
        return lambda: {"vectors": model.encode(texts, batch_size=size["batch"], normalize_embeddings=True)}

    return start


def agree(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    exact = found["ours"]["vectors"]
    return {
        side: refuse_other_directions(exact, theirs["vectors"], LEAST["float32"])
        for side, theirs in found.items()
        if side != "ours"
    }


def agree_in_bfloat16(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    exact = found["ours, float32"]["vectors"]
    told = {"ours, float32": "what the others are compared with"}
    for side, each in found.items():
        if side not in told:
            vectors = each["vectors"].astype(np.float32)
            told[side] = f"{refuse_other_directions(exact, vectors, LEAST['bfloat16'])} to float32"
    return told


# --- int8, and what it costs ----------------------------------------------------------------------------


def prepare_judged(folder: Path, size: Size) -> None:
    """Write documents, queries, and which documents are relevant to each query."""
    data = os.environ.get("O1_DATA")
    if data and (scifact := Path(data) / "scifact").exists():
        from o1_records import open_documents, open_qrels, open_queries

        relevant: dict[str, list[str]] = {}
        for judged in open_qrels(scifact, split="test"):
            if judged.relevance > 0:
                relevant.setdefault(judged.query_id, []).append(judged.doc_id)
        needed = {doc_id for own in relevant.values() for doc_id in own}
        # all relevant documents, and as many others as there is room for
        documents = sorted(open_documents(scifact), key=lambda document: document.doc_id not in needed)
        texts = {document.doc_id: document.full_text for document in documents[: size["documents"]]}
        queries = {query.query_id: query.text for query in open_queries(scifact, split="test")}
    else:
        texts = {str(n): text for n, text in enumerate(passages(size["documents"], size["words"]))}
        queries = {f"q{n}": " ".join(texts[n].split()[:6]) for n in list(texts)[::3]}
        relevant = {query_id: [query_id[1:]] for query_id in queries}
    found = {"texts": texts, "queries": queries, "relevant": relevant}
    (folder / "judged.json").write_text(json.dumps(found))


def judged_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "judged.json").read_text())
    return found


def ours_judged(dtype: str) -> Callable[[Path, Size], Work]:
    def start(folder: Path, _size: Size) -> Work:
        from o1_model import Embedder

        judged = judged_of(folder)
        model = Embedder.from_pretrained(minilm(), device="cpu", dtype=dtype)
        queries = model.encode_query(list(judged["queries"].values()))
        texts = list(judged["texts"].values())
        return lambda: partial(ranked, judged, queries, model.encode_document(texts))

    return start


def onnx_int8(folder: Path, size: Size) -> Work:
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    judged = judged_of(folder)
    whole = SentenceTransformer(minilm(), device="cpu", backend="onnx", model_kwargs={"export": True})
    whole.save_pretrained(str(folder / "int8"))
    export_dynamic_quantized_onnx_model(whole, "avx512_vnni", str(folder / "int8"))
    made = {"file_name": "onnx/model_qint8_avx512_vnni.onnx"}
    model = SentenceTransformer(str(folder / "int8"), device="cpu", backend="onnx", model_kwargs=made)
    how = {"batch_size": size["batch"], "normalize_embeddings": True}
    queries = model.encode(list(judged["queries"].values()), **how)
    texts = list(judged["texts"].values())
    return lambda: partial(ranked, judged, queries, model.encode(texts, **how))


def ranked(judged: dict[str, Any], queries: np.ndarray, vectors: np.ndarray) -> Arrays:
    """Return the vectors of the documents, what an exact search finds with them, and what is relevant."""
    queries, vectors = queries.astype(np.float32), vectors.astype(np.float32)
    best = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]
    return {
        "vectors": vectors,
        "found": np.array(list(judged["texts"]))[best],
        "relevant": np.array([" ".join(judged["relevant"][query_id]) for query_id in judged["queries"]]),
    }


def mean_ndcg(side: Arrays) -> float:
    from o1_model.ndcg import ndcg

    pairs = zip(side["found"].tolist(), side["relevant"].tolist(), strict=True)
    return float(np.mean([ndcg(found, dict.fromkeys(relevant.split(), 1)) for found, relevant in pairs]))


def agree_in_ndcg(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    exact = found["ours, float32"]
    told = {}
    for side, each in found.items():
        value = mean_ndcg(each)
        cost = value - mean_ndcg(exact)
        if cost < -MOST_LOST:
            raise Disagreement(f"{side}: nDCG@10 is {value:.4f}, {-cost:.4f} below float32")
        cosines = (each["vectors"] * exact["vectors"]).sum(axis=1)
        told[side] = f"nDCG@10 {value:.4f}, {cost:+.4f}; lowest cosine {cosines.min():.4f} to float32"
    return told


NEEDS = ["sentence-transformers", "transformers", "torch"]
OURS = ["o1-model", "torch"]
OPENVINO, ONNX = ["openvino", "optimum-intel", *NEEDS], ["onnxruntime", "optimum-onnx", *NEEDS]
ABOUT: dict[str, Any] = {
    "file": __file__,
    "what": "{documents} passages of some {words} words, MiniLM",
    "unit": "documents",
    "items": lambda size: size["documents"],
    "prepare": prepare,
    "smoke": {"documents": 8, "words": 20, "batch": 8},
    "goal": 1.2,
}
JOB = Job(
    name="embed",
    sides={
        "ours": Side(ours("float32"), OURS, "float32"),
        "sentence-transformers": Side(sentence_transformers("torch"), NEEDS, "float32"),
        "sentence-transformers, OpenVINO": Side(
            sentence_transformers("openvino"), OPENVINO, "float32", "O1_OPENVINO_PYTHON"
        ),
        "sentence-transformers, ONNX": Side(sentence_transformers("onnx"), ONNX, "float32", "O1_ONNX_PYTHON"),
    },
    agree=agree,
    full={"documents": 160, "words": 90, "batch": 32},
    **ABOUT,
)
HALF = Job(
    name="embed, bfloat16",
    sides={
        "ours": Side(ours("bfloat16"), OURS, "bfloat16"),
        "ours, float32": Side(ours("float32"), OURS, "float32"),
        "sentence-transformers": Side(sentence_transformers("torch", "bfloat16"), NEEDS, "bfloat16"),
        "sentence-transformers, OpenVINO": Side(
            sentence_transformers("openvino", "bfloat16"), OPENVINO, "bfloat16", "O1_OPENVINO_PYTHON"
        ),
    },
    agree=agree_in_bfloat16,
    full={"documents": 1024, "words": 90, "batch": 32},
    repeats=3,
    needs="avx512_bf16",
    **ABOUT,
)
INT8 = Job(
    name="embed, int8",
    sides={
        "ours": Side(ours_judged("bfloat16"), OURS, "bfloat16"),
        "ours, float32": Side(ours_judged("float32"), OURS, "float32"),
        "sentence-transformers, ONNX": Side(onnx_int8, ONNX, "int8", "O1_ONNX_PYTHON"),
    },
    agree=agree_in_ndcg,
    full={"documents": 1024, "words": 90, "batch": 32},
    needs="avx512_vnni",
    **ABOUT | {"what": "{documents} judged documents, MiniLM", "prepare": prepare_judged},
)
JOBS = (JOB, HALF, INT8)

if __name__ == "__main__":
    main(*JOBS)
