"""The thinking loss, and the joint loss of real models: order, padding and grouping change nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from o1_model import Embedder
from o1_model.training.data import JointCollator
from o1_model.training.gradcache import Plan, direct_step
from o1_model.training.joint import JointModel
from o1_model.training.loss import embed_loss, margin_mse, teacher_kl, think_loss
from o1_model.training.objective import Objective
from o1_records import Document, Example, Query, Source, Thought

SEEDS = st.integers(0, 2**31)
LABELS = 10
EVERYTHING = Objective(
    temperature=0.1, distil_weight=1.0, teacher="kl", false_negative_margin=0.3, matryoshka_dims=[8],
    redapter_from=0,
)  # fmt: skip


def value_and_gradient(loss_of, seed):
    """The thinking loss of random states under a random head, and the gradient of both."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(11, 6, generator=generator, dtype=torch.float64).requires_grad_()
    states = torch.randn(LABELS, 6, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(11, (LABELS,), generator=generator)
    loss = loss_of(lambda part: part @ head.T, states, labels)
    loss.backward()
    return loss.item(), torch.cat([states.grad.flatten(), head.grad.flatten()])


def written_out(logits, states, labels):
    losses = []
    for state, label in zip(states, labels.tolist(), strict=True):
        scores = logits(state[None])[0]
        losses.append(-(scores[label].exp() / sum(score.exp() for score in scores)).log())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("chunk", [1, 3, 10, 256])
@settings(max_examples=5)
@given(seed=SEEDS)
def test_think_loss_and_its_gradient_equal_the_sum_written_out(chunk, seed):
    slow, expected = value_and_gradient(written_out, seed)
    fast, gradient = value_and_gradient(lambda *args: think_loss(*args, chunk=chunk), seed)
    assert fast == pytest.approx(slow, rel=1e-9)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


@given(SEEDS, st.integers(0, LABELS), st.booleans())
def test_parts_of_the_labels_add_up_to_the_mean_of_all(seed, at, as_tensor):
    total = torch.tensor(LABELS) if as_tensor else LABELS

    def in_parts(logits, states, labels):
        return think_loss(logits, states[:at], labels[:at], total=total) + think_loss(
            logits, states[at:], labels[at:], total=total
        )

    whole, gradient = value_and_gradient(think_loss, seed)
    parts, in_two = value_and_gradient(in_parts, seed)
    assert parts == pytest.approx(whole, rel=1e-12)
    torch.testing.assert_close(in_two, gradient)


def test_logits_live_for_one_chunk_at_a_time():
    sizes = []

    def logits(states):
        sizes.append(len(states))
        return states

    states = torch.randn(10, 6, requires_grad=True)
    think_loss(logits, states, torch.zeros(10, dtype=torch.long), chunk=4).backward()
    # once forward and once more in the backward pass
    assert sorted(sizes) == [2, 2, 4, 4, 4, 4]


def test_no_labels_give_zero_and_still_a_gradient():
    states = torch.ones(0, 4, requires_grad=True)
    loss = think_loss(torch.nn.Identity(), states, torch.empty(0, dtype=torch.long), total=7)
    loss.backward()
    assert loss.item() == 0.0
    assert states.grad is not None


def test_half_precision_logits_are_summed_in_float32():
    states = torch.randn(40, 300)
    labels = torch.randint(300, (40,))
    half = think_loss(lambda part: part.bfloat16(), states, labels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(
        half, think_loss(lambda part: part.bfloat16().double(), states, labels).float()
    )


def test_a_query_without_own_negatives_or_with_equal_margins_has_no_margin_error():
    scores = torch.tensor([[0.5, 0.1]])
    rows, one = torch.tensor([[0, 1]]), torch.tensor([1])
    assert margin_mse(scores, rows, torch.tensor([[9.0, 5.0]]), one, temperature=0.1) == pytest.approx(0)
    assert margin_mse(scores, rows, torch.tensor([[9.0, 3.0]]), one, temperature=0.1).item() == pytest.approx(
        4
    )
    assert margin_mse(scores, rows[:, :1], torch.tensor([[9.0]]), one).item() == 0


def test_a_teacher_that_agrees_teaches_nothing():
    scores = torch.tensor([[0.3, 0.1, 0.2]], dtype=torch.float64)
    rows = torch.tensor([[2, 0, -1]])
    agreeing = torch.tensor([[2.0, 3.0, 0.0]], dtype=torch.float64)
    assert teacher_kl(scores, rows, agreeing, temperature=0.1).item() == pytest.approx(0, abs=1e-12)


def test_a_positive_alone_has_no_loss():
    positives = torch.tensor([[0, 1]])
    negative = torch.tensor([[False, False]])
    assert embed_loss(torch.tensor([[0.1, 0.9]]), positives, negative).tolist() == [0.0]


def _example(number, thought):
    query = Query(query_id=f"q{number}", text=" ".join(["open", "a", "zip", "file"][: 1 + number % 4]))
    written = Thought(
        query_id=query.query_id,
        thought_id="t",
        text=" ".join(["read", "bytes", "close"] * (1 + number % 3)),
        source=Source(model="m"),
    )
    documents = [
        Document(doc_id=f"d{n % 3}", text="write the list " * (1 + n % 3)) for n in (number, number + 1)
    ]
    return Example(
        query=query,
        positives=tuple(documents[:1]),
        negatives=tuple(documents[1:]),
        thought=written if thought else None,
        teacher_scores=(2.0, 1.0 + number) if number % 2 else (),
    )


def _loss(embedder, examples, chunk_tokens=4096, objective=EVERYTHING):
    model = JointModel(embedder.backbone, embedder.layout).eval()
    model.zero_grad()
    collator = JointCollator(
        tokenizer=embedder.tokenizer, layout=embedder.layout, negatives=1, chunk_tokens=chunk_tokens
    )
    batch = collator(examples)["batch"]
    plan = Plan(objective, step=0, n_labels=batch.n_labels)
    terms = direct_step(model, batch, plan, lambda loss, last: loss.backward(), torch.device("cpu"))
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in terms.items()}, gradient


@pytest.fixture(scope="module")
def embedder_once(plain_models):
    return Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)


@settings(max_examples=5)
@given(st.permutations(range(6)))
def test_the_loss_of_a_batch_equals_the_loss_of_its_permutation(embedder_once, order):
    examples = [_example(n, thought=n % 3 != 0) for n in range(6)]
    first, _ = _loss(embedder_once, examples)
    second, _ = _loss(embedder_once, [examples[n] for n in order])
    assert second == pytest.approx(first, rel=1e-4)


def test_grouping_by_length_changes_neither_loss_nor_gradient(embedder):
    examples = [_example(n, thought=n != 3) for n in range(6)]
    whole, gradient = _loss(embedder, examples)
    parts, in_parts = _loss(embedder, examples, chunk_tokens=16)
    assert parts == pytest.approx(whole, rel=1e-4)
    assert gradient.keys() == in_parts.keys()
    # of the whole gradient: some of its parts are exactly zero but for rounding (a key's bias)
    difference = torch.cat([(in_parts[name] - value).flatten() for name, value in gradient.items()])
    assert difference.norm() <= 1e-4 * torch.cat([value.flatten() for value in gradient.values()]).norm()


@pytest.mark.parametrize("count", [4, 1])
def test_a_batch_without_any_thought_is_an_ordinary_batch(embedder, count):
    plain = Objective(temperature=0.1)
    terms, gradient = _loss(embedder, [_example(n, thought=False) for n in range(count)], objective=plain)
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
