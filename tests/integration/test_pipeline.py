"""All six packages through their commands, on a small collection and a tiny model."""

import importlib
import json

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from o1_bench import load_result
from o1_records import Document, Example, Qrel, Query, Source, Thought, read_jsonl, write_jsonl
from o1_records.beir import write_beir
from o1_records.trec import read_run

TOPICS = {
    "zip": ("open a zip archive", "Reads members of the archive. Compression may be chosen."),
    "sort": ("sort a list by key", "The key function is called once for each item. Order is stable."),
    "json": ("write an object as json", "Encodes dictionaries and lists. Indentation is optional."),
    "time": ("parse a date from text", "The format names the fields. Time zones are optional."),
    "copy": ("copy a whole directory", "Symbolic links are followed. Permissions are kept."),
    "hash": ("digest of some bytes", "Algorithms are named by string. Updating is incremental."),
}


def _call(module, *arguments):
    """Run a command in this process: starting Python with torch takes seconds, a dozen times here."""
    main = importlib.import_module(f"{module}.__main__").main
    return main([str(argument) for argument in arguments])


def _run(module, *arguments):
    assert _call(module, *arguments) == 0


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection")
    documents = [
        Document(doc_id=name, text=f"def {name}(x): return {question.replace(' ', '_')}(x)  # {name}")
        for name, (question, _) in TOPICS.items()
    ]
    queries = [Query(query_id=f"q-{name}", text=question) for name, (question, _) in TOPICS.items()]
    qrels = [Qrel(query_id=f"q-{name}", doc_id=name, relevance=1) for name in TOPICS]
    write_beir(folder, documents=documents, queries=queries, qrels={"test": qrels})
    thoughts = [
        Thought(query_id=f"q-{name}", thought_id="docstring", text=rest, source=Source(model="people"))
        for name, (_, rest) in TOPICS.items()
    ]
    write_jsonl(folder / "thoughts.jsonl", thoughts)
    return folder


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    text = " ".join(f"{name} {question} {rest}" for name, (question, rest) in TOPICS.items())
    words = sorted(
        {*text.lower().replace(".", " ").split(), *["def", "x", "return", "(", ")", ":", "#", "_", "."]}
    )
    backend = Tokenizer(models.WordLevel({w: n for n, w in enumerate([*special, *words])}, "[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    names = dict(zip(["pad_token", "unk_token", "bos_token", "eos_token"], special, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_the_commands_carry_a_collection_from_thoughts_to_scores(collection, base_model, tmp_path):
    thoughts, examples = tmp_path / "thoughts.jsonl", tmp_path / "examples.jsonl"
    _run("o1_synth", "think", "--queries", collection, "--docstrings", collection / "thoughts.jsonl",
         "--samples", 3, "--out", thoughts)  # fmt: skip
    candidates = list(read_jsonl(thoughts, Thought))
    assert {t.query_id for t in candidates} == {f"q-{name}" for name in TOPICS}
    assert len(candidates) > len(TOPICS)

    _run("o1_vote", "elect", "--thoughts", thoughts, "--queries", collection, "--corpus", collection,
         "--qrels", collection, "--split", "test", "--member", "bm25", "--no-abstain",
         "--out", examples)  # fmt: skip
    elected = list(read_jsonl(examples, Example))
    assert len(elected) == len(TOPICS)
    assert all(e.thought and e.thought.query_id == e.query.query_id for e in elected)

    _run("o1_model", "train", "--model_name_or_path", base_model, "--train_data", examples,
         "--output_dir", tmp_path / "model", "--max_steps", 40, "--per_device_train_batch_size", 6,
         "--learning_rate", 3e-3, "--use_cpu", "--report_to", "none")  # fmt: skip
    model = ["--model", tmp_path / "model"]
    _run("o1_model", "embed", *model, "--corpus", collection, "--out", tmp_path / "documents")
    asked = ["--queries", collection, "--split", "test"]
    _run("o1_model", "embed", *model, *asked, "--out", tmp_path / "plain")
    _run("o1_model", "embed", *model, *asked, "--think", "--max-tokens", 8, "--out", tmp_path / "thinking")
    _run("o1_index", "build", "--vectors", tmp_path / "documents", "--out", tmp_path / "index")

    for name in ("plain", "thinking"):
        run = tmp_path / f"{name}.trec"
        _run("o1_index", "search", "--index", tmp_path / "index", "--vectors", tmp_path / name,
             "--k", 6, "--out", run)  # fmt: skip
        assert {hit.query_id for hit in read_run(run)} == {f"q-{topic}" for topic in TOPICS}
        _run("o1_bench", "score", "--qrels", collection, "--run", run, "--result", tmp_path / f"r-{name}",
             "--name", name)  # fmt: skip
        # it was trained on these very pairs, so it must find them
        assert load_result(tmp_path / f"r-{name}").metrics["nDCG@10"] > 0.9
    _run("o1_bench", "verify", tmp_path / "r-plain")
    report = tmp_path / "report.html"
    _run("o1_bench", "report", "--results", tmp_path / "r-plain", tmp_path / "r-thinking", "--out", report)
    assert "thinking" in report.read_text()


def test_vectors_of_another_model_are_refused_by_the_index(collection, base_model, tmp_path, capsys):
    examples = tmp_path / "examples.jsonl"
    topics = {"open": "zip", "sort": "list"}
    write_jsonl(
        examples,
        [
            Example(query=Query(query_id=q, text=q), positives=(Document(doc_id=d, text=d),))
            for q, d in topics.items()
        ],
    )
    for name, steps in (("one", 1), ("two", 2)):
        _run("o1_model", "train", "--model_name_or_path", base_model, "--train_data", examples,
             "--output_dir", tmp_path / name / "model", "--max_steps", steps, "--use_cpu",
             "--report_to", "none")  # fmt: skip
        _run("o1_model", "embed", "--model", tmp_path / name / "model", "--corpus", collection,
             "--out", tmp_path / f"{name}-v")  # fmt: skip
    _run("o1_index", "build", "--vectors", tmp_path / "one-v", "--out", tmp_path / "index")
    code = _call("o1_index", "search", "--index", tmp_path / "index", "--vectors", tmp_path / "two-v",
                 "--k", "1", "--out", tmp_path / "run.trec")  # fmt: skip
    assert code == 4
    digests = [
        json.loads((tmp_path / f"{name}-v" / "manifest.json").read_text())["encoder"]["digest"][:8]
        for name in ("one", "two")
    ]
    stderr = capsys.readouterr().err
    assert digests[0] != digests[1]
    assert all(digest in stderr for digest in digests)
    assert not (tmp_path / "run.trec").exists()
