"""The terms on a step's vectors equal sums written out in float64, with their gradients."""

import math
import random
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from o1_model.training.data import digest64
from o1_model.training.objective import Objective, embed_terms
from o1_model.training.step import Judgements, StepVectors, join, negatives
from o1_records import InputError
from o1_records.mixture import mix_vectors

SEEDS = st.integers(0, 2**31)
DIM = 6
GENTLE = Objective(temperature=0.5)


@dataclass
class Asked:
    """One example of a step: its own documents by position, and what is known about it."""

    own: list[int]
    n_positives: int
    known: list[str]
    thought: bool
    teacher: list[float] | None


def unit(rows, generator):
    return torch.nn.functional.normalize(torch.randn(rows, DIM, generator=generator, dtype=torch.float64))


def problem(seed, queries=4, documents=9, thoughts=None):
    """Random vectors and examples; documents repeat, and positives of one query are negatives of others."""
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    doc_ids = [draw.choice("abcdefghij") for _ in range(documents)]
    asked = []
    for number in range(queries):
        own = list({doc_ids[i]: i for i in draw.sample(range(documents), draw.randint(1, 4))}.values())
        n_positives = draw.randint(1, len(own))
        known = [doc_ids[i] for i in own[:n_positives]] + draw.sample("xyz", draw.randint(0, 2))
        others = [c for c in "abcdefghij" if c not in {doc_ids[i] for i in own}]
        known += draw.sample(others, draw.randint(0, 1))
        thought = draw.random() < 0.7 if thoughts is None else thoughts[number]
        teacher = [draw.randint(-12, 12) / 4 for _ in own] if draw.random() < 0.6 else None
        asked.append(Asked(own, n_positives, known, thought, teacher))
    v_q = unit(queries, generator)
    rows = torch.tensor([example.thought for example in asked])[:, None]
    v_t = torch.where(rows, unit(queries, generator), v_q)
    return doc_ids, asked, StepVectors(v_q, v_t, unit(documents, generator), None)


def tensors(doc_ids, asked):
    group = max(len(example.own) for example in asked)
    most = max(len(example.known) for example in asked)
    nan = float("nan")
    return Judgements(
        document_keys=torch.tensor([digest64(doc_id) for doc_id in doc_ids]),
        rows=torch.tensor([e.own + [-1] * (group - len(e.own)) for e in asked]),
        n_positives=torch.tensor([e.n_positives for e in asked]),
        excluded_keys=torch.tensor(
            [[digest64(k) for k in e.known + e.known[:1] * (most - len(e.known))] for e in asked]
        ),
        has_thought=torch.tensor([e.thought for e in asked]),
        mixes=torch.tensor([e.thought for e in asked]),
        counts=torch.ones(len(asked), dtype=torch.bool),
        teacher=torch.tensor(
            [(e.teacher or [nan] * len(e.own)) + [nan] * (group - len(e.own)) for e in asked]
        ),
    )


def written_out(doc_ids, asked, vectors, objective, step):
    """The same terms by loops over scalars, straight from the papers' formulas."""
    dims = [*objective.matryoshka_dims, DIM]
    return sum(_of_prefix(doc_ids, asked, vectors, objective, step, dim) for dim in dims) / len(dims)


