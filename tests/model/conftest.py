"""Tiny real models: a LLaMA and a BERT used as a decoder."""

import os

import pytest
import torch

from helpers.tiny import save_model
from o1_model import Embedder

# with models this small more threads are slower, here and in the processes that tests start
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def plain_models(tmp_path_factory):
    """Folders of plain checkpoints, by kind; no control token in them yet."""
    return {kind: save_model(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "bert")}


@pytest.fixture(
    params=[
        "llama-token-causal",
        "llama-mean-prefix",
        "bert-token-causal",
        "bert-mean-prefix",
        "bert-mean-causal",
    ]
)
def embedder(request, plain_models):
    """A fresh embedder of every backbone and read-out."""
    kind, readout, attention = request.param.split("-")
    return Embedder.from_backbone(
        plain_models[kind], readout=readout, attention=attention, query_length=12, thought_length=12
    )


@pytest.fixture
def llama(plain_models):
    """One fresh embedder, where the backbone does not matter."""
    return Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)
