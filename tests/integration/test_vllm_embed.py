"""A checkpoint in a real vLLM server on the CPU: its pooling runner gives our vectors (nox -s vllm).

vLLM gets rows of token ids; its own code runs the model, takes the last token and normalises.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from helpers.tiny import byte_tokenizer, save_model
from o1_model import Embedder
from o1_model.__main__ import main
from o1_model.checkpoint.certificate import TEXTS

pytestmark = pytest.mark.vllm


def write_qwen2(folder: Path) -> None:
    """A tiny Qwen2 with a byte-level tokenizer; vLLM wants attention heads of 32 or more."""
    tokenizer = byte_tokenizer()
    sizes = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 512}
    tokens = {"tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": len(tokenizer) - 1}
    save_model(folder, "qwen2", tokenizer=tokenizer, **sizes, **tokens, initializer_range=0.1)


def save_checkpoint(plain: Path, folder: Path, *, shift: float) -> Embedder:
    import torch

    model = Embedder.from_backbone(plain, query_length=32, thought_length=32, document_length=128)
    with torch.no_grad():
        model.backbone.control_rows.mul_(shift)
    model.save_pretrained(folder)
    return model


def embeddings(address: str, **body: object) -> np.ndarray:
    request = urllib.request.Request(
        f"{address}/v1/embeddings",
        data=json.dumps({"model": "retriever", **body}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return np.array([entry["embedding"] for entry in json.load(response)["data"]])


def test_vllm_gives_the_vectors_of_the_checkpoint_and_no_others(vllm_server, tmp_path, capsys):
    write_qwen2(tmp_path / "plain")
    model = save_checkpoint(tmp_path / "plain", tmp_path / "saved", shift=3.0)
    save_checkpoint(tmp_path / "plain", tmp_path / "other", shift=-3.0)
    pooling = ("--runner", "pooling", "--convert", "embed")
    with vllm_server(tmp_path / "saved", "retriever", *pooling) as address:
        passed = main(["verify", "--model", str(tmp_path / "saved"), "--server", address])
        said = capsys.readouterr().out
        assert passed == 0, said
        assert "pass (16 vectors" in said

        # the certificate of another checkpoint notices
        assert main(["verify", "--model", str(tmp_path / "other"), "--server", address]) == 4
        assert "has cosine" in capsys.readouterr().out

        # as messages, texts go through the chat template that was saved with the checkpoint
        text = TEXTS[1]
        message = [{"role": "user", "content": text}]
        v_q = embeddings(address, messages=message)[0]
        document = embeddings(address, messages=message, chat_template_kwargs={"task": "document"})[0]
    assert float(v_q @ model.encode_query(text)) >= 0.999 * np.linalg.norm(v_q)
    assert float(document @ model.encode_document(text)) >= 0.999 * np.linalg.norm(document)