def _of_prefix(doc_ids, asked, vectors, objective, step, dim):
    def cut(vector):
        return vector if dim == DIM else vector[:dim] / vector[:dim].norm()

    def score(vector, document):
        return cut(vector) @ cut(document)

    first = {doc_id: vectors.documents[i] for i, doc_id in reversed(list(enumerate(doc_ids)))}

    def info_nce(vector, example):
        losses = []
        for position in example.own[: example.n_positives]:
            s = score(vector, first[doc_ids[position]])
            total = (s / objective.temperature).exp()
            for doc_id, document in first.items():
                other = score(vector, document)
                margin = objective.false_negative_margin
                if doc_id not in example.known and (margin is None or other <= s + margin):
                    total = total + (other / objective.temperature).exp()
            losses.append(-((s / objective.temperature).exp() / total).log())
        return sum(losses) / len(losses)

    def softmax(values):
        total = sum(v.exp() for v in values)
        return [v.exp() / total for v in values]

    def kl(wanted, given):
        return sum(p * (p.log() - q.log()) for p, q in zip(wanted, given, strict=True))

    def over_documents(vector):
        return softmax([score(vector, d) / objective.temperature for d in first.values()])

    def taught(vector, example):
        own = [score(vector, first[doc_ids[i]]) / objective.temperature for i in example.own]
        teacher = [torch.tensor(t, dtype=torch.float64) for t in example.teacher]
        if objective.teacher == "kl":
            return kl(softmax(teacher), softmax(own))
        n = example.n_positives
        errors = [
            ((own[p] - own[m]) - (teacher[p] - teacher[m])) ** 2 for p in range(n) for m in range(n, len(own))
        ]
        return sum(errors) / max(len(errors), 1)

    def both(term, v_q, v_t, m, example):
        a, b, c = objective.query_weight, objective.thought_weight, objective.mixture_weight
        if not example.thought:
            return term(v_q, example)
        return (a * term(v_q, example) + b * term(v_t, example) + c * term(m, example)) / (a + b + c)

    def mixed(v_q, u):
        m = (1 - objective.mixture_share) * cut(v_q) + objective.mixture_share * cut(u)
        return torch.cat([m / m.norm(), v_q[dim:]])

    alone = vectors.v_t if vectors.thoughts is None else vectors.thoughts
    mixtures = [mixed(q, u) for q, u in zip(vectors.v_q, alone, strict=True)]
    rows = list(zip(vectors.v_q, vectors.v_t, mixtures, asked, strict=True))
    losses = [both(info_nce, *row) for row in rows]
    if objective.redapter_from is not None and step >= objective.redapter_from:
        with torch.no_grad():
            reasoned = vectors.v_t if vectors.reasoning is None else vectors.reasoning
            ri = [
                min(max(info_nce(q, e).item() / (info_nce(r, e).item() + 1e-6), 0.0), 5.0)
                for q, r, e in zip(vectors.v_q, reasoned, asked, strict=True)
            ]
        total = sum(r / (sum(ri) or 1.0) * loss for r, loss in zip(ri, losses, strict=True))
    else:
        total = sum(losses) / len(losses)
    thinking = [row for row in rows if row[3].thought]
    if objective.distil_weight and thinking:
        which = 1 if objective.distil_from == "thought" else 2
        divergences = [
            kl([p.detach() for p in over_documents(row[which])], over_documents(row[0])) for row in thinking
        ]
        total = total + objective.distil_weight * sum(divergences) / len(divergences)
    scored = [row for row in rows if row[3].teacher is not None]
    if objective.teacher != "none" and scored:
        values = [both(taught, *row) for row in scored]
        total = total + objective.teacher_weight * sum(values) / len(values)
    return total


def value_and_gradient(function, vectors):
    """A loss of vectors and its gradient with respect to v_q, v_t and the documents, in one row."""
    parts = (vectors.v_q, vectors.v_t, vectors.documents, vectors.thoughts)
    leaves = [None if v is None else v.clone().requires_grad_() for v in parts]
    loss = function(StepVectors(*leaves[:3], vectors.reasoning, leaves[3]))
    loss.backward()
    gradients = [torch.zeros_like(v) if v.grad is None else v.grad for v in leaves if v is not None]
    return loss.item(), torch.cat([g.flatten() for g in gradients])


VARIANTS = {
    "the paper's": GENTLE,
    "v_t alone": replace(GENTLE, query_weight=0.0),
    "v_q alone": replace(GENTLE, thought_weight=0.0),
    "unequal weights": replace(GENTLE, query_weight=0.5, thought_weight=2.0),
    "distil": replace(GENTLE, distil_weight=10.0),
    "false negatives": replace(GENTLE, false_negative_margin=0.1),
    "matryoshka": replace(GENTLE, matryoshka_dims=[2, 4]),
    "teacher KL": replace(GENTLE, teacher="kl", teacher_weight=0.3),
    "margin MSE": replace(GENTLE, teacher="margin_mse", teacher_weight=0.3),
    "Redapter": replace(GENTLE, redapter_from=0),
    "Redapter, not yet": replace(GENTLE, redapter_from=8),
    "the mixture": replace(
        GENTLE, query_weight=0.0, thought_weight=0.0, mixture_weight=1.0, mixture_reading="joint"
    ),
    "the mixture beside the others": replace(GENTLE, mixture_weight=2.0, mixture_share=0.4),
    "the mixture's ranking": replace(GENTLE, distil_weight=10.0, distil_from="mixture", mixture_share=0.5),
    "all at once": replace(
        GENTLE, distil_weight=2.0, teacher="kl", false_negative_margin=0.2, matryoshka_dims=[3],
        redapter_from=7, mixture_weight=0.7, distil_from="mixture",
    ),
}  # fmt: skip


