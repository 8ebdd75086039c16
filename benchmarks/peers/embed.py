"""Embedding passages with all-MiniLM-L6-v2: ours against sentence-transformers on torch, ONNX and OpenVINO.

All read the same folder, with its own length of 256 tokens, and sort by length. bfloat16 is measured where
the processor has instructions for it. O1_OPENVINO_PYTHON and O1_ONNX_PYTHON name the Python of environments
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
    cpu_has,
    main,
    minilm,
    passages,
    refuse_other_directions,
)

LEAST = {"float32": 0.99999, "bfloat16": 0.999}
"""The least cosine with ours in float32, by precision."""


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
        how: dict[str, Any] = {"torch": {"dtype": getattr(torch, dtype)}, "onnx": {"export": True}}.get(
            backend, {"export": True, "ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
        )
        model = SentenceTransformer(minilm(), device="cpu", backend=backend, model_kwargs=how)
        model.encode(texts[:8])
        return lambda: {"vectors": model.encode(texts, batch_size=size["batch"], normalize_embeddings=True)}

    return start


def agree(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    own = found["ours"]["vectors"]
    told = {}
    for side, theirs in found.items():
        if side != "ours":
            least = LEAST[JOB.sides[side].precision]
            told[side] = refuse_other_directions(own, theirs["vectors"].astype(np.float32), least)
    return told


NEEDS = ["sentence-transformers", "transformers", "torch"]
SIDES = {
    "ours": Side(ours("float32"), ["o1-model", "torch"], "float32"),
    "sentence-transformers": Side(sentence_transformers("torch"), NEEDS, "float32"),
    "sentence-transformers, OpenVINO": Side(
        sentence_transformers("openvino"),
        ["openvino", "optimum-intel", *NEEDS],
        "float32",
        "O1_OPENVINO_PYTHON",
    ),
    "sentence-transformers, ONNX": Side(
        sentence_transformers("onnx"), ["onnxruntime", "optimum-onnx", *NEEDS], "float32", "O1_ONNX_PYTHON"
    ),
}
if cpu_has("avx512_bf16"):
    SIDES["ours, bf16"] = Side(ours("bfloat16"), ["o1-model", "torch"], "bfloat16")
    SIDES["sentence-transformers, bf16"] = Side(sentence_transformers("torch", "bfloat16"), NEEDS, "bfloat16")

JOB = Job(
    name="embed",
    file=__file__,
    what="{documents} passages of some {words} words, MiniLM",
    unit="documents",
    items=lambda size: size["documents"],
    sides=SIDES,
    prepare=prepare,
    agree=agree,
    full={"documents": 160, "words": 90, "batch": 32},
    smoke={"documents": 8, "words": 20, "batch": 8},
    goal=1.2,
)
JOBS = (JOB,)

if __name__ == "__main__":
    main(*JOBS)
