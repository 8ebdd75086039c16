"""Every term equals a slow, obvious computation; order, padding and grouping change nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_model.data import JointCollator
from o1_model.joint import JointModel
from o1_model.loss import embed_loss, other_positives, think_loss
from o1_model.objective import Objective
from o1_model.pooling import at_position, last_token, mean_up_to
from o1_records import Document, Example, Query, Source, Thought

SEEDS = st.integers(0, 2**31)


def slow_info_nce(queries, documents, target, temperature, ignore):
    losses = []
    for q, (vector, positive) in enumerate(zip(queries, target, strict=True)):
        scores = [sum(a * b for a, b in zip(vector, d, strict=True)) / temperature for d in documents]
        total = sum(math.exp(s) for j, s in enumerate(scores) if not ignore[q][j])
        losses.append(-math.log(math.exp(scores[positive]) / total))
    return sum(losses) / len(losses)


@given(SEEDS)
def test_embed_loss_equals_the_sum_written_out(seed):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.nn.functional.normalize(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    documents = torch.nn.functional.normalize(torch.randn(5, 4, generator=generator, dtype=torch.float64))
    target = torch.tensor([0, 4, 2])
    ignore = torch.rand(3, 5, generator=generator) < 0.3
    ignore[torch.arange(3), target] = False
    ours = embed_loss(queries, documents, target, temperature=0.1, ignore=ignore)
    slow = slow_info_nce(queries.tolist(), documents.tolist(), target.tolist(), 0.1, ignore.tolist())
    assert ours.item() == pytest.approx(slow, rel=1e-5)


def test_think_loss_in_chunks_equals_all_logits_at_once_with_its_gradient():
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11, dtype=torch.float64)
    labels = torch.randint(11, (10,))
    results = []
    for chunk in (3, 1024):
        states = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(10, 6).requires_grad_()
        head.zero_grad()
        loss = think_loss(head, states, labels, chunk=chunk)
        loss.backward()
        results.append((loss.detach(), states.grad, head.weight.grad.clone()))
    whole = torch.nn.functional.cross_entropy(head(states).float(), labels)
    assert results[0][0].item() == pytest.approx(whole.item(), rel=1e-6)
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)


def test_no_rows_and_no_labels_give_zero_and_still_a_gradient():
    documents = torch.ones(2, 4, requires_grad=True)
    loss = embed_loss(torch.empty(0, 4), documents, torch.empty(0, dtype=torch.long))
    loss = loss + think_loss(torch.nn.Identity(), documents[:0], torch.empty(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert documents.grad.abs().sum() == 0


def test_a_querys_other_positives_are_no_negatives_of_it():
    ignore = other_positives([frozenset("ab"), frozenset("c")], ["a", "b", "c"], [0, 2])
    assert ignore.tolist() == [[False, True, False], [False, False, False]]


@given(SEEDS, st.booleans())
def test_read_outs_ignore_padding_and_its_side(seed, left):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (4,), generator=generator)
    rows = [torch.randn(int(n), 3, generator=generator, dtype=torch.float64) for n in lengths]
    hidden = torch.full((4, 9, 3), 1e9, dtype=torch.float64)
    mask = torch.zeros(4, 9, dtype=torch.long)
    for number, row in enumerate(rows):
        start = 9 - len(row) if left else 0
        hidden[number, start : start + len(row)] = row
        mask[number, start : start + len(row)] = 1
    position = lengths // 2
    for number, row in enumerate(rows):
        p = int(position[number])
        torch.testing.assert_close(mean_up_to(hidden, mask, position)[number], row[: p + 1].mean(dim=0))
        torch.testing.assert_close(at_position(hidden, mask, position)[number], row[p])
        torch.testing.assert_close(last_token(hidden, mask)[number], row[-1])


def _example(number, thought):
    query = Query(query_id=f"q{number}", text=" ".join(["open", "a", "zip", "file"][: 1 + number % 4]))
    written = Thought(
        query_id=query.query_id,
        thought_id="t",
        text=" ".join(["read", "bytes", "close"] * (1 + number % 3)),
        source=Source(model="m"),
    )
    positive = Document(doc_id=f"d{number % 3}", text="write the list " * (1 + number % 3))
    return Example(query=query, positives=(positive,), thought=written if thought else None)


def _loss(embedder, examples, chunk_tokens=4096):
    model = JointModel(embedder.backbone, embedder.layout, Objective())
    model.zero_grad()
    collator = JointCollator(tokenizer=embedder.tokenizer, layout=embedder.layout, chunk_tokens=chunk_tokens)
    terms = model(collator(examples)["batch"])
    terms["loss"].backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in terms.items()}, gradient


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(6)))
def test_the_loss_of_a_batch_equals_the_loss_of_its_permutation(embedder_once, order):
    examples = [_example(n, thought=n % 2 == 0) for n in range(6)]
    first, _ = _loss(embedder_once, examples)
    second, _ = _loss(embedder_once, [examples[n] for n in order])
    assert second == pytest.approx(first, rel=1e-5)


@pytest.fixture(scope="module")
def embedder_once(plain_models):
    from o1_model import Embedder

    return Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)


def test_grouping_by_length_changes_neither_loss_nor_gradient(embedder):
    examples = [_example(n, thought=n != 3) for n in range(6)]
    whole, gradient = _loss(embedder, examples)
    parts, in_parts = _loss(embedder, examples, chunk_tokens=24)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert gradient.keys() == in_parts.keys()
    # of the whole gradient: some of its parts are exactly zero but for rounding (a key's bias)
    difference = torch.cat([(in_parts[name] - value).flatten() for name, value in gradient.items()])
    assert difference.norm() <= 1e-5 * torch.cat([value.flatten() for value in gradient.values()]).norm()


def test_a_batch_without_any_thought_is_an_ordinary_batch(embedder):
    terms, gradient = _loss(embedder, [_example(n, thought=False) for n in range(4)])
    assert terms["loss"] == pytest.approx(0.8 * terms["embed_q"], rel=1e-6)
    assert terms["think"] == terms["embed_t"] == 0.0
    assert all(torch.isfinite(value).all() for value in gradient.values())


def test_control_rows_learn_and_every_weight_gets_a_gradient(embedder):
    _, gradient = _loss(embedder, [_example(n, thought=True) for n in range(4)])
    rows = gradient["backbone.control_rows"]
    assert (rows.abs().sum(dim=1) > 0).all()
    missing = {name for name, p in embedder.backbone.named_parameters() if p.requires_grad} - {
        name.removeprefix("backbone.") for name in gradient
    }
    # BERT's pooler is not part of a causal model
    assert {name for name in missing if "pooler" not in name} == set()
