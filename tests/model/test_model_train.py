"""Training: the real Trainer on tiny models, its resume, and the command from end to end."""

import json
import logging
import math
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from o1_model import Embedder, Thinking
from o1_model.__main__ import main
from o1_model.checkpoint.lora import read_base
from o1_model.training.arguments import DataArguments, EvalArguments, ModelArguments, parse
from o1_model.training.evaluate import measure, open_collection
from o1_model.training.objective import Objective
from o1_model.training.train import train
from o1_records import (
    Document,
    Example,
    InputError,
    Qrel,
    Query,
    Source,
    Thought,
    read_jsonl,
    write_jsonl,
)
from o1_records.beir import write_beir
from o1_records.kit.job import ChangedJobError, Lock
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


def _train(
    folder, data, model, steps, *, objective=None, evaluation=None, of_data=None, of_model=None, **flags
):
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "learning_rate": 3e-3,
            "lr_scheduler_type": "constant",
            "save_steps": 4,
            "logging_steps": 1,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            **flags,
        }
    )
    return train(
        ModelArguments(model_name_or_path=str(model), **(of_model or {})),
        DataArguments(train_data=str(data), **(of_data or {})),
        arguments,
        objective=objective or Objective(),
        evaluation=evaluation or EvalArguments(),
    )


def _weights(folder):
    return dict(Embedder.from_pretrained(folder).backbone.named_parameters())


def _assert_equal_weights(first, second):
    first, second = _weights(first), _weights(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_training_learns_to_find_and_to_think(tmp_path, data, plain_models, kind):
    folder = _train(tmp_path / "out", data, plain_models[kind], 40)
    model = Embedder.from_pretrained(folder)
    topics = [Query(query_id=str(n), text=" ".join(topic.split()[:2])) for n, topic in enumerate(TOPICS)]
    documents = model.encode_document([" ".join(topic.split() * 3) for topic in TOPICS])
    assert (model.encode_query(topics) @ documents.T).argmax(axis=1).tolist() == [0, 1, 2, 3]
    thoughts = model.think(topics, Thinking(samples=1, max_tokens=4, temperature=0.0))
    expected = [" ".join(topic.split()[1:]) for topic in TOPICS]
    assert sum(t.text == e for t, e in zip(thoughts, expected, strict=True)) >= 3


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, data, plain_models):
    whole = _train(tmp_path / "whole", data, plain_models["llama"], 8)
    _train(tmp_path / "parts", data, plain_models["llama"], 4)
    _assert_equal_weights(whole, _train(tmp_path / "parts", data, plain_models["llama"], 8))


def test_a_finished_training_that_is_started_again_takes_no_further_step(tmp_path, data, plain_models):
    # 6 steps end in the middle of the second epoch of 4
    folder = _train(tmp_path / "out", data, plain_models["llama"], 6)
    first = {name: value.clone() for name, value in _weights(folder).items()}
    _train(tmp_path / "out", data, plain_models["llama"], 6)
    assert "in 6 steps" in (folder / "README.md").read_text()
    for name, value in _weights(folder).items():
        assert torch.equal(value, first[name]), name


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path, data, plain_models):
    whole = _train(tmp_path / "whole", data, plain_models["llama"], 8)
    cut = _train(tmp_path / "cut", data, plain_models["llama"], 8)
    (cut / "checkpoint-8" / "trainer_state.json").unlink()
    (cut / "checkpoint-8" / "model.safetensors").write_bytes(b"half")
    _assert_equal_weights(whole, _train(tmp_path / "cut", data, plain_models["llama"], 8))


def test_a_checkpoint_without_its_optimiser_is_not_gone_on_from(tmp_path, data, plain_models):
    flags = {"save_only_model": True, "save_steps": 2}
    folder = _train(tmp_path / "out", data, plain_models["llama"], 4, **flags)
    # done is done
    _train(tmp_path / "out", data, plain_models["llama"], 4, **flags)
    with pytest.raises(InputError, match="checkpoint-4: was saved without the optimiser"):
        _train(tmp_path / "out", data, plain_models["llama"], 8, **flags)
    shutil.rmtree(folder / "checkpoint-4")
    with pytest.raises(InputError, match="checkpoint-2: was saved without the optimiser"):
        _train(tmp_path / "out", data, plain_models["llama"], 4, **flags)