@pytest.mark.parametrize("objective", VARIANTS.values(), ids=VARIANTS)
@settings(max_examples=15)
@given(seed=SEEDS)
def test_every_term_and_its_gradient_equal_the_sums_written_out(objective, seed):
    doc_ids, asked, vectors = problem(seed)
    if objective.mixture_reading != "joint":
        rows = torch.tensor([e.thought for e in asked])[:, None]
        own = unit(4, torch.Generator().manual_seed(seed + 2))
        vectors = replace(vectors, thoughts=torch.where(rows, own, vectors.v_q))
    judgements = tensors(doc_ids, asked)
    fast, gradient = value_and_gradient(
        lambda v: embed_terms(v, judgements, objective, step=7)["embed"], vectors
    )
    slow, expected = value_and_gradient(lambda v: written_out(doc_ids, asked, v, objective, 7), vectors)
    assert fast == pytest.approx(slow, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


@settings(max_examples=10)
@given(seed=SEEDS)
def test_a_query_that_does_not_count_changes_nothing(seed):
    doc_ids, asked, vectors = problem(seed)
    judgements = tensors(doc_ids, asked)
    twice = {
        name: torch.cat([value, value[:1]]) if name != "document_keys" else value
        for name, value in vars(judgements).items()
    }
    copied = Judgements(**{**twice, "counts": torch.tensor([True] * 4 + [False])})
    objective = VARIANTS["all at once"]

    def with_a_copy(v):
        again = StepVectors(*(torch.cat([x, x[:1]]) for x in (v.v_q, v.v_t)), v.documents)
        return embed_terms(again, copied, objective, step=9)["embed"]

    plain = value_and_gradient(lambda v: embed_terms(v, judgements, objective, step=9)["embed"], vectors)
    fast, gradient = value_and_gradient(with_a_copy, vectors)
    assert fast == pytest.approx(plain[0], rel=1e-12)
    torch.testing.assert_close(gradient, plain[1], rtol=1e-12, atol=1e-14)


@settings(max_examples=6)
@given(seed=SEEDS)
def test_a_reasoning_query_of_its_own_weighs_the_examples(seed):
    doc_ids, asked, vectors = problem(seed, thoughts=[False] * 4)
    reasoning = unit(4, torch.Generator().manual_seed(seed + 1))
    vectors = replace(vectors, reasoning=reasoning.requires_grad_())
    objective, judgements = replace(GENTLE, redapter_from=0), tensors(doc_ids, asked)
    fast = embed_terms(vectors, judgements, objective, step=0)
    assert fast["embed"].item() == pytest.approx(
        written_out(doc_ids, asked, vectors, objective, 0).item(), rel=1e-9
    )
    assert not fast["embed"].requires_grad or reasoning.grad is None


@settings(max_examples=6)
@given(seed=SEEDS)
@example(seed=679)
def test_without_a_thought_every_example_that_has_a_loss_weighs_the_same(seed):
    doc_ids, asked, vectors = problem(seed, thoughts=[False] * 4)
    judgements = tensors(doc_ids, asked)
    terms = embed_terms(vectors, judgements, replace(GENTLE, redapter_from=0), step=0)
    # q' is q itself, so that intensities are equal; without a negative a loss is 0, and so is its weight
    with_a_loss = int(negatives(judgements).any(dim=1).sum())
    expected = terms["embed_q"].item() * 4 / max(with_a_loss, 1)
    assert terms["embed"].item() == pytest.approx(expected, rel=1e-4)


def test_the_mixture_is_that_of_retrieval():
    doc_ids, asked, vectors = problem(3, thoughts=[True, True, False, True])
    own = unit(4, torch.Generator().manual_seed(5))
    thoughts = [
        row[None].numpy() if e.thought else row[None].numpy()[:0] for row, e in zip(own, asked, strict=True)
    ]
    mixed = torch.from_numpy(mix_vectors(vectors.v_q.numpy(), thoughts, 0.3)).double()
    objective = Objective(temperature=0.5, mixture_weight=1.0, mixture_share=0.3)
    judgements = tensors(doc_ids, asked)
    found = embed_terms(replace(vectors, thoughts=own), judgements, objective, step=0)
    alone = embed_terms(replace(vectors, v_q=mixed), judgements, GENTLE, step=0)
    with_thoughts = [n for n, e in enumerate(asked) if e.thought]
    each = [
        embed_terms(
            StepVectors(mixed[n : n + 1], mixed[n : n + 1], vectors.documents),
            tensors(doc_ids, asked[n : n + 1]), GENTLE, step=0,
        )["embed_q"]
        for n in with_thoughts
    ]  # fmt: skip
    assert found["embed_m"].item() == pytest.approx(float(sum(each) / len(each)), rel=1e-6)
    assert alone["embed_q"].item() != pytest.approx(found["embed_q"].item())


def test_redapter_by_hand():
    # L(q) = log 2 for both (two equal scores); L(q') is 0 for the first, log 2 for the second
    e = torch.eye(3, dtype=torch.float64)
    q = torch.stack([e[2], e[2]])
    big = Objective(temperature=0.01, redapter_from=3)
    vectors = StepVectors(q, torch.stack([e[0], e[2]]), e[:2])
    judgements = tensors(["a", "b"], [Asked([0], 1, ["a"], True, None), Asked([1], 1, ["b"], False, None)])
    terms = embed_terms(vectors, judgements, big, step=3)
    log2 = math.log(2)
    assert terms["intensity_max"].item() == 5
    assert terms["intensity_clamped"].item() == 0.5
    assert terms["intensity_mean"].item() == pytest.approx((5 + log2 / (log2 + 1e-6)) / 2)
    first, second = (log2 + 0) / 2, log2
    assert terms["embed"].item() == pytest.approx((5 * first + 1 * second) / 6, rel=1e-5)
    before = embed_terms(vectors, judgements, big, step=2)
    assert before["embed"].item() == pytest.approx((first + second) / 2)
    assert "intensity_max" not in before


def halves(doc_ids, asked, vectors, at):
    """The problem as two processes see it: their queries and the documents these point at, in their order."""
    parts = []
    for examples, v_q, v_t in (
        (asked[:at], vectors.v_q[:at], vectors.v_t[:at]),
        (asked[at:], vectors.v_q[at:], vectors.v_t[at:]),
    ):
        used = sorted({i for example in examples for i in example.own})
        moved = [replace(e, own=[used.index(i) for i in e.own]) for e in examples]
        parts.append((tensors([doc_ids[i] for i in used], moved), v_q, v_t, vectors.documents[used]))
    judged, v_q, v_t, documents = zip(*parts, strict=True)
    return join(judged), StepVectors(torch.cat(v_q), torch.cat(v_t), torch.cat(documents))


@settings(max_examples=10)
@given(seed=SEEDS, at=st.integers(1, 3))
def test_two_processes_together_have_the_loss_of_one(seed, at):
    doc_ids, asked, vectors = problem(seed)
    used = sorted({i for example in asked for i in example.own})
    # a document has one vector wherever it stands, as it has in a model without dropout
    first = {doc_id: i for i, doc_id in reversed(list(enumerate(doc_ids)))}
    documents = torch.stack([vectors.documents[first[doc_id]] for doc_id in doc_ids])
    vectors = replace(vectors, documents=documents)
    one = replace(vectors, documents=documents[used])
    moved = [replace(e, own=[used.index(i) for i in e.own]) for e in asked]
    objective = VARIANTS["all at once"]
    whole = embed_terms(one, tensors([doc_ids[i] for i in used], moved), objective, step=9)
    judgements, stacked = halves(doc_ids, asked, vectors, at)
    parts = embed_terms(stacked, judgements, objective, step=9)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert parts[name].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12), name


