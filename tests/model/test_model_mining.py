"""Hard negatives that a training mines with its own model: which they are, when batches have them."""

import json

import numpy as np
import pytest
from transformers import TrainingArguments

from o1_model import Embedder
from o1_model.training.arguments import DataArguments, ModelArguments
from o1_model.training.checks import check_mining
from o1_model.training.data import Examples, Exclusions, JointCollator, Visit, document_key
from o1_model.training.mining import Miner
from o1_model.training.objective import Objective
from o1_model.training.train import train
from o1_records import Document, Example, InputError, Query, write_jsonl

TEXT = "open zip file read write list sort keys close text bytes in of the how do i a"
WORDS = TEXT.split(" ")
NO_THOUGHTS = Objective(embed_weight=1.0, temperature=0.1)


def words_of(seed, count):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def example(n, query=""):
    return Example(
        query=Query(query_id=f"q{n}", text=query or words_of(n, 3)),
        positives=(Document(doc_id=f"d{n}", text=words_of(100 + n, 8)),),
        negatives=(Document(doc_id=f"n{n}", text=words_of(200 + n, 8)),),
    )


# the last two ask the same, in another case
EXAMPLES = [*(example(n) for n in range(10)), example(10, "Open a  file"), example(11, "open a file")]
CORPUS = [Document(doc_id=f"c{n}", text=words_of(400 + n, 8)) for n in range(20)]
# queries themselves: one by its doc_id, one by its text
CORPUS += [Document(doc_id="q3", text=words_of(3, 8))]
CORPUS += [Document(doc_id="x", text=EXAMPLES[4].query.text.title())]


def run(folder, model, steps, *, examples=EXAMPLES, of_data=None, objective=NO_THOUGHTS, **flags):
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": 4,
            "learning_rate": 1e-2, "lr_scheduler_type": "constant", "save_steps": 1, "logging_steps": 1,
            "report_to": [], "use_cpu": True, "disable_tqdm": True, **flags,
        }
    )  # fmt: skip
    return train(
        ModelArguments(str(model), query_length=12, document_length=12),
        DataArguments("none", **{"negatives": 2, "mine_every": 2, **(of_data or {})}),
        arguments,
        objective=objective,
        examples=examples,
    )


def losses(folder, last):
    state = json.loads((folder / f"checkpoint-{last}" / "trainer_state.json").read_text())
    return [line["loss"] for line in state["log_history"] if "loss" in line]


def collator_of(llama):
    excluded = Exclusions(EXAMPLES, CORPUS)
    return JointCollator(tokenizer=llama.tokenizer, layout=llama.layout, negatives=2, excluded=excluded)


@pytest.mark.parametrize("relative_margin", [0.0, 0.02, 0.05])
def test_mined_are_the_best_documents_below_the_margin_that_are_no_positives(llama, relative_margin):
    collator = collator_of(llama)
    miner = Miner(
        llama, Examples(EXAMPLES), collator, CORPUS, steps=1, range_max=15, relative_margin=relative_margin
    )
    documents = [*CORPUS, *(d for e in EXAMPLES for d in (*e.positives, *e.negatives))]
    documents = list({document_key(d): d for d in documents}.values())
    vectors = llama.encode_document(documents)
    mined = miner.mine()
    assert mined.shape == (12, 15)
    for place, own in enumerate(EXAMPLES):
        scores = vectors @ llama.encode_query(own.query)
        texts = {d.text for e in EXAMPLES for d in e.positives if e is own or {e, own} <= set(EXAMPLES[10:])}
        said = own.query.text.lower()
        hidden = [
            d.text in texts or d.doc_id == own.query.query_id or d.text.lower() == said for d in documents
        ]
        free = [row for row in np.argsort(-scores, kind="stable") if not hidden[row]]
        positive = next(s for s, d in zip(scores, documents, strict=True) if d.text == own.positives[0].text)
        limit = positive - relative_margin * abs(positive)
        expected = [row for row in free[:15] if scores[row] <= limit]
        assert [row for row in mined[place].tolist() if row >= 0] == expected
    assert (mined >= 0).any()