OTHER_SETTINGS = {
    "learning_rate": {"learning_rate": 1e-3},
    "weight_decay": {"weight_decay": 0.1},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "batch_of_all_processes": {"per_device_train_batch_size": 2},
    "seed": {"seed": 1},
    "temperature": {"objective": Objective(temperature=0.05)},
    "own_thoughts": {"objective": Objective(own_thoughts=0.5)},
    "negatives": {"of_data": {"negatives": 1}},
    "grad_cache": {"of_data": {"grad_cache": True}},
    "readout": {"of_model": {"readout": "mean"}},
    "lora_rank": {"of_model": {"lora_rank": 2}},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, plain_models):
    """A folder with a training of 4 steps, and its data."""
    folder = tmp_path_factory.mktemp("trained")
    write_jsonl(folder / "examples.jsonl", _examples(16))
    _train(folder / "out", folder / "examples.jsonl", plain_models["llama"], 4)
    return folder


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_a_training_with_other_settings_is_not_continued(trained, plain_models, name):
    both = f"the earlier work was made with .*{name} .*, this run has .*{name} .*; choose another output_dir"
    with pytest.raises(ChangedJobError, match=both):
        _train(trained / "out", trained / "examples.jsonl", plain_models["llama"], 8, **OTHER_SETTINGS[name])


def test_a_training_on_other_data_is_not_continued(trained, tmp_path, plain_models):
    write_jsonl(tmp_path / "examples.jsonl", _examples(8))
    with pytest.raises(InputError, match=r"made with examples_sha256 .*, this run has examples_sha256"):
        _train(trained / "out", tmp_path / "examples.jsonl", plain_models["llama"], 8)


def test_new_job_moves_a_training_with_other_settings_aside(tmp_path, data, plain_models):
    out = _train(tmp_path / "out", data, plain_models["llama"], 2)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    again = {"model_name_or_path": plain_models["llama"], "train_data": data, "output_dir": out}
    words = [str(word) for name, value in again.items() for word in (f"--{name}", value)]
    words += ["--max_steps", "2", "--use_cpu", "--report_to", "none", "--disable_tqdm", "true"]
    assert main(["train", *words, "--new_job"]) == 0
    old = tmp_path / "out.old1"
    assert {path.name: path.read_bytes() for path in old.iterdir() if path.is_file()} == before
    assert Embedder.from_pretrained(out).digest != Embedder.from_pretrained(old).digest
    # the same settings again move nothing
    assert main(["train", *words, "--new_job"]) == 0
    assert not (tmp_path / "out.old2").exists()


def test_two_trainings_of_one_folder_are_refused(tmp_path, data, plain_models):
    (tmp_path / "out").mkdir()
    with (
        Lock(tmp_path / "out" / "o1_training.lock"),
        pytest.raises(InputError, match="is at work there"),
    ):
        _train(tmp_path / "out", data, plain_models["llama"], 1)
    _train(tmp_path / "out", data, plain_models["llama"], 1)
    assert not (tmp_path / "out" / "o1_training.lock").exists()


def test_a_damaged_record_of_a_training_is_one_sentence(trained, tmp_path, plain_models):
    shutil.copytree(trained / "out", tmp_path / "out")
    (tmp_path / "out" / "o1_training.json").write_text("{")
    with pytest.raises(InputError, match=r"o1_training\.json: damaged: .*give --new-job"):
        _train(tmp_path / "out", trained / "examples.jsonl", plain_models["llama"], 4)


