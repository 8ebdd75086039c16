"""Training on FlagEmbedding's and Tevatron's rows as their own loaders and losses have it.

`nox -s peers` installs FlagEmbedding. Tevatron's loader is not on PyPI: put `src` of its repository
(texttron/tevatron) on PYTHONPATH, else its test is skipped.
"""

import json
import random
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from FlagEmbedding.abc.finetune.embedder import (
    AbsEmbedderDataArguments,
    AbsEmbedderModel,
    AbsEmbedderSameDatasetTrainDataset,
)
from FlagEmbedding.abc.finetune.embedder.AbsDataset import AbsEmbedderTrainDataset

from o1_model.layout import QUERY_PROMPTS
from o1_model.training.arguments import DataArguments
from o1_model.training.data import ExampleOrder, Examples, Visit, digest64
from o1_model.training.files import chosen_examples, read_files
from o1_model.training.objective import Objective, embed_terms
from o1_model.training.step import Judgements, StepVectors

pytestmark = pytest.mark.peers

GROUP = 4
INSTRUCT = "Instruct: {}\nQuery: {}"


@pytest.fixture
def folder(tmp_path):
    """Two data sets as ReasonEmbed's files have them; one asks for batches of its own."""
    rows = {"stack": (24, None), "code": (40, 8)}
    data = tmp_path / "data"
    data.mkdir()
    for name, (count, batch) in rows.items():
        with (data / f"{name}.jsonl").open("w") as file:
            for n in range(count):
                row = {
                    "query": f"{name} question {n}",
                    "pos": [f"{name} {n} right {i}" for i in range(1 + n % 3)],
                    "neg": [f"{name} {n} wrong {i}" for i in range(3 + n % 5)],
                    "prompt": f"find {name}",
                }
                row["pos_scores"] = [10.0 + i for i in range(len(row["pos"]))]
                row["neg_scores"] = [0.5 * i for i in range(len(row["neg"]))]
                if batch is not None:
                    row["batch_size"] = batch
                file.write(json.dumps(row) + "\n")
    return data


def theirs(folder, cache, **settings):
    return AbsEmbedderDataArguments(
        train_data=[str(folder)], cache_path=str(cache), train_group_size=GROUP,
        query_instruction_for_retrieval="", query_instruction_format=INSTRUCT, **settings,
    )  # fmt: skip


def ours(folder):
    data = DataArguments([str(folder)])
    return chosen_examples(read_files(data), data, seed=0)


def test_flagembedding_reads_the_same_rows(folder, tmp_path):
    dataset = AbsEmbedderTrainDataset(theirs(folder, tmp_path / "c", knowledge_distillation=True), None)
    rows = sorted(dataset.dataset, key=lambda row: row["query"])
    examples = sorted(ours(folder), key=lambda example: example.query.text)
    assert len(rows) == len(examples) == 64
    for row, example in zip(rows, examples, strict=True):
        assert (example.query.text, example.query.instruction) == (row["query"], row["prompt"])
        assert [d.text for d in example.positives] == row["pos"]
        assert [d.text for d in example.negatives] == row["neg"]
        assert example.teacher_scores == (*row["pos_scores"], *row["neg_scores"])
        assert example.batch_size == row.get("batch_size")
        assert row["query"].startswith(example.dataset)


def test_a_draw_takes_what_flagembedding_takes(folder, tmp_path):
    """One positive and N - 1 negatives with their scores, all equally often."""
    dataset = AbsEmbedderTrainDataset(theirs(folder, tmp_path / "c", knowledge_distillation=True), None)
    place = next(n for n, row in enumerate(dataset.dataset) if row["query"] == "stack question 14")
    number, example = next((n, e) for n, e in enumerate(ours(folder)) if e.query.text == "stack question 14")
    random.seed(0)
    drawn, turns = Examples(ours(folder), seed=1), 3000
    taken = Counter(), Counter()
    for turn in range(turns):
        query, passages, scores = dataset[place]
        now = drawn[Visit(number, turn)].example
        own = [*now.positives[:1], *now.negatives[: GROUP - 1]]
        assert query == QUERY_PROMPTS["instruct"].format(instruction=now.query.instruction) + now.query.text
        assert len(passages) == len(own) == GROUP
        known = dict(zip(passages, scores, strict=True))
        mine = dict(zip((d.text for d in (*now.positives, *now.negatives)), now.teacher_scores, strict=True))
        assert known.items() <= mine.items()
        taken[0].update(passages)
        taken[1].update(d.text for d in own)
    for document in (*example.positives, *example.negatives):
        share = 1 / 3 if document in example.positives else (GROUP - 1) / len(example.negatives)
        for counts in taken:
            assert counts[document.text] / turns == pytest.approx(share, abs=0.04)


