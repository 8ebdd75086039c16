"""Training what retrieval uses, thoughts mixed into queries; and turns that draw the same after a resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from o1_model import Embedder
from o1_model.__main__ import main
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.training.arguments import DataArguments, EvalArguments, ModelArguments
from o1_model.training.checks import check_terms
from o1_model.training.objective import Objective
from o1_model.training.train import train
from o1_records import Document, Example, InputError, Qrel, Query, Source, Thought, write_jsonl
from o1_records.beir import write_beir
from o1_records.mixture import Mixture
from o1_records.vectors import VectorSet

TOPICS = ["open zip file", "sort list keys", "read text bytes", "close the file"]
MIXTURE = Objective(
    query_weight=0.0, thought_weight=0.0, mixture_weight=1.0, mixture_share=0.4, temperature=0.1
)


def examples(count, *, thought=True):
    """Two positives and four negatives each; the thought has the words of the positives."""
    for number in range(count):
        words = TOPICS[number % 4].split()
        query = Query(query_id=f"q{number}", text=words[0])
        own = Thought(query_id=query.query_id, thought_id="t", text=" ".join(words), source=Source(model="m"))
        others = [" ".join(TOPICS[(number + n) % 4].split()[:n]) for n in (1, 2, 3)]
        yield Example(
            query=query,
            positives=tuple(Document(doc_id=f"p{n}", text=" ".join(words * n)) for n in (1, 2)),
            negatives=tuple(Document(doc_id=f"n{n}", text=f"write {t}") for n, t in enumerate(others)),
            thought=own if thought else None,
        )


def run(folder, model, steps, objective, *, of_data=None, of_model=None, evaluation=None, **flags):
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": 4,
            "learning_rate": 1e-2, "lr_scheduler_type": "constant", "save_steps": 4, "logging_steps": 1,
            "report_to": [], "use_cpu": True, "disable_tqdm": True, **flags,
        }
    )  # fmt: skip
    return train(
        ModelArguments(str(model), query_length=12, thought_length=8, **(of_model or {})),
        DataArguments("none", **{"negatives": 2, **(of_data or {})}),
        arguments,
        objective=objective,
        evaluation=evaluation or EvalArguments(),
        examples=list(examples(24)),
    )


def log(folder, name="loss"):
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [line for line in history if name in line]


@pytest.fixture
def collection(tmp_path):
    documents = [Document(doc_id=f"d{n}", text=" ".join(topic.split() * 2)) for n, topic in enumerate(TOPICS)]
    queries = [Query(query_id=f"q{n}", text=topic.split()[0]) for n, topic in enumerate(TOPICS)]
    qrels = [Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(len(TOPICS))]
    write_beir(tmp_path / "beir", documents=documents, queries=queries, qrels={"dev": qrels})
    return EvalArguments(eval_collection=str(tmp_path / "beir"))


@pytest.mark.parametrize("reading", ["joint", "query", "document"])
def test_the_mixture_is_what_is_trained_and_measured(tmp_path, plain_models, collection, reading):
    objective = Objective(**{**vars(MIXTURE), "mixture_reading": reading})
    folder = run(
        tmp_path / "out", plain_models["llama"], 12, objective, evaluation=collection,
        eval_strategy="steps", eval_steps=4,
    )  # fmt: skip
    lines = log(folder)
    first, last = (sum(line["embed_m"] for line in part) for part in (lines[:3], lines[-3:]))
    assert last < first
    # nothing but the mixture and the thoughts' tokens is learnt
    for line in lines:
        assert line["embed"] == pytest.approx(line["embed_m"], abs=2e-5)
        assert line["loss"] == pytest.approx(0.8 * line["embed"] + 0.2 * line["think"], rel=1e-3)
    measured = log(folder, "eval_nDCG@10_mixture")
    assert [line["step"] for line in measured] == [4, 8, 12]
    assert all(0 <= line["eval_nDCG@10_mixture"] <= 1 for line in measured)


def test_v_q_learns_the_ranking_of_the_mixture(tmp_path, plain_models):
    objective = Objective(
        mixture_weight=1.0, mixture_share=0.5, distil_weight=1.0, distil_from="mixture", temperature=0.1
    )
    lines = log(run(tmp_path / "out", plain_models["llama"], 12, objective))
    assert {"embed_q", "embed_t", "embed_m", "distil"} <= set(lines[0])
    assert 0 < lines[-1]["distil"] < lines[0]["distil"]


def test_a_model_without_a_place_for_thoughts_learns_a_mixture(tmp_path, plain_models):
    instruct = {"layout": "instruct"}
    objective = Objective(embed_weight=1.0, mixture_weight=1.0, mixture_reading="query", temperature=0.1)
    lines = log(run(tmp_path / "out", plain_models["llama"], 8, objective, of_model=instruct))
    assert lines[-1]["embed_m"] < lines[0]["embed_m"]


def test_a_mixture_without_its_parts_is_refused():
    known, joint = list(examples(2)), Objective(mixture_weight=1.0, mixture_reading="joint")
    assert check_terms(known, None, MIXTURE) == check_terms(known, None, joint) == []
    with pytest.raises(InputError, match="reference reads one vector, with the thought in it"):
        check_terms(known, None, MIXTURE, layout="reference")
    with pytest.raises(InputError, match="--mixture_reading joint needs v_t beside v_q"):
        check_terms(known, None, joint, layout="instruct")
    with pytest.raises(InputError, match="--distil_from thought needs v_t beside v_q"):
        check_terms(known, None, Objective(distil_weight=1.0), layout="instruct")
    with pytest.raises(InputError, match="no example has a thought; leave out the mixture"):
        check_terms(list(examples(2, thought=False)), None, MIXTURE)


def test_thoughts_that_nothing_reads_cannot_be_dropped(tmp_path, plain_models):
    instruct, dropped = {"layout": "instruct"}, {"thought_dropout": 0.5}
    with pytest.raises(InputError, match="thought_dropout would have no effect"):
        run(tmp_path / "out", plain_models["llama"], 1, Objective(), of_model=instruct, of_data=dropped)


RESUMED = {
    "draws, dropped thoughts and Redapter's start": (
        Objective(temperature=0.1, redapter_from=6), {"thought_dropout": 0.3}
    ),
    "own thoughts in the mixture": (
        Objective(**{**vars(MIXTURE), "own_thoughts": 0.5, "own_thoughts_every": 2}), {}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("objective", "of_data"), RESUMED.values(), ids=RESUMED)
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    tmp_path, plain_models, objective, of_data
):
    whole = run(tmp_path / "whole", plain_models["llama"], 8, objective, of_data=of_data)
    # what a training that is killed after step 4 leaves
    left = Path(shutil.copytree(whole / "checkpoint-4", tmp_path / "parts" / "checkpoint-4"))
    before = (left / "trainer_state.json").stat().st_mtime_ns
    parts = run(tmp_path / "parts", plain_models["llama"], 8, objective, of_data=of_data)
    assert (left / "trainer_state.json").stat().st_mtime_ns == before, "it began anew"
    first, second = (Embedder.from_pretrained(folder).backbone.state_dict() for folder in (whole, parts))
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
    assert [line["loss"] for line in log(parts)] == pytest.approx([line["loss"] for line in log(whole)])
    if objective.redapter_from is not None:
        started = ["intensity_mean" in line for line in log(parts)]
        assert started == [False] * 6 + [True] * 2


# --- retrieval mixes as training did ------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 4])
def test_a_retriever_takes_the_mixture_that_its_checkpoint_was_trained_with(tmp_path, plain_models, rank):
    objective = Objective(**{**vars(MIXTURE), "mixture_reading": "joint"})
    folder = run(tmp_path / "out", plain_models["llama"], 4, objective, of_model={"lora_rank": rank})
    trained = Mixture(weight=0.4, reading="joint")
    for place in (folder, folder / "checkpoint-4"):
        assert ThinkingRetriever(place, device="cpu").mixture == trained
    model = Embedder.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    assert ThinkingRetriever(tmp_path / "again", device="cpu").mixture == trained
    # what is given wins, and so does a calibration
    own = ThinkingRetriever(folder, mixture=Mixture(weight=0.1), device="cpu")
    assert own.mixture == Mixture(weight=0.1)
    digest = model.digest
    (folder / "o1_mixture.json").unlink()
    plain = ThinkingRetriever(folder, device="cpu")
    assert plain.mixture == Mixture()
    assert plain.embedder.embedder.digest == digest  # vectors are the same


def test_a_training_without_a_mixture_leaves_none_of_an_earlier_one(tmp_path, plain_models):
    folder = run(tmp_path / "out", plain_models["llama"], 4, MIXTURE)
    again = run(tmp_path / "more", folder, 4, Objective(temperature=0.1))
    assert ThinkingRetriever(again, device="cpu").mixture == Mixture()
    (folder / "o1_mixture.json").write_text('{"weight": 2}')
    with pytest.raises(InputError, match=r"o1_mixture\.json: .*remove it"):
        Embedder.from_pretrained(folder)


def test_a_command_says_that_it_mixes_as_the_checkpoint_was_trained(tmp_path, plain_models, capsys):
    folder = run(tmp_path / "out", plain_models["llama"], 4, MIXTURE)
    asked = [example.query for example in examples(4)]
    write_jsonl(tmp_path / "queries.jsonl", asked)
    write_jsonl(tmp_path / "thoughts.jsonl", [example.thought for example in examples(4)])
    embed = ["embed", "--model", str(folder), "--device", "cpu", "--queries", str(tmp_path / "queries.jsonl")]
    embed += ["--thinker", str(tmp_path / "thoughts.jsonl")]
    assert main([*embed, "--out", str(tmp_path / "a")]) == 0
    said = "thoughts are mixed in with the weight 0.4 and the reading document that out was trained with"
    assert said in capsys.readouterr().err
    assert main([*embed, "--weight", "0.4", "--out", str(tmp_path / "b")]) == 0
    assert "mixed in with the reading document that out was trained with" in capsys.readouterr().err
    whole = ["--weight", "0.4", "--reading", "document", "--out", str(tmp_path / "c")]
    assert main([*embed, *whole]) == 0
    assert "was trained with" not in capsys.readouterr().err
    vectors = [VectorSet(tmp_path / name).load() for name in "abc"]
    assert (vectors[0] == vectors[1]).all() and (vectors[0] == vectors[2]).all()
    assert main([*embed, "--weight", "0.2", "--out", str(tmp_path / "d")]) == 0
    assert (VectorSet(tmp_path / "d").load() != vectors[0]).any()