def test_a_decaying_learning_rate_needs_the_same_number_of_steps(tmp_path, data, plain_models):
    _train(tmp_path / "out", data, plain_models["llama"], 4, lr_scheduler_type="linear")
    with pytest.raises(InputError, match="made with max_steps '4', this run has max_steps '8'"):
        _train(tmp_path / "out", data, plain_models["llama"], 8, lr_scheduler_type="linear")


def test_a_training_goes_on_with_another_log_and_place_of_the_data(tmp_path, data, plain_models):
    whole = _train(tmp_path / "whole", data, plain_models["llama"], 8)
    _train(tmp_path / "parts", data, plain_models["llama"], 4)
    moved = data.rename(tmp_path / "moved.jsonl")
    flags = {"logging_steps": 3, "save_steps": 2, "save_total_limit": 1, "run_name": "again"}
    _assert_equal_weights(whole, _train(tmp_path / "parts", moved, plain_models["llama"], 8, **flags))


def test_a_run_that_saved_nothing_leaves_the_folder_free(tmp_path, data, plain_models):
    with pytest.raises(InputError, match="the loss is nan"):
        _train(tmp_path / "out", data, plain_models["llama"], 4, learning_rate=1e30, max_grad_norm=0)
    _train(tmp_path / "out", data, plain_models["llama"], 4)


def test_a_checkpoint_with_a_pickle_in_it_does_not_run_it(tmp_path, data, plain_models):
    folder = _train(tmp_path / "out", data, plain_models["llama"], 4)
    canary = pickle.dumps(Canary(tmp_path / "canary"), protocol=2)
    (folder / "checkpoint-4" / "optimizer.pt").write_bytes(canary)
    with pytest.raises(InputError, match="checkpoint-4: contains pickles of more than tensors"):
        _train(tmp_path / "out", data, plain_models["llama"], 8)
    assert not (tmp_path / "canary").exists()


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "the pickle ran"))


@pytest.mark.parametrize("settings", [{}, {"of_data": {"grad_cache": True}}, {"of_model": {"lora_rank": 2}}])
def test_a_batch_without_any_thought_is_an_ordinary_batch(tmp_path, plain_models, settings):
    path = tmp_path / "examples.jsonl"
    write_jsonl(path, [msgspec.structs.replace(example, thought=None) for example in _examples(8)])
    folder = _train(tmp_path / "out", path, plain_models["llama"], 2, **settings)
    lines = _log(folder)
    assert all(math.isfinite(line["loss"]) and line["think"] == 0 for line in lines)
    assert np.isfinite(Embedder.from_pretrained(folder).encode_query(["open zip"])).all()


def _log(folder):
    return [line for line in _history(folder) if "loss" in line]