@settings(max_examples=10)
@given(seed=SEEDS, order=st.permutations(range(4)))
def test_the_order_of_examples_and_documents_does_not_matter(seed, order):
    doc_ids, asked, vectors = problem(seed)
    doc_ids = [f"{doc_id}{i}" for i, doc_id in enumerate(doc_ids)]
    asked = [replace(e, known=[doc_ids[i] for i in e.own[: e.n_positives]]) for e in asked]
    documents = random.Random(seed).sample(range(9), 9)
    moved = [replace(asked[n], own=[documents.index(i) for i in asked[n].own]) for n in order]
    shuffled = StepVectors(vectors.v_q[order], vectors.v_t[order], vectors.documents[documents])
    objective = VARIANTS["all at once"]
    first = embed_terms(vectors, tensors(doc_ids, asked), objective, step=9)
    second = embed_terms(shuffled, tensors([doc_ids[i] for i in documents], moved), objective, step=9)
    for name, value in first.items():
        assert second[name].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12), name


def test_without_any_thought_the_step_trains_v_q_alone():
    doc_ids, asked, vectors = problem(1, thoughts=[False] * 4)
    asked = [replace(e, teacher=None) for e in asked]
    objective = replace(GENTLE, distil_weight=1.0, teacher="kl")
    terms = embed_terms(vectors, tensors(doc_ids, asked), objective, step=0)
    assert terms["embed"] == terms["embed_q"] > 0
    assert terms["embed_t"] == terms["distil"] == terms["teacher"] == 0
    nothing = embed_terms(vectors, tensors(doc_ids, asked), replace(GENTLE, query_weight=0.0), step=0)
    assert nothing["embed"] == nothing["embed_q"]


