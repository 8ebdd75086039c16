"""The Trainer around the step: what it logs, what it saves, what it refuses."""

import json

import pytest
import torch
from transformers import TrainingArguments

from o1_model import Embedder
from o1_model.backbone import embedding_matrix
from o1_model.checkpoint.lora import Lora, add_lora, base_of
from o1_model.training.data import Examples, JointCollator
from o1_model.training.objective import Objective
from o1_model.training.saving import load_weights
from o1_model.training.trainer import JointTrainer
from o1_records import Document, Example, InputError, Query, Source, Thought

WORDS = ["open", "zip", "file", "sort", "list", "keys", "read", "text", "bytes", "close"]


def example(number):
    words = WORDS[number % 5 :]
    query = Query(query_id=f"q{number}", text=" ".join(words[:3]))
    thought = Thought(
        query_id=query.query_id, thought_id="t", text=" ".join(words[1:4]), source=Source(model="m")
    )
    positive = Document(doc_id=f"d{number % 6}", text=" ".join(words * 2))
    return Example(query=query, positives=(positive,), thought=thought)


def trainer_of(embedder, folder, *, objective=None, lora=None, base=None, grad_cache=False, **arguments):
    if lora is not None:
        torch.manual_seed(1)
        add_lora(embedder.backbone, lora)
    data = [example(number) for number in range(12)]
    given = {
        "max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 3e-3, "logging_steps": 1,
        "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": [], "use_cpu": True,
        "disable_tqdm": True, "remove_unused_columns": False, **arguments,
    }  # fmt: skip
    return JointTrainer(
        embedder,
        objective or Objective(temperature=0.1),
        args=TrainingArguments(output_dir=str(folder), **given),
        grad_cache=grad_cache,
        base=None if base is None else base_of(base),
        train_dataset=Examples(data),
        data_collator=JointCollator(tokenizer=embedder.tokenizer, layout=embedder.layout, chunk_tokens=48),
    )


def fresh(plain_models, kind="llama", **settings):
    return Embedder.from_backbone(plain_models[kind], query_length=12, thought_length=12, **settings)


def test_a_log_line_says_what_the_loss_is_made_of_and_how_fast_it_goes(llama, tmp_path):
    trainer = trainer_of(
        llama, tmp_path, objective=Objective(temperature=0.1, redapter_from=2), logging_steps=2
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        assert line["loss"] == pytest.approx(0.8 * line["embed"] + 0.2 * line["think"], rel=1e-3)
        assert {"embed_q", "embed_t", "learning_rate", "grad_norm"} < set(line)
        assert 0.5 < line["real_tokens"] <= 1
        assert line["tokens_per_s"] > 0
        assert line["memory_mb"] > 50
    # Redapter begins with the third step, and its weights are logged from then on
    assert ["intensity_mean" in line for line in lines] == [False, True]


def test_saving_on_the_way_changes_nothing(plain_models, tmp_path):
    """With a tied head the rows of control tokens are inputs and outputs; a checkpoint holds both."""
    folder = tmp_path / "tied"
    model = fresh(plain_models)
    model.backbone.lm.config.tie_word_embeddings = True
    model.backbone.lm.tie_weights()
    assert model.backbone.head.weight is embedding_matrix(model.backbone.lm)
    model.backbone.lm.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    weights = []
    for name, arguments in (("none", {}), ("each", {"save_strategy": "steps", "save_steps": 1})):
        torch.manual_seed(2)
        started = Embedder.from_backbone(folder, query_length=12, thought_length=12)
        trainer_of(started, tmp_path / name, **arguments).train()
        weights.append({n: p.detach().clone() for n, p in started.backbone.named_parameters()})
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name
    again = Embedder.from_backbone(folder, query_length=12, thought_length=12)
    load_weights(again.backbone, tmp_path / "each" / "checkpoint-4")
    for name, value in again.backbone.named_parameters():
        assert torch.equal(weights[0][name], value), name


def test_an_adapters_training_in_two_runs_ends_as_in_one(plain_models, tmp_path):
    small = Lora(rank=4, alpha=8, dropout=0.1)
    given = {
        "lora": small, "base": plain_models["llama"], "grad_cache": True,
        "save_strategy": "steps", "save_steps": 2,
    }  # fmt: skip
    whole, parts = fresh(plain_models), fresh(plain_models)
    trainer = trainer_of(whole, tmp_path, **given)
    trainer.train()
    again = trainer_of(parts, tmp_path, **given)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for (name, value), other in zip(
        whole.backbone.named_parameters(), parts.backbone.parameters(), strict=True
    ):
        assert torch.equal(other, value), name
    losses = [[line["loss"] for line in t.state.log_history if "loss" in line] for t in (trainer, again)]
    assert losses[1] == losses[0]
    kept = Embedder.from_pretrained(tmp_path / "checkpoint-4")
    whole.backbone.eval()
    assert abs(kept.encode_query("open zip") - whole.encode_query("open zip")).max() < 1e-5


def test_a_loss_that_is_no_number_names_the_batch(llama, tmp_path):
    with torch.no_grad():
        llama.backbone.control_rows[0, 0] = float("inf")
    with pytest.raises(
        InputError, match=r"the loss is nan at step 0: .*stopped_at\.json names the 4 queries"
    ):
        trainer_of(llama, tmp_path).train()
    stopped = json.loads((tmp_path / "stopped_at.json").read_text())
    assert set(stopped["query_ids"]) < {f"q{number}" for number in range(12)}
    assert len(stopped["query_ids"]) == 4


def test_a_checkpoint_of_another_layout_is_refused(plain_models, tmp_path):
    trainer_of(fresh(plain_models), tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    other = trainer_of(fresh(plain_models, readout="mean"), tmp_path)
    with pytest.raises(InputError, match="has layout"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