def _history(folder):
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return json.loads((newest / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize("grad_cache", [False, True])
def test_logits_are_computed_where_there_is_a_label_and_nowhere_else(
    tmp_path, data, plain_models, grad_cache
):
    vocabulary = len(Embedder.from_backbone(plain_models["llama"]).tokenizer)
    rows = []

    def count(module, _, output):
        # (the checks of a loaded model run in inference mode)
        if getattr(module, "out_features", 0) == vocabulary and not torch.is_inference_mode_enabled():
            rows.append(output.shape[:-1].numel())

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    _train(tmp_path / "out", data, plain_models["llama"], 1, of_data={"grad_cache": grad_cache},
           per_device_train_batch_size=16, save_strategy="no")  # fmt: skip
    hook.remove()
    # two words and EOS of 12 thoughts
    assert sum(rows) == 12 * 3


def test_an_adapter_trains_the_control_rows_and_leaves_the_base_alone(tmp_path, data, plain_models):
    adapter = {"lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.0}
    folder = _train(tmp_path / "adapter", data, plain_models["llama"], 4, of_model=adapter)
    assert not list(folder.glob("model*.safetensors"))
    merged = _train(tmp_path / "merged", data, plain_models["llama"], 4, of_model={**adapter, "merge": True})
    assert list(merged.glob("model*.safetensors"))
    first, second = Embedder.from_pretrained(folder), Embedder.from_pretrained(merged)
    thinking = Thinking(samples=2, max_tokens=8)
    for think in (None, thinking):
        vectors = [model.encode_query(TOPICS, think=think) for model in (first, second)]
        np.testing.assert_allclose(*vectors, atol=1e-5)
    base = Embedder.from_backbone(plain_models["llama"]).backbone
    tuned = Embedder.from_pretrained(merged).backbone
    controls = set(base.control_ids.tolist())
    before, after = (b.lm.get_input_embeddings().weight.detach() for b in (base, tuned))
    moved = (before != after).any(dim=1).nonzero()[:, 0].tolist()
    assert set(moved) == controls


def test_an_adapter_of_some_projections_trains_on_a_base_in_half_precision(tmp_path, data, plain_models):
    settings = {
        "lora_rank": 2, "lora_targets": ["q_proj", "v_proj"], "dtype": "bfloat16", "document_prompt": "file ",
        "query_prompt": "how do {instruction}: ", "instruction": "i",
    }  # fmt: skip
    folder = _train(tmp_path / "out", data, plain_models["llama"], 4, of_model=settings)
    weights = load_file(folder / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in weights} == {"q_proj", "v_proj"}
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert any(value.abs().sum() > 0 for name, value in weights.items() if "lora_B" in name)
    model = Embedder.from_pretrained(folder)
    assert model.layout.document_prompt == "file "
    assert model.query_rows(["open"])[0].ids[2:6] == tuple(
        model.tokenizer("how do i :", add_special_tokens=False)["input_ids"]
    )
    lines = _log(folder)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_projections_that_there_are_not_are_refused(tmp_path, data, plain_models):
    settings = {"lora_rank": 2, "lora_targets": ["query_key_value"]}
    with pytest.raises(InputError, match="no projections called query_key_value; there are down_proj"):
        _train(tmp_path / "out", data, plain_models["llama"], 1, of_model=settings)


def test_a_training_tells_what_it_gained_over_the_untrained_model(tmp_path, data, plain_models, collection):
    often = {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}
    folder = _train(tmp_path / "out", data, plain_models["llama"], 4, evaluation=collection, **often)
    _train(tmp_path / "out", data, plain_models["llama"], 8, evaluation=collection, **often)
    # once, also after a resume
    steps = re.findall(r"^\| (\d+|saved) \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert steps == ["0", "2", "4", "6", "8", "saved"]
    untrained = Embedder.from_backbone(plain_models["llama"])
    (first, *_) = [line for line in _history(folder) if "eval_nDCG@10" in line]
    assert (first["step"], first["eval_nDCG@10"]) == (0, _ndcg(untrained, collection))


def _ndcg(model, collection):
    return round(measure(model, open_collection(collection), samples=0)["nDCG@10"], 5)


def test_an_adapter_of_another_base_is_refused(tmp_path, data, plain_models):
    folder = _train(tmp_path / "out", data, plain_models["llama"], 2, of_model={"lora_rank": 2})
    with pytest.raises(InputError, match=r"was trained on .* with digest .*, but .* has"):
        Embedder.from_pretrained(folder, base=plain_models["bert"])


def test_an_adapter_is_trained_on(tmp_path, data, plain_models):
    adapter = {"lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.0}
    first = _train(tmp_path / "first", data, plain_models["llama"], 4, of_model=adapter)
    again = _train(tmp_path / "again", data, first, 4, of_model=adapter)
    # its first step is that of the adapter, not of the plain model, and it is an adapter of the same base
    assert _log(again)[0]["loss"] < _log(first)[0]["loss"]
    assert read_base(again) == read_base(first)
    moved = [load_file(folder / "adapter_model.safetensors") for folder in (first, again)]
    assert moved[0].keys() == moved[1].keys()
    assert any(not torch.equal(value, moved[1][name]) for name, value in moved[0].items())
    assert np.isfinite(Embedder.from_pretrained(again).encode_query(TOPICS)).all()
    with pytest.raises(InputError, match=r"its adapter has lora_rank 2, lora_alpha 4, lora_dropout 0\.0"):
        _train(tmp_path / "other", data, first, 4, of_model={**adapter, "lora_alpha": 8})
    with pytest.raises(InputError, match="was trained with layout 'o1'; give --layout o1"):
        _train(tmp_path / "other", data, first, 4, of_model={**adapter, "layout": "reference"})
    with pytest.raises(InputError, match=r"make a whole model of it first.*give its --lora_rank"):
        _train(tmp_path / "other", data, first, 4)


def test_an_adapter_does_not_go_on_with_another_base(tmp_path, data, plain_models):
    base = tmp_path / "base"
    shutil.copytree(plain_models["llama"], base)
    folder = _train(tmp_path / "out", data, base, 4, of_model={"lora_rank": 2})
    with pytest.raises(InputError, match=r"out: is an adapter; make a whole model of it first"):
        _train(tmp_path / "more", data, folder, 4)
    weights = load_file(base / "model.safetensors")
    save_file(
        {name: value + 1 for name, value in weights.items()}, base / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InputError, match=r"made with base_sha256 .*, this run has base_sha256"):
        _train(tmp_path / "out", data, base, 8, of_model={"lora_rank": 2})


@pytest.fixture
def collection(tmp_path):
    """The topics as a BEIR folder."""
    documents = [Document(doc_id=f"d{n}", text=" ".join(topic.split() * 3)) for n, topic in enumerate(TOPICS)]
    documents += [
        Document(doc_id=f"x{n}", text=f"{word} the {word}")
        for n, word in enumerate(["in", "of", "a", "i", "do"])
    ]
    queries = [Query(query_id=f"q{n}", text=" ".join(topic.split()[:2])) for n, topic in enumerate(TOPICS)]
    qrels = [Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(len(TOPICS))]
    write_beir(tmp_path / "beir", documents=documents, queries=queries, qrels={"dev": qrels})
    return EvalArguments(eval_collection=str(tmp_path / "beir"))


@pytest.mark.parametrize(("better", "greater"), [(max, True), (min, False)])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_best_checkpoint_is_what_is_saved(
    tmp_path, data, plain_models, collection, better, greater, lora_rank
):
    keep_best = {
        "learning_rate": 1e-2, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2,
        "save_total_limit": 2, "load_best_model_at_end": True, "metric_for_best_model": "nDCG@10_thoughts",
    }  # fmt: skip
    folder = _train(
        tmp_path / "out", data, plain_models["llama"], 8,
        evaluation=collection, of_model={"lora_rank": lora_rank}, greater_is_better=greater, **keep_best,
    )  # fmt: skip
    state = json.loads((folder / "checkpoint-8" / "trainer_state.json").read_text())
    lines = [line for line in state["log_history"] if "eval_nDCG@10" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    best = better(line["eval_nDCG@10_thoughts"] for line in lines)
    assert state["best_metric"] == best
    kept = folder / Path(state["best_model_checkpoint"]).name
    _assert_equal_weights(folder, kept)
    card = (folder / "README.md").read_text()
    saved = next(line for line in card.splitlines() if line.startswith("| saved |"))
    assert f"{best:.4f}" in saved
    if greater:
        (block,) = re.findall(r"```yaml\n(.*?)```", card, re.DOTALL)
        (tmp_path / "again.yaml").write_text(block)
        _, _, again, _, args = parse([str(tmp_path / "again.yaml"), "--use_cpu"])
        assert (again, args.eval_steps, args.save_steps) == (collection, 2, 2)
        assert (args.load_best_model_at_end, "accelerator_config" in block) == (True, False)


def test_evaluation_shows_thoughts_and_changes_nothing(tmp_path, data, plain_models, collection, caplog):
    quiet = _train(tmp_path / "quiet", data, plain_models["llama"], 4)
    with caplog.at_level(logging.INFO, "o1_model"):
        loud = _train(
            tmp_path / "loud",
            data,
            plain_models["llama"],
            4,
            evaluation=collection,
            eval_strategy="steps",
            eval_steps=1,
            logging_steps=2,
        )
    _assert_equal_weights(quiet, loud)
    history = json.loads((loud / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert ["think" in line for line in history] == ["loss" in line for line in history]
    said = [record.getMessage() for record in caplog.records]
    assert "4 of 4 queries (dev), 9 of 9 documents of beir" in said
    assert sum(line.startswith("thought about ") for line in said) == 3 * 5


@pytest.mark.extra
def test_tensorboard_gets_every_term_and_the_evaluation(
    tmp_path, data, plain_models, collection, monkeypatch
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    _train(
        tmp_path / "out", data, plain_models["llama"], 2, evaluation=collection,
        eval_strategy="steps", eval_steps=1, report_to=["tensorboard"],
    )  # fmt: skip
    (folder,) = {events.parent for events in (tmp_path / "board").rglob("events.*")}
    found = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    names = ["loss", "embed_q", "embed_t", "think", "learning_rate", "tokens_per_s", "real_tokens"]
    assert {f"train/{name}" for name in names} <= set(found)
    assert "train/memory_mb" in found
    assert {"eval/nDCG@10", "eval/nDCG@10_thoughts"} <= set(found)


def test_a_layout_longer_than_the_models_positions_is_refused(tmp_path, data, plain_models):
    with pytest.raises(InputError, match="rows of up to 9003 tokens, the model takes 2048; lower"):
        _train(tmp_path / "out", data, plain_models["llama"], 1, of_model={"document_length": 9000})


def test_an_example_without_a_positive_is_named_with_its_line(tmp_path, plain_models):
    path = tmp_path / "examples.jsonl"
    write_jsonl(path, [Example(query=Query(query_id="lost", text="x"), positives=())])
    with pytest.raises(InputError, match=r"examples\.jsonl:1: query 'lost' has no positive"):
        _train(tmp_path / "out", path, plain_models["llama"], 1)


def test_an_unknown_model_is_one_sentence(tmp_path, data):
    with pytest.raises(InputError, match="nowhere' cannot be loaded as a tokenizer"):
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
    assert "the earlier work was made with max_length '64', role 'query'" in stderr
    code, stderr = run(
        "think", *model, *asked, "--samples", 2, "--max-tokens", 3, "--out", tmp_path / "t.jsonl"
    )
    assert code == 4
    assert "made with max_tokens '4', this run has max_tokens '3'" in stderr


def test_the_command_takes_a_file_and_tells_what_it_found(
    tmp_path, data, plain_models, run, collection, caplog
):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model_name_or_path: {plain_models['llama']}\ntrain_data: {data}\noutput_dir: {tmp_path / 'out'}\n"
        f"query_length: 1\nmax_steps: 2\nsave_steps: 1\nuse_cpu: true\n"
        f"eval_collection: {collection.eval_collection}\n"
    )
    code, stderr = run("train", config, "--query_length", 2, "--disable_tqdm", "true")
    assert code == 0, stderr
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert re.search(r"query +16 +2 +2 +2 +0\.0%\n", said)
    assert "16 of 16 examples have fewer than the 15 negatives asked for (16 have none)" in said
    assert re.search(r"saved: nDCG@10 [\d.]+, nDCG@10_thoughts [\d.]+", said)
    assert "| saved |" in (tmp_path / "out" / "README.md").read_text()
    config.write_text(config.read_text() + "document_lenght: 9\n")
    code, stderr = run("train", config)
    assert code == 4
    assert "config.yaml:9: unknown setting 'document_lenght'; did you mean document_length?" in stderr


def test_a_folder_that_is_no_checkpoint_exits_with_4(tmp_path, data):
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "o1_model", "think", "--model", tmp_path / "empty", "--queries", data]
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "t.jsonl")], capture_output=True, text=True
    )
    assert done.returncode == 4
    assert "no o1_layout.json" in done.stderr