def test_batches_have_what_was_mined_last_even_where_the_loader_is_ahead(llama):
    collator = collator_of(llama)
    examples = Examples(EXAMPLES, draw="first")
    miner = Miner(llama, examples, collator, CORPUS, steps=2, relative_margin=0.0)
    loader = iter([[examples[Visit(n)] for n in range(4)]] * 4)  # drawn before anything is mined
    batches = [next(miner.ahead(loader, step=step))["batch"] for step in range(4)]
    keys = [batch.judgements.document_keys.tolist() for batch in batches]
    own = {document_key(d) for e in EXAMPLES[:4] for d in (*e.positives, *e.negatives)}
    assert set(keys[0]) == set(keys[1]) == own
    rows = miner.mine()
    wanted = {document_key(e.positives[0]) for e in EXAMPLES[:4]}
    for place, each in enumerate(EXAMPLES[:4]):
        mined = [miner.documents[row] for row in rows[place].tolist() if row >= 0]
        # few that are mined leave room for the example's own
        wanted |= {document_key(d) for d in [*mined, *each.negatives][:2]}
    assert set(keys[2]) == set(keys[3]) == wanted != own


@pytest.mark.parametrize("parts", [(3,), (4, 5)])
def test_a_training_that_mines_resumes_exactly_from_any_step(tmp_path, plain_models, parts):
    whole = run(tmp_path / "whole", plain_models["llama"], 6)
    for steps in (*parts, 6):
        last = run(tmp_path / "parts", plain_models["llama"], steps)
    texts = ["open zip file", "sort"]
    vectors = [Embedder.from_pretrained(folder).encode_query(texts) for folder in (whole, last)]
    assert (vectors[0] == vectors[1]).all()
    assert losses(whole, 6) == losses(last, 6)
    plain = run(tmp_path / "plain", plain_models["llama"], 6, of_data={"mine_every": 0})
    assert losses(plain, 2) == losses(whole, 2)  # nothing is mined before
    assert losses(plain, 6)[2:] != losses(whole, 6)[2:]


def test_a_corpus_beside_the_examples_is_mined_and_is_part_of_what_a_training_was_made_from(
    tmp_path, plain_models, caplog
):
    caplog.set_level("INFO", "o1_model")
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    corpus = {"mine_corpus": str(tmp_path / "corpus.jsonl")}
    folder = run(tmp_path / "out", plain_models["llama"], 3, of_data=corpus)
    assert "step 2: mined" in caplog.text and "among 46 documents" in caplog.text
    (tmp_path / "corpus.jsonl").rename(tmp_path / "elsewhere.jsonl")
    run(folder, plain_models["llama"], 4, of_data={"mine_corpus": str(tmp_path / "elsewhere.jsonl")})
    write_jsonl(tmp_path / "elsewhere.jsonl", CORPUS[:-1])
    with pytest.raises(InputError, match="mine_corpus_sha256"):
        run(folder, plain_models["llama"], 5, of_data={"mine_corpus": str(tmp_path / "elsewhere.jsonl")})


@pytest.mark.parametrize(
    ("of_data", "objective", "complaint"),
    [
        ({"negatives": 0}, NO_THOUGHTS, "mine_every would have no effect with negatives 0"),
        ({"mine_every": 4}, NO_THOUGHTS, "mine_every 4 would have no effect: the training has 4 steps"),
        ({}, Objective(teacher="kl"), "have no teacher_scores; leave out teacher or mine_every"),
        (
            {},
            Objective(own_thoughts=0.5, own_thoughts_every=3),
            r"a multiple of own_thoughts_every \(3\), got 2",
        ),
    ],
)
def test_a_mining_without_effect_is_refused(of_data, objective, complaint):
    data = DataArguments("none", **{"negatives": 2, "mine_every": 2, **of_data})
    with pytest.raises(InputError, match=complaint):
        check_mining(data, objective, steps=4)


def test_a_mining_after_the_last_step_of_the_epochs_is_refused_before_the_model_is_loaded(
    tmp_path, plain_models, caplog
):
    caplog.set_level("INFO", "o1_model")
    # 12 examples in batches of 4, two a step: 2 steps an epoch, the second of one batch
    epochs = {"num_train_epochs": 1.5, "gradient_accumulation_steps": 2, "save_strategy": "no"}
    with pytest.raises(InputError, match="mine_every 3 would have no effect: the training has 3 steps"):
        run(tmp_path / "out", tmp_path / "no-model", -1, of_data={"mine_every": 3}, **epochs)
    run(tmp_path / "out", plain_models["llama"], -1, **epochs)
    assert "step 2: mined" in caplog.text


def test_how_to_mine_without_mining_is_refused():
    with pytest.raises(InputError, match="mine_range_max would have no effect without mine_every"):
        DataArguments("none", mine_range_max=5)
