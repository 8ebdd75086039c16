"""o1-bench runs a checkpoint of o1-model: by its callables with o1-index, and by name in this process."""

from itertools import chain

import numpy as np
import pytest

from helpers.tiny import save_model, word_tokenizer
from o1_bench import Collection, Options, Pipeline, evaluate, load_result, run
from o1_bench.__main__ import main
from o1_bench.controls import empty_thoughts, thought_texts
from o1_bench.results.result import System
from o1_bench.results.verify import verify_result
from o1_bench.running.mixture import MixedVectors
from o1_index import build
from o1_model import Embedder, Thinking, ThinkingRetriever
from o1_model.bench import open_model
from o1_records import Document, Qrel, Query, Thought, read_jsonl
from o1_records.beir import write_beir
from o1_records.mixture import Mixture

TEXTS = ["open a zip archive", "sort the list", "parse a date", "copy the folder", "close a socket"]
WORDS = sorted(set(" ".join(TEXTS).split()))
DOCUMENTS = [Document(doc_id=f"d{n}", text=text) for n, text in enumerate(TEXTS)]
QUERIES = [Query(query_id=f"q{n}", text=text.split()[-1]) for n, text in enumerate(TEXTS)]
QRELS = [Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(len(TEXTS))]
THINKING = Thinking(samples=1, max_tokens=4, seed=0)
THINK_OPTIONS = ["--samples", "1", "--max-tokens", "4", "--seed", "0"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    plain = save_model(tmp_path_factory.mktemp("plain"), tokenizer=word_tokenizer(WORDS), num_hidden_layers=1)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    Embedder.from_backbone(plain, query_length=12, thought_length=12).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def collection():
    return Collection(name="tiny/test", documents=DOCUMENTS, queries=QUERIES, qrels=QRELS)


@pytest.fixture(scope="module")
def by_callables(checkpoint, collection, tmp_path_factory):
    """The results of a Pipeline of o1-model and o1-index, by the names that the command gives."""
    folder = tmp_path_factory.mktemp("callables") / "thinking"
    model = Embedder.from_pretrained(checkpoint, device="cpu")
    index = build(model.encode_document([d.full_text for d in DOCUMENTS]), [d.doc_id for d in DOCUMENTS])

    def pipeline(**changed):
        return Pipeline(embed=model.encode_query, search=index.search, **changed)

    thinking = pipeline(think=lambda queries: model.think(queries, THINKING))
    found = {"tiny": evaluate(collection, pipeline())}
    found["tiny, thinking"] = evaluate(collection, thinking, system=System(name="thinking"), folder=folder)
    empty = empty_thoughts(thought_texts(read_jsonl(folder / "thoughts.jsonl", Thought)))
    found["tiny, empty thoughts"] = evaluate(collection, pipeline(thoughts=empty))
    times = found["tiny, thinking"].system.milliseconds
    assert min(times.think, times.embed, times.search) > 0
    return found


def test_a_checkpoint_by_name_and_its_callables_come_to_the_same_figures(
    checkpoint, collection, by_callables, tmp_path
):
    options = Options(think_options=THINK_OPTIONS)
    done = run(checkpoint, tmp_path, collection=collection, think=True, controls=True, options=options)
    results = {result.name: result for result in done["tiny/test"]}
    assert list(results) == [
        "tiny", "tiny, thinking", "tiny, empty thoughts", "tiny, shuffled thoughts", "tiny, filler thoughts",
        "tiny, copy thoughts", "tiny, 0.2 own thought", "tiny, 0.2 empty own thought",
        "tiny, 0.2 shuffled own thought", "tiny, 0.2 filler own thought", "tiny, 0.2 copy own thought",
        "tiny, own thought alone",
    ]  # fmt: skip
    for name, result in by_callables.items():
        assert results[name].per_query == result.per_query
    for result in results.values():
        assert result.system.index_bytes == len(TEXTS) * 32 * 4
        assert result.system.index_seconds > 0
        assert min(result.system.milliseconds.embed, result.system.milliseconds.search) > 0
    assert results["tiny, thinking"].system.milliseconds.think > 0
    assert verify_result(tmp_path / "tiny-test" / "tiny-thinking") == []


def test_the_command_thinks_resumes_and_refuses_other_settings(checkpoint, by_callables, tmp_path, capsys):
    write_beir(tmp_path / "tiny", documents=DOCUMENTS, queries=QUERIES, qrels={"test": QRELS})
    command = ["run", "--model", str(checkpoint), "--collection", str(tmp_path / "tiny")]
    command += ["--out", str(tmp_path / "out"), "--think", "--think-options", " ".join(THINK_OPTIONS)]
    assert main(command) == 0
    made = tmp_path / "out" / "tiny-test"
    assert load_result(made / "tiny-thinking").per_query == by_callables["tiny, thinking"].per_query
    files = [path for path in made.rglob("*") if path.is_file() and path.name != "lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert main(command) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    capsys.readouterr()
    other = [*command[:-1], "--samples 2 --max-tokens 4"]
    assert main(other) == 4
    assert "--new-job" in capsys.readouterr().err
    assert main([*other, "--new-job"]) == 0
    assert (
        load_result(made / "tiny-thinking").system.sampling
        != load_result(made / "tiny-thinking.old1").system.sampling
    )


def test_options_of_another_command_are_named(checkpoint, tmp_path, capsys):
    write_beir(tmp_path / "tiny", documents=DOCUMENTS, queries=QUERIES, qrels={"test": QRELS})
    command = ["run", "--model", str(checkpoint), "--collection", str(tmp_path / "tiny"), "--think"]
    command += ["--out", str(tmp_path / "out"), "--think-options=--abacus"]
    assert main(command) == 4
    assert "--abacus" in capsys.readouterr().err


@pytest.mark.parametrize("reading", ["document", "query", "joint"])
@pytest.mark.parametrize("control", [False, True])
def test_the_mixture_that_is_measured_is_the_one_that_a_retriever_embeds(checkpoint, reading, control):
    mixture = Mixture(weight=0.3, reading=reading)
    thoughts = [[""], ["sort a list"], ["a date", "a socket"], [], ["the zip"]]
    if control:
        thoughts = [["" for _ in own] for own in thoughts]
    theirs = ThinkingRetriever(checkpoint, mixture=mixture, device="cpu")
    measured = MixedVectors(open_model(str(checkpoint)), mixture)(QUERIES, thoughts=thoughts)
    assert np.allclose(measured, theirs.encode_query(QUERIES, thoughts=thoughts), atol=1e-5)


def test_a_thinking_retriever_is_measured_in_its_own_stages(checkpoint, collection, tmp_path):
    retriever = ThinkingRetriever(checkpoint, checkpoint, thinking=THINKING, device="cpu")
    index = build(retriever.encode_document(DOCUMENTS), [document.doc_id for document in DOCUMENTS])
    pipeline = Pipeline(
        think=lambda queries: chain.from_iterable(retriever.think(queries)),
        embed=retriever.encode_query,
        search=index.search,
    )
    result = evaluate(collection, pipeline, folder=tmp_path / "r")
    assert min(getattr(result.system.milliseconds, stage) for stage in ("think", "embed", "search")) > 0
    assert result.system.thought_tokens > 0
    done = run(checkpoint, tmp_path / "out", collection=collection, think=True,
               options=Options(think_options=THINK_OPTIONS))  # fmt: skip
    row = next(each for each in done["tiny/test"] if each.name == "tiny, 0.2 own thought")
    assert row.per_query == result.per_query
