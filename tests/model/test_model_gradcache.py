"""The step in two passes gives the numbers of the step in one: whatever trains, with dropout or without."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from o1_model import Embedder
from o1_model.checkpoint.lora import Lora, add_lora
from o1_model.training import joint
from o1_model.training.data import JointCollator
from o1_model.training.gradcache import Plan, RandomState, cached_step, direct_step
from o1_model.training.joint import JointModel, head_loss, parts_of
from o1_model.training.objective import Objective
from o1_records import Document, Example, Query, Source, Thought
from o1_records.kit import onednn
from o1_records.kit.onednn import fast_linear

WORDS = [
    *("open", "zip", "file", "sort", "list", "keys", "read"),
    *("text", "bytes", "close", "the", "file", "write", "a"),
]
CPU = torch.device("cpu")


def example(number, *, thought=True, negatives=2):
    """Queries, thoughts and documents of different lengths; neighbours share a document."""
    words = WORDS[number % 5 :]
    query = Query(query_id=f"q{number}", text=" ".join(words[: 2 + number % 4]))
    written = Thought(
        query_id=query.query_id,
        thought_id="t",
        text=" ".join(words[: 1 + number % 5]),
        source=Source(model="m"),
    )
    documents = [
        Document(doc_id=f"d{n}", text=" ".join((WORDS[n % 7 :] * 2)[: 3 + 3 * (n % 4)]))
        for n in range(number, number + 1 + negatives)
    ]
    return Example(
        query=query,
        positives=tuple(documents[:1]),
        negatives=tuple(documents[1:]),
        thought=written if thought else None,
        reasoning_query=" ".join(words),
    )


EXAMPLES = [example(number, thought=number != 2) for number in range(6)]


def step_of(embedder, step, *, objective=None, examples=EXAMPLES, chunk_tokens=40, bf16=False, **plan):
    """Terms and gradient of one step from the same seed."""
    aligns = objective is not None and objective.align_weight > 0
    model = JointModel(embedder.backbone, embedder.layout, aligns=aligns).train()
    model.zero_grad()
    redapter = objective is not None and objective.redapter_from is not None
    collator = JointCollator(
        tokenizer=embedder.tokenizer,
        layout=embedder.layout,
        negatives=2,
        chunk_tokens=chunk_tokens,
        reasoning_queries=redapter and not embedder.layout.thinks,
        mixture=objective.mixture.reading if objective is not None and objective.mixture else None,
    )
    batch = collator(examples)["batch"]
    settled = Plan(objective or Objective(temperature=0.1), step=0, n_labels=batch.n_labels, **plan)
    torch.manual_seed(7)
    encoder = model
    if bf16:

        def encoder(*arguments):
            with torch.autocast("cpu", torch.bfloat16):
                return tuple(value.float() for value in model(*arguments))

    terms = step(encoder, batch, settled, lambda loss, last: loss.backward(), CPU)
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(value) for name, value in terms.items()}, gradient, float(torch.rand(()))


def relative_error(first, second):
    assert first.keys() == second.keys()
    difference, size = (
        torch.cat([tensor.flatten() for tensor in tensors])
        for tensors in ([first[name] - second[name] for name in first], list(first.values()))
    )
    assert size.norm() > 0
    return float(difference.norm() / size.norm())


def both(embedder, tolerance=1e-5, **settings):
    direct, gradient, drawn = step_of(embedder, direct_step, **settings)
    cached, in_two, then = step_of(embedder, cached_step, **settings)
    assert cached == pytest.approx(direct, rel=tolerance, abs=1e-7)
    assert relative_error(gradient, in_two) <= tolerance
    # what is drawn after the step is the same too, so that the next step drops the same
    assert drawn == then
    return gradient


@pytest.mark.parametrize("reading", ["joint", "query", "document"])
def test_the_mixture_is_trained_in_two_passes_as_in_one(embedder, reading):
    objective = Objective(
        temperature=0.1, mixture_weight=1.0, mixture_share=0.4, mixture_reading=reading, query_weight=0.0,
        distil_weight=2.0, distil_from="mixture",
    )  # fmt: skip
    both(embedder, objective=objective)


def dropping(embedder, rate=0.2):
    for module in embedder.backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
    if hasattr(embedder.backbone.config, "attention_dropout"):
        for module in embedder.backbone.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = rate
    return embedder


def test_two_passes_give_the_gradient_of_one(embedder):
    both(embedder)


def test_two_passes_give_the_gradient_of_one_with_dropout(embedder):
    without = both(embedder)
    with_dropout = both(dropping(embedder))
    assert relative_error(without, with_dropout) > 0.01


def test_two_passes_give_the_gradient_of_one_under_lora_dropout_and_checkpointing(llama):
    add_lora(llama.backbone, Lora(rank=4, alpha=8, dropout=0.2))
    with torch.no_grad():
        for name, parameter in llama.backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    kept = both(llama)
    JointModel(llama.backbone, llama.layout).activation_checkpointing_enable()
    again = both(llama)
    assert relative_error(kept, again) <= 1e-5
    adapters = [name for name in kept if "lora_" in name]
    assert len(adapters) == 2 * 7 * 2  # A and B of seven projections in two layers
    assert all(again[name].abs().sum() > 0 for name in adapters)
    assert set(kept) == {"backbone.control_rows", *adapters}


def test_two_passes_give_the_gradient_of_one_under_bf16(llama):
    # bf16 rounds to 3 digits, both times in the same way
    both(dropping(llama), tolerance=1e-5, bf16=True)


@pytest.mark.parametrize(
    "objective",
    [
        Objective(temperature=0.1, redapter_from=0),
        Objective(temperature=0.1, distil_weight=1.0, false_negative_margin=0.1, matryoshka_dims=[8]),
        Objective(temperature=0.1, embed_weight=1.0, thought_weight=0.0),
    ],
    ids=["redapter", "distil", "v_q alone"],
)
def test_every_term_goes_through_two_passes(llama, objective):
    both(llama, objective=objective)


@pytest.mark.parametrize("settings", [{}, {"readout": "mean", "attention": "prefix"}])
def test_latent_steps_go_through_two_passes(plain_models, settings):
    embedder = Embedder.from_backbone(
        plain_models["bert"], query_length=12, thought_length=12, latent_steps=3, **settings
    )
    objective = Objective(temperature=0.1, distil_weight=2.0, align_weight=1.0, matryoshka_dims=[8])
    both(dropping(embedder), objective=objective)


def test_reasoning_queries_are_encoded_without_a_gradient(plain_models):
    embedder = Embedder.from_backbone(plain_models["llama"], name="instruct", query_length=12)
    assert not embedder.layout.thinks
    weighted = both(embedder, objective=Objective(temperature=0.1, redapter_from=0))
    plain = both(embedder)
    assert relative_error(plain, weighted) > 0.01


def test_a_batch_without_any_thought_is_an_ordinary_batch(llama):
    both(llama, examples=[example(number, thought=False) for number in range(4)])


def test_accumulated_batches_add_up_to_the_mean_of_their_contrastive_terms(llama):
    halves = [EXAMPLES[:3], EXAMPLES[3:]]
    labels = sum(step_labels(llama, half) for half in halves)
    terms, parts = [], []
    for half in halves:
        model = JointModel(llama.backbone, llama.layout)
        model.zero_grad()
        batch = JointCollator(tokenizer=llama.tokenizer, layout=llama.layout, negatives=2)(half)["batch"]
        plan = Plan(Objective(), step=0, n_labels=labels, batches=2)
        terms.append(cached_step(model, batch, plan, lambda loss, last: loss.backward(), CPU))
        parts.append(batch)
    loss = sum(float(term["loss"]) for term in terms)
    embed = sum(float(term["embed"]) for term in terms) / 2
    # the think term is a mean over the tokens of both halves, not a mean of two means
    think = sum(float(term["think"]) for term in terms) / 2
    assert loss == pytest.approx(0.8 * embed + 0.2 * think, rel=1e-5)
    whole, _, _ = step_of(llama, direct_step, objective=Objective())
    assert think == pytest.approx(whole["think"], rel=1e-5)


def step_labels(embedder, examples):
    return JointCollator(tokenizer=embedder.tokenizer, layout=embedder.layout)(examples)["batch"].n_labels


def note(told, _, last):
    told.append(last)


def test_backward_is_called_once_a_part_and_told_which_is_the_last(llama):
    batch = JointCollator(tokenizer=llama.tokenizer, layout=llama.layout, negatives=2, chunk_tokens=40)(
        EXAMPLES
    )["batch"]
    assert len(parts_of(batch)) > 4
    model = JointModel(llama.backbone, llama.layout)
    for step, calls in ((direct_step, 1), (cached_step, len(parts_of(batch)))):
        told: list[bool] = []
        step(model, batch, Plan(Objective(), 0, batch.n_labels), partial(note, told), CPU)
        assert told == [False] * (calls - 1) + [True]


def test_only_one_part_holds_a_graph_at_a_time(llama):
    """The second pass frees each part's activations before the next: what bounds the memory."""
    alive = []

    class Watched(JointModel):
        def forward(self, part, denominator=None):
            outputs = super().forward(part, denominator)
            if outputs[0].requires_grad:
                alive.append(part)
                assert len(alive) == 1
            return outputs

    def backward(loss, last):
        loss.backward()
        alive.pop()

    batch = JointCollator(tokenizer=llama.tokenizer, layout=llama.layout, chunk_tokens=30)(EXAMPLES)["batch"]
    model = Watched(llama.backbone, llama.layout)
    cached_step(model, batch, Plan(Objective(), 0, batch.n_labels), backward, CPU)
    assert alive == []