def test_batches_are_as_many_and_as_large_as_flagembeddings(folder, tmp_path):
    dataset = AbsEmbedderSameDatasetTrainDataset(
        theirs(folder, tmp_path / "c", same_dataset_within_batch=True), 4, 0, None, 0, 2
    )
    named = [row["query"].split()[0] for row in dataset.dataset]
    expected = Counter((named[rows[0]], len(rows)) for rows, _ in dataset.batch_datas)
    examples = ours(folder)
    order = list(ExampleOrder(examples, 4, world_size=2, same_dataset=True, group_size=GROUP, drop_last=True))
    steps = [order[n] + order[n + 1] for n in range(0, len(order), 2)]
    found = Counter((examples[step[0].number].dataset, len(step)) for step in steps)
    assert found == expected == {("stack", 8): 3, ("code", 16): 2}


@dataclass
class Losses(AbsEmbedderModel):
    """FlagEmbedding's losses without a model."""

    temperature: float
    kd_loss_type: str = "kl_div"

    def __post_init__(self):
        torch.nn.Module.__init__(self)

    def encode(self, features):
        raise NotImplementedError

    def save(self, output_dir):
        raise NotImplementedError

    def compute_score(self, q_reps, p_reps):
        return q_reps @ p_reps.T / self.temperature

    def compute_loss(self, scores, target):
        return torch.nn.functional.cross_entropy(scores, target)


@pytest.mark.parametrize("teacher", ["none", "kl"])
def test_the_contrastive_loss_and_its_distillation_have_flagembeddings_gradient(teacher):
    generator = torch.Generator().manual_seed(3)
    queries, group = 5, 4

    def unit(rows):
        values = torch.randn(rows, 16, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(values).requires_grad_()

    q, p = unit(queries), unit(queries * group)
    scores = torch.randn(queries, group, generator=generator, dtype=torch.float64)
    targets = torch.softmax(scores, dim=-1) if teacher == "kl" else None
    _, loss = Losses(0.2)._compute_in_batch_neg_loss(q, p, teacher_targets=targets)
    expected = torch.autograd.grad(loss, (q, p))
    keys = torch.tensor([digest64(str(n)) for n in range(queries * group)])
    rows = torch.arange(queries * group).reshape(queries, group)
    terms = embed_terms(
        StepVectors(q, q, p),
        Judgements(
            document_keys=keys, rows=rows, n_positives=torch.ones(queries, dtype=torch.long),
            # their negatives are all other documents of the batch, the positives of other queries among them
            excluded_keys=keys[rows[:, :1]], has_thought=torch.zeros(queries, dtype=torch.bool),
            mixes=torch.zeros(queries, dtype=torch.bool), counts=torch.ones(queries, dtype=torch.bool),
            teacher=scores,
        ),
        Objective(temperature=0.2, teacher=teacher), step=0,
    )  # fmt: skip
    found = torch.autograd.grad(terms["embed"], (q, p))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    # the Kullback-Leibler divergence is their cross-entropy less the teacher's own entropy
    entropy = 0.0 if targets is None else -(targets * targets.log()).sum(dim=-1).mean().item()
    assert terms["embed"].item() == pytest.approx(loss.item() - entropy, rel=1e-9)


def test_tevatron_reads_the_same_rows(tmp_path):
    dataset = pytest.importorskip("tevatron.retriever.dataset", reason="Tevatron's src is not on PYTHONPATH")
    from tevatron.retriever.arguments import DataArguments as TevatronArguments

    rows = [
        {
            "query_id": str(n),
            "query": f"question {n}",
            "positive_passages": [{"docid": f"p{n}", "title": "zip", "text": f"right {n}"}],
            "negative_passages": [
                {"docid": f"n{n}.{i}", "title": "tar", "text": f"wrong {n} {i}"} for i in range(6)
            ],
        }
        for n in range(5)
    ]
    path = tmp_path / "nq.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = TevatronArguments(
        dataset_path=str(path), dataset_cache_dir=str(tmp_path / "c"), train_group_size=GROUP
    )
    trainer = SimpleNamespace(state=SimpleNamespace(epoch=0), args=SimpleNamespace(seed=0))
    read = dataset.TrainDataset(arguments, trainer)
    examples = Examples(ours(path), draw="first")
    assert len(read) == len(examples) == 5
    for n in range(5):
        (query, *_), documents = read[n]
        example = examples[n].example
        assert query == example.query.text
        texts = [text for text, *_ in documents]
        assert texts[:1] == [d.full_text for d in example.positives]
        assert set(texts[1:]) <= {d.full_text for d in example.negatives}
        assert len(texts) == GROUP
