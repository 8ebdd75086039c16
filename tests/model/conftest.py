"""Tiny real models, built in memory: a LLaMA and a BERT used as a decoder."""

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from o1_model import Embedder

WORDS = [
    "how",
    "do",
    "i",
    "open",
    "a",
    "zip",
    "file",
    "read",
    "write",
    "list",
    "sort",
    "keys",
    "close",
    "the",
    "of",
    "in",
    "text",
    "bytes",
    "<",
    ">",
    "emb",
    "thought",
]
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}


def _tokenizer():
    vocabulary = {word: index for index, word in enumerate([*SPECIAL.values(), *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


def _language_model(kind, vocabulary):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes, initializer_range=0.2))
    config = BertConfig(
        vocab_size=vocabulary, **sizes, is_decoder=True, initializer_range=0.2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertLMHeadModel(config)


@pytest.fixture(scope="session")
def plain_models(tmp_path_factory):
    """Folders of plain checkpoints, by kind; no control token in them yet."""
    folders = {}
    tokenizer = _tokenizer()
    for kind in ("llama", "bert"):
        folders[kind] = tmp_path_factory.mktemp(kind)
        _language_model(kind, len(tokenizer)).save_pretrained(folders[kind])
        tokenizer.save_pretrained(folders[kind])
    return folders


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
