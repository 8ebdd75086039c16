"""Own thoughts in training batches: the model's, not cloned, refreshed in blocks, the same after a resume."""

from itertools import islice

import pytest
import torch
from msgspec import structs
from transformers import TrainingArguments

from o1_model import Embedder, Thinking
from o1_model.training.arguments import DataArguments, ModelArguments
from o1_model.training.data import JointCollator
from o1_model.training.objective import Objective
from o1_model.training.own_thoughts import OwnThoughts
from o1_model.training.train import train
from o1_records import Document, Example, InputError, Query, Source, Thought

HALF = Objective(own_thoughts=0.5, own_thoughts_every=3)
ALL = Objective(own_thoughts=1.0, own_thoughts_every=3)


def _example(number, thought=True):
    query = Query(query_id=f"q{number}", text=" ".join(["open", "a", "zip", "file"][: 1 + number % 4]))
    elected = Thought(query_id=query.query_id, thought_id="t", text="read bytes", source=Source(model="m"))
    positive = Document(doc_id=f"d{number}", text="write the list")
    return Example(query=query, positives=(positive,), thought=elected if thought else None)


def _batches(embedder, count, size=4, thought=True):
    collate = JointCollator(tokenizer=embedder.tokenizer, layout=embedder.layout)
    return [collate([_example(n * size + i, thought) for i in range(size)]) for n in range(count)]


def _rows(inputs):
    return [row.ids for each in inputs for row in each["batch"].query_rows]


def _decoded(embedder, inputs, thinking):
    asked = [query for each in inputs for query in each["batch"].asked]
    _, traces = embedder.decode(asked, thinking)
    return [trace.token_ids for (trace,) in traces]


def test_without_own_thoughts_batches_pass_as_they_are(llama):
    batches = iter(_batches(llama, 2))
    assert OwnThoughts(llama, Objective()).ahead(batches, step=0) is batches
    later = Objective(own_thoughts=1.0, own_thoughts_from=5)
    assert OwnThoughts(llama, later).ahead(batches, step=4) is batches
    assert OwnThoughts(llama, later).ahead(batches, step=5) is not batches


def test_a_chosen_example_carries_what_the_model_thinks_and_nothing_is_cloned(embedder):
    batches = _batches(embedder, 2)
    own = OwnThoughts(embedder, ALL, thinking=Thinking(max_tokens=6, temperature=0.0)).insert(batches, 0)
    thoughts = _decoded(embedder, batches, Thinking(samples=1, max_tokens=6, temperature=0.0))
    layout = embedder.layout
    for row, before, ids in zip(_rows(own), _rows(batches), thoughts, strict=True):
        prompt = before[: before.index(layout.thought) + 1]
        assert row == (*prompt, *ids, layout.eos, layout.emb)
    for inputs, before in zip(own, batches, strict=True):
        batch = inputs["batch"]
        assert batch.n_labels == 0
        assert batch.judgements.has_thought.all()
        assert sum(len(part.input_ids) for part in batch.queries) == 4
        assert batch.query_ids == before["batch"].query_ids
        assert batch.documents is before["batch"].documents


def test_two_queries_of_one_id_get_thoughts_of_their_own(llama):
    """Two data sets may call their queries 1, 2, 3."""
    queries = Query(query_id="1", text="open a zip file"), Query(query_id="1", text="sort the list of keys")
    examples = [structs.replace(_example(n), query=query, thought=None) for n, query in enumerate(queries)]
    collate = JointCollator(tokenizer=llama.tokenizer, layout=llama.layout)
    (own,) = OwnThoughts(llama, ALL).insert([collate(examples)], 0)
    for query, row in zip(queries, own["batch"].query_rows, strict=True):
        plain = llama.query_rows([query])[0].ids
        assert row.ids[: len(plain)] == plain


@pytest.mark.parametrize("reading", ["joint", "query", "document"])
def test_own_thoughts_are_mixed_in_too(llama, reading):
    objective = Objective(own_thoughts=1.0, mixture_weight=1.0, mixture_reading=reading)
    collate = JointCollator(tokenizer=llama.tokenizer, layout=llama.layout, mixture=reading)
    examples = [_example(n, thought=n > 0) for n in range(3)]
    hot = Thinking(max_tokens=6, temperature=1.0, top_p=1.0)
    (inputs,) = OwnThoughts(llama, objective, thinking=hot).insert([collate(examples)], 0)
    batch = inputs["batch"]
    assert batch.judgements.mixes.tolist() == [True] * 3
    if reading == "joint":
        assert batch.thought_order is None
        return
    read = llama.document_rows if reading == "document" else llama.query_rows
    rows = {
        ids[mask.bool()].tolist().__str__()
        for part in batch.thoughts
        for ids, mask in zip(part.input_ids, part.mask, strict=True)
    }
    assert rows == {str(list(row.ids)) for row in read(batch.texts)}
    assert "read bytes" not in batch.texts


