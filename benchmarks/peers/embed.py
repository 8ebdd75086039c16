"""Embedding passages with all-MiniLM-L6-v2: ours against sentence-transformers on torch, ONNX and OpenVINO.

All read the same folder, with its own length of 256 tokens, and sort by length. A job compares sides of one
precision; bfloat16, where the processor has instructions for it, is compared with ours in float32 as well.
ONNX Runtime has no bfloat16 on CPUs. O1_OPENVINO_PYTHON and O1_ONNX_PYTHON name the Python of environments
with sentence-transformers and optimum-intel, or optimum-onnx, which ask for an older transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    Arrays,
    Job,
    Side,
    Size,
    Work,
    main,
    minilm,
    passages,
    refuse_other_directions,
)

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
JOBS = (JOB, HALF)

if __name__ == "__main__":
    main(*JOBS)
