"""The moving average of a training's weights: the formula, what is saved and measured, and resuming."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from o1_model import Embedder
from o1_model.training.arguments import DataArguments, EvalArguments, ModelArguments
from o1_model.training.ema import WEIGHTS_FILE
from o1_model.training.objective import Objective
from o1_model.training.saving import load_weights
from o1_model.training.train import train
from o1_records import Document, Example, InputError, Qrel, Query
from o1_records.beir import write_beir

TOPICS = ["open zip file", "sort list keys", "read text bytes", "close the file"]
EXAMPLES = [
    Example(
        query=Query(query_id=f"q{n}", text=TOPICS[n % 4].split()[n % 3]),
        positives=(Document(doc_id=f"d{n}", text=f"{TOPICS[n % 4]} {'in ' * (n % 5)}"),),
    )
    for n in range(16)
]
NO_THOUGHTS = Objective(embed_weight=1.0, temperature=0.1)


def run(folder, model, steps, *, decay=0.9, evaluation=None, of_model=None, **flags):
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": 4,
            "learning_rate": 1e-2, "lr_scheduler_type": "constant", "save_steps": 1, "logging_steps": 1,
            "report_to": [], "use_cpu": True, "disable_tqdm": True, **flags,
        }
    )  # fmt: skip
    return train(
        ModelArguments(
            str(model), query_length=12, thought_length=8, ema_decay=decay, dropout=0.0, **(of_model or {})
        ),
        DataArguments("none", negatives=0),
        arguments,
        objective=NO_THOUGHTS,
        evaluation=evaluation or EvalArguments(),
        examples=EXAMPLES,
    )


def weights_of(folder, model):
    """What a checkpoint of a step has as its model, by the names in training."""
    loaded = Embedder.from_backbone(model, query_length=12, thought_length=8)
    load_weights(loaded.backbone, folder)
    return {f"backbone.{name}": own.detach() for name, own in loaded.backbone.named_parameters()}


def in_training(folder):
    return {
        name.removeprefix("weights."): own
        for name, own in load_file(folder / WEIGHTS_FILE).items()
        if name.startswith("weights.")
    }


def test_every_checkpoint_holds_the_average_of_the_weights_so_far(tmp_path, plain_models):
    folder = run(tmp_path / "out", plain_models["llama"], 3, decay=0.25)
    again = run(tmp_path / "plain", plain_models["llama"], 3, decay=0.0)
    started = Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=8)
    average = {f"backbone.{name}": own.detach() for name, own in started.backbone.named_parameters()}
    del average["backbone.control_rows"]  # the training's seed draws them
    for step in range(3):
        place = folder / f"checkpoint-{step + 1}"
        weights, saved = in_training(place), weights_of(place, plain_models["llama"])
        decay = min(0.25, (1 + step) / (10 + step))
        average = {name: decay * own + (1 - decay) * weights[name] for name, own in average.items()}
        for name, own in average.items():
            torch.testing.assert_close(saved[name], own, atol=1e-6, rtol=1e-6)
        # the training is that of one without an average
        plain = weights_of(again / f"checkpoint-{step + 1}", plain_models["llama"])
        assert all(torch.equal(plain[name], own) for name, own in weights.items())
    last = Embedder.from_pretrained(folder)
    embedded = last.encode_query(["open zip"])
    torch.testing.assert_close(
        last.backbone.lm.state_dict()["model.norm.weight"], average["backbone.lm.model.norm.weight"]
    )
    assert not (folder / WEIGHTS_FILE).exists()
    assert (embedded != Embedder.from_pretrained(again).encode_query(["open zip"])).any()
    card = (folder / "README.md").read_text()
    assert "Its weights are their moving average in training (decay 0.25)." in card


@pytest.mark.parametrize("of_model", [{}, {"lora_rank": 4}, {"dtype": "bfloat16"}])
def test_a_training_in_two_runs_ends_with_the_average_of_one(tmp_path, plain_models, of_model):
    model = plain_models["llama"]
    whole = run(tmp_path / "whole", model, 4, of_model=of_model)
    run(tmp_path / "parts", model, 2, of_model=of_model)
    parts = run(tmp_path / "parts", model, 4, of_model=of_model)
    texts = ["open zip file", "sort"]
    vectors = [Embedder.from_pretrained(folder).encode_query(texts) for folder in (whole, parts)]
    assert (vectors[0] == vectors[1]).all()
    with pytest.raises(InputError, match="ema_decay"):  # another training
        run(tmp_path / "parts", model, 4, decay=0.5, of_model=of_model)


def test_the_average_is_what_is_measured_and_the_best_of_it_is_kept(tmp_path, plain_models):
    documents = [Document(doc_id=f"d{n}", text=" ".join(topic.split() * 2)) for n, topic in enumerate(TOPICS)]
    queries = [Query(query_id=f"q{n}", text=topic.split()[0]) for n, topic in enumerate(TOPICS)]
    qrels = [Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(len(TOPICS))]
    write_beir(tmp_path / "beir", documents=documents, queries=queries, qrels={"dev": qrels})
    folder = run(
        tmp_path / "out", plain_models["llama"], 4, decay=0.5,
        evaluation=EvalArguments(eval_collection=str(tmp_path / "beir"), eval_samples=0),
        eval_strategy="steps", eval_steps=1, load_best_model_at_end=True,
        metric_for_best_model="eval_nDCG@10", greater_is_better=True,
    )  # fmt: skip
    history = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    measured = [line["eval_nDCG@10"] for line in history["log_history"] if "eval_nDCG@10" in line]
    best = folder / history["best_model_checkpoint"].rpartition("/")[2]
    model = Embedder.from_pretrained(best)
    values = []
    for n, query in enumerate(model.encode_query([query.text for query in queries])):
        order = (model.encode_document([document.text for document in documents]) @ query).argsort()[::-1]
        values.append(1 / torch.log2(torch.tensor(order.tolist().index(n) + 2.0)))
    assert float(torch.stack(values).mean()) == pytest.approx(max(measured), abs=1e-4)
    saved = Embedder.from_pretrained(folder).encode_query(["open", "sort"])
    assert (saved == model.encode_query(["open", "sort"])).all()


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(InputError, match="ema_decay must be at least 0 and below 1"):
        ModelArguments("m", ema_decay=decay)
