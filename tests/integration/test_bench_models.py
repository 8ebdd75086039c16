"""o1-bench runs a checkpoint of o1-model with o1-index: by callables, and by their commands."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from o1_bench import Collection, Pipeline, evaluate
from o1_bench.controls import empty_thoughts, thought_texts
from o1_bench.result import System
from o1_bench.score import DEFAULT
from o1_bench.systems import run_model
from o1_bench.task import Task
from o1_bench.verify import verify_result
from o1_index import build
from o1_model import Embedder, Thinking
from o1_records import Document, Qrel, Query, Thought, read_jsonl

WORDS = [
    "open",
    "zip",
    "archive",
    "sort",
    "list",
    "parse",
    "date",
    "copy",
    "folder",
    "close",
    "socket",
    "a",
    "the",
]
THINKING = Thinking(samples=1, max_tokens=4, seed=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    vocabulary = {word: n for n, word in enumerate([*special.values(), *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain, folder = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("model") / "tiny"
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(plain)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = LlamaConfig(vocab_size=len(vocabulary), **sizes, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(plain)
    Embedder.from_backbone(plain, query_length=12, thought_length=12).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def collection():
    texts = ["open a zip archive", "sort the list", "parse a date", "copy the folder", "close a socket"]
    return Collection(
        name="tiny/test",
        documents=[Document(doc_id=f"d{n}", text=text) for n, text in enumerate(texts)],
        queries=[Query(query_id=f"q{n}", text=text.split()[-1]) for n, text in enumerate(texts)],
        qrels=[Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(len(texts))],
    )


def test_callables_and_commands_come_to_the_same_figures(checkpoint, collection, tmp_path):
    model = Embedder.from_pretrained(checkpoint, device="cpu")
    documents = list(collection.documents)
    index = build(model.encode_document([d.full_text for d in documents]), [d.doc_id for d in documents])
    plain = Pipeline(embed=model.encode_query, search=index.search)
    thinking = Pipeline(
        think=lambda queries: model.think(queries, THINKING), embed=model.encode_query, search=index.search
    )
    ours = {
        "tiny": evaluate(collection, plain, system=System(name="plain")),
        "tiny, thinking": evaluate(
            collection, thinking, system=System(name="thinking"), folder=tmp_path / "t"
        ),
    }
    times = ours["tiny, thinking"].system.milliseconds
    assert min(times.think, times.embed, times.search) > 0
    empty = empty_thoughts(thought_texts(read_jsonl(tmp_path / "t" / "thoughts.jsonl", Thought)))
    control = Pipeline(thoughts=empty, embed=model.encode_query, search=index.search)
    assert evaluate(collection, control).metrics.keys() == ours["tiny"].metrics.keys()

    options = {"think": ["--samples", "1", "--max-tokens", "4", "--seed", "0"]}
    task = Task(
        collection=collection, folder=tmp_path / "commands", measures=DEFAULT, think=True, options=options
    )
    for result in run_model(str(checkpoint), task):
        assert result.per_query == ours[result.name].per_query
        assert result.system.index_bytes > 0
    assert verify_result(tmp_path / "commands" / "tiny-thinking") == []