def test_v_t_of_an_own_thought_is_what_thinking_would_read(embedder):
    """Training sees the vector that search will use: the row encoded whole equals the live cache's."""
    batches = _batches(embedder, 1)
    thinking = Thinking(samples=1, max_tokens=6, temperature=0.0)
    (own,) = OwnThoughts(embedder, ALL, thinking=thinking).insert(batches, 0)
    _, traces = embedder.decode(own["batch"].asked, thinking)
    encoded = torch.from_numpy(embedder.read(own["batch"].query_rows))
    live = torch.stack([trace.vector for (trace,) in traces])
    torch.testing.assert_close(encoded, live, rtol=1e-4, atol=1e-5)


def test_about_the_share_of_examples_is_chosen_and_the_others_stay(llama):
    batches = _batches(llama, 20, size=10)
    own = OwnThoughts(llama, HALF, thinking=Thinking(max_tokens=4)).insert(batches, 0)
    untouched = sum(a == b for a, b in zip(_rows(own), _rows(batches), strict=True))
    assert 70 <= untouched <= 130
    # the elected thoughts that stay are learnt: two tokens and EOS
    assert sum(inputs["batch"].n_labels for inputs in own) == 3 * untouched


def test_examples_without_an_elected_thought_can_carry_an_own_one(llama):
    batches = _batches(llama, 1, thought=False)
    (own,) = OwnThoughts(llama, ALL, thinking=Thinking(max_tokens=4)).insert(batches, 0)
    assert not batches[0]["batch"].judgements.has_thought.any()
    assert own["batch"].judgements.has_thought.all()


def test_thoughts_belong_to_query_and_step_not_to_the_batch_they_stand_in(llama):
    batches = _batches(llama, 2, size=6)
    hot = Thinking(max_tokens=6, temperature=1.0, top_p=1.0)

    def rows(step, inputs):
        return _rows(OwnThoughts(llama, HALF, thinking=hot).insert(inputs, step))

    assert rows(3, batches) == rows(3, batches) == rows(3, batches[:1]) + rows(3, batches[1:])
    assert rows(3, batches) != rows(6, batches)
    seeded = OwnThoughts(llama, HALF, thinking=hot, seed=1).insert(batches, 3)
    assert _rows(seeded) != rows(3, batches)


def test_blocks_end_at_multiples_and_hold_the_thoughts_of_their_first_step(llama):
    batches = _batches(llama, 10, size=2)
    hot = Thinking(max_tokens=6, temperature=1.0, top_p=1.0)
    own, source = OwnThoughts(llama, ALL, thinking=hot), iter(batches)
    handed = []
    for step in range(1, 6):
        handed += islice(own.ahead(source, step=step, accumulation=2), 2)
    # steps 1 and 2 together, then 3, 4 and 5; two batches a step
    fresh = OwnThoughts(llama, ALL, thinking=hot)
    assert _rows(handed) == _rows([*fresh.insert(batches[:4], 1), *fresh.insert(batches[4:], 3)])
    assert next(own.ahead(source, step=6), None) is None


def test_an_epoch_that_was_left_early_leaves_nothing_behind(llama):
    own = OwnThoughts(llama, ALL, thinking=Thinking(max_tokens=4))
    next(own.ahead(iter(_batches(llama, 3)), step=0))
    other = _batches(llama, 3, size=2)
    assert len(next(own.ahead(iter(other), step=1))["batch"].asked) == 2


@pytest.mark.parametrize("training", [True, False])
def test_thinking_leaves_the_model_in_its_mode_and_global_randomness_alone(llama, training):
    llama.backbone.train(training)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    OwnThoughts(llama, ALL, thinking=Thinking(max_tokens=4)).insert(_batches(llama, 1), 0)
    assert llama.backbone.training is training
    assert torch.equal(before, torch.get_rng_state())


def test_a_layout_without_a_thought_inside_is_refused(plain_models):
    embedder = Embedder.from_backbone(plain_models["llama"], name="instruct")
    OwnThoughts(embedder, Objective())
    with pytest.raises(InputError, match="'instruct' has no place for a thought; set own_thoughts to 0"):
        OwnThoughts(embedder, HALF)


def test_an_interrupted_training_thinks_the_same_thoughts(tmp_path, plain_models):
    """Refreshes every 2 steps, saves every 4: resumed in the middle of an epoch of 6, two datasets."""

    def run(folder, steps):
        return train(
            ModelArguments(str(plain_models["llama"]), query_length=12, thought_length=6),
            DataArguments("none", negatives=0, same_dataset=True),
            TrainingArguments(
                output_dir=str(tmp_path / folder),
                max_steps=steps,
                per_device_train_batch_size=4,
                learning_rate=1e-2,
                lr_scheduler_type="constant",
                save_steps=4,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
            ),
            objective=Objective(own_thoughts=0.5, own_thoughts_every=2, temperature=0.1),
            examples=[structs.replace(_example(n), dataset="ab"[n % 2]) for n in range(24)],
        )

    whole = run("whole", 8)
    run("parts", 4)
    parts = run("parts", 8)
    first, second = (Embedder.from_pretrained(folder).backbone.state_dict() for folder in (whole, parts))
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
