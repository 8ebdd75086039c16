"""Training: the real Trainer on tiny models, its resume, and the command from end to end."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from o1_model import Embedder
from o1_model.__main__ import main
from o1_model.train import ModelArguments, train
from o1_records import (
    Document,
    Example,
    InputError,
    Query,
    Source,
    Thought,
    read_jsonl,
    write_jsonl,
)
from o1_records.vectors import VectorSet

TOPICS = ["open zip file", "sort list keys", "read text bytes", "close the file"]


def _examples(count):
    for number in range(count):
        words = TOPICS[number % 4].split()
        query = Query(query_id=f"q{number}", text=" ".join(words[:2]))
        thought = Thought(
            query_id=query.query_id, thought_id="t", text=" ".join(words[1:]), source=Source(model="m")
        )
        positive = Document(doc_id=f"d{number % 4}", text=" ".join(words * 3))
        yield Example(query=query, positives=(positive,), thought=thought if number % 5 else None)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "examples.jsonl"
    write_jsonl(path, _examples(16))
    return path


def _train(folder, data, model, steps, **settings):
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        save_steps=4,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    return train(ModelArguments(model_name_or_path=str(model), train_data=str(data), **settings), arguments)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_training_learns_to_find_and_to_think(tmp_path, data, plain_models, kind):
    folder = _train(tmp_path / "out", data, plain_models[kind], 40)
    model = Embedder.from_pretrained(folder)
    topics = [Query(query_id=str(n), text=" ".join(topic.split()[:2])) for n, topic in enumerate(TOPICS)]
    documents = model.encode_document([" ".join(topic.split() * 3) for topic in TOPICS])
    assert (model.encode_query(topics) @ documents.T).argmax(axis=1).tolist() == [0, 1, 2, 3]
    from o1_model import Thinking

    thoughts = model.think(topics, Thinking(samples=1, max_tokens=4, temperature=0.0))
    expected = [" ".join(topic.split()[1:]) for topic in TOPICS]
    assert sum(t.text == e for t, e in zip(thoughts, expected, strict=True)) >= 3


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, data, plain_models):
    whole = _train(tmp_path / "whole", data, plain_models["llama"], 8)
    _train(tmp_path / "parts", data, plain_models["llama"], 4)
    parts = _train(tmp_path / "parts", data, plain_models["llama"], 8)
    first, second = (dict(Embedder.from_pretrained(f).backbone.named_parameters()) for f in (whole, parts))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_a_folder_of_another_training_is_not_continued(tmp_path, data, plain_models):
    _train(tmp_path / "out", data, plain_models["llama"], 4)
    with pytest.raises(InputError, match="was trained with readout token, this run has mean"):
        _train(tmp_path / "out", data, plain_models["llama"], 8, readout="mean")
    write_jsonl(data, _examples(8))
    with pytest.raises(InputError, match="was trained with examples_sha256"):
        _train(tmp_path / "out", data, plain_models["llama"], 8)


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path, data, plain_models):
    whole = _train(tmp_path / "whole", data, plain_models["llama"], 8)
    cut = _train(tmp_path / "cut", data, plain_models["llama"], 8)
    (cut / "checkpoint-8" / "trainer_state.json").unlink()
    (cut / "checkpoint-8" / "model.safetensors").write_bytes(b"half")
    again = _train(tmp_path / "cut", data, plain_models["llama"], 8)
    first, second = (dict(Embedder.from_pretrained(f).backbone.named_parameters()) for f in (whole, again))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_an_example_without_a_positive_is_named(tmp_path, plain_models):
    path = tmp_path / "examples.jsonl"
    write_jsonl(path, [Example(query=Query(query_id="lost", text="x"), positives=())])
    with pytest.raises(InputError, match="'lost' has no positive"):
        _train(tmp_path / "out", path, plain_models["llama"], 1)


def test_an_unknown_model_is_one_sentence(tmp_path, data):
    with pytest.raises(InputError, match=r"cannot load a tokenizer from '.*nowhere'"):
        _train(tmp_path / "out", data, tmp_path / "nowhere", 1)


@pytest.fixture
def run(capsys):
    """Call the command in this process: (exit code, stderr). Starting Python with torch takes seconds."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    return call


def test_the_commands_train_think_and_embed(tmp_path, data, plain_models, run):
    code, stderr = run(
        "train", "--model_name_or_path", plain_models["llama"], "--train_data", data, "--output_dir",
        tmp_path / "model", "--max_steps", 2, "--use_cpu", "--report_to", "none",
    )  # fmt: skip
    assert code == 0, stderr
    queries = [Query(query_id=f"q{n}", text=topic) for n, topic in enumerate(TOPICS)]
    write_jsonl(tmp_path / "queries.jsonl", queries)
    write_jsonl(
        tmp_path / "corpus.jsonl", [Document(doc_id="d0", text="open"), Document(doc_id="d1", text="")]
    )
    model = ["--model", tmp_path / "model"]
    asked = ["--queries", tmp_path / "queries.jsonl"]
    code, stderr = run(
        "think", *model, *asked, "--samples", 2, "--max-tokens", 4, "--out", tmp_path / "t.jsonl"
    )
    assert code == 0, stderr
    thoughts = list(read_jsonl(tmp_path / "t.jsonl", Thought))
    assert sorted(t.query_id for t in thoughts) == sorted(["q0", "q1", "q2", "q3"] * 2)
    runs = {
        "documents": ["--corpus", tmp_path / "corpus.jsonl"],
        "plain": asked,
        "given": [*asked, "--thoughts", tmp_path / "t.jsonl"],
        "own": [*asked, "--think", "--samples", 2, "--max-tokens", 4],
    }
    for name, arguments in runs.items():
        code, stderr = run("embed", *model, *arguments, "--out", tmp_path / name)
        assert code == 0, stderr
    sets = {name: VectorSet(tmp_path / name) for name in runs}
    assert sets["documents"].ids() == ["d0", "d1"]
    assert [s.ids() for s in list(sets.values())[1:]] == [["q0", "q1", "q2", "q3"]] * 3
    assert sets["plain"].manifest.encoder.same_space(sets["documents"].manifest.encoder)
    # the same thoughts, thought again and embedded on the cache, or read from the file
    np.testing.assert_allclose(sets["own"].load(), sets["given"].load(), atol=1e-3)
    assert "nothing to do" in run("embed", *model, *runs["plain"], "--out", tmp_path / "plain")[1]
    # the same name for something else is refused, not taken for done
    code, stderr = run("embed", *model, *runs["documents"], "--out", tmp_path / "plain")
    assert code == 4
    assert "was made with encoder" in stderr
    code, stderr = run(
        "think", *model, *asked, "--samples", 2, "--max-tokens", 3, "--out", tmp_path / "t.jsonl"
    )
    assert code == 4
    assert "this run is" in stderr


def test_a_folder_that_is_no_checkpoint_exits_with_4(tmp_path, data):
    command = [sys.executable, "-m", "o1_model", "think", "--model", tmp_path, "--queries", data]
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "t.jsonl")], capture_output=True, text=True
    )
    assert done.returncode == 4
    assert "no o1_layout.json" in done.stderr