@pytest.mark.parametrize("objective", VARIANTS.values(), ids=VARIANTS)
def test_a_batch_of_one_query_and_one_document_has_a_loss_of_zero(objective):
    asked = [Asked([0], 1, ["a"], True, [1.0])]
    vectors = StepVectors(*(unit(1, torch.Generator().manual_seed(n)) for n in range(3)))
    loss, gradient = value_and_gradient(
        lambda v: embed_terms(v, tensors(["a"], asked), objective, step=9)["embed"], vectors
    )
    assert loss == pytest.approx(0.0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


def test_masked_documents_are_counted():
    e = torch.eye(3, dtype=torch.float64)
    vectors = StepVectors(e[:1], e[:1], torch.stack([e[1], e[0], e[2]]))
    judgements = tensors(["a", "b", "c"], [Asked([0], 1, ["a"], False, None)])
    terms = embed_terms(vectors, judgements, Objective(false_negative_margin=0.1), step=0)
    assert terms["false_negatives"] == 1
    assert terms["embed"].item() == pytest.approx(math.log(2))


def test_half_precision_around_the_loss_changes_nothing():
    doc_ids, asked, vectors = problem(3)
    single = StepVectors(vectors.v_q.float(), vectors.v_t.float(), vectors.documents.float())
    objective = Objective(distil_weight=1.0)
    plain = embed_terms(single, tensors(doc_ids, asked), objective, step=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = embed_terms(single, tensors(doc_ids, asked), objective, step=0)
    assert {k: v.item() for k, v in inside.items()} == {k: v.item() for k, v in plain.items()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"embed_weight": 1.5}, "embed_weight must be between 0 and 1, got 1.5"),
        ({"own_thoughts": -0.1}, "own_thoughts must be between 0 and 1, got -0.1"),
        ({"own_thoughts_every": 0}, "own_thoughts_every must be at least 1, got 0"),
        ({"redapter_from": -1}, "redapter_from must be at least 0, got -1"),
        ({"matryoshka_dims": [64, 0]}, "matryoshka_dims must be at least 1 each, got"),
        ({"query_weight": 0.0, "thought_weight": 0.0}, "all 0: no vector would"),
        (
            {"mixture_share": 0.0, "mixture_weight": 1.0},
            "mixture_share must be above 0 and at most 1, got 0.0",
        ),
        ({"mixture_share": 0.5}, "would have no effect without mixture_weight"),
        ({"mixture_reading": "joint"}, "mixture_reading would have no effect without mixture_weight"),
        ({"distil_from": "mixture"}, "distil_from would have no effect without distil_weight"),
        ({"teacher_weight": 2.0}, "teacher_weight would have no effect without teacher; give that too"),
        ({"own_thoughts_from": 5}, "own_thoughts_from would have no effect without own_thoughts"),
        ({"own_thoughts_every": 5}, "own_thoughts_every would have no effect without own_thoughts"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Objective(**settings)


def test_prefixes_longer_than_the_vectors_are_refused():
    doc_ids, asked, vectors = problem(0)
    with pytest.raises(InputError, match="matryoshka_dims must be below 6"):
        embed_terms(vectors, tensors(doc_ids, asked), Objective(matryoshka_dims=[8]), step=0)