def test_random_numbers_are_replayed_and_then_forgotten():
    torch.manual_seed(3)
    state = RandomState(CPU)
    first = torch.rand(4)
    with state.replayed():
        assert torch.equal(torch.rand(4), first)
    after = torch.rand(4)
    torch.manual_seed(3)
    torch.rand(4)
    assert torch.equal(torch.rand(4), after)


def test_a_frozen_head_gives_the_same_loss_and_gradient_with_logits_once(embedder):
    backbone = embedder.backbone
    torch.manual_seed(5)
    labels = torch.randint(20, (600,))
    found = []
    for trains in (True, False):
        backbone.head.requires_grad_(trains)
        states = torch.linspace(-1, 1, 600 * embedder.dim).reshape(600, -1).sin().requires_grad_()
        loss = head_loss(backbone, states, labels, 7)
        (3 * loss).backward()
        found.append((loss.detach(), states.grad))
    names = ("loss", "gradient")
    assert relative_error(*(dict(zip(names, values, strict=True)) for values in found)) <= 1e-5
    sizes = []
    hook = backbone.head.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    head_loss(backbone, states, labels, 7).backward()
    if not isinstance(backbone.head, torch.nn.Sequential):
        assert sizes == [256, 256, 88]
    hook.remove()


@pytest.mark.parametrize("step", [direct_step, cached_step])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_fast_linear_layers_give_the_gradient_of_plain_ones(plain_models, monkeypatch, step, again):
    """Also where a checkpoint computes layers again in the backward pass."""
    found = []
    for way in (fast_linear, nullcontext):
        monkeypatch.setattr(joint, "fast_linear", way)
        monkeypatch.setattr(onednn, "fast_linear", way)
        torch.manual_seed(0)
        embedder = Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)
        add_lora(embedder.backbone, Lora(rank=4, alpha=8, dropout=0.2))
        if again:
            JointModel(embedder.backbone, embedder.layout).activation_checkpointing_enable()
        terms, gradient, _ = step_of(embedder, step)
        found.append((terms, gradient))
    (terms, gradient), (expected, plain) = found
    assert terms == pytest.approx(expected, rel=1e-5)
    assert relative_error(plain, gradient) <= 1e-5
    exactly = all(torch.equal(gradient[name], plain[name]) for name in plain)
    assert exactly != (torch.backends.cpu.get_cpu_capability() == "AVX512")
