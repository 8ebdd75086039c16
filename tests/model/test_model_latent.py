"""Latent steps: a slow loop without a cache is their definition, for vectors, gradients and every padding."""

import asyncio
import copy

import numpy as np
import pytest
import torch
import transformers as hf
from torch.nn import functional as F
from transformers import DynamicCache, TrainingArguments

from helpers.tiny import save_model, word_tokenizer
from o1_model import Embedder, Thinking
from o1_model.average import average
from o1_model.backbone import Backbone, embedding_matrix, grow_vocabulary
from o1_model.batch import collate
from o1_model.checkpoint.fit import fit
from o1_model.encoding.encode import Reader, latent_states
from o1_model.layout import document_row, load_layout, new_layout, query_row
from o1_model.serving.answers import AsyncEmbedder
from o1_model.training.arguments import DataArguments, ModelArguments
from o1_model.training.data import JointCollator
from o1_model.training.gradcache import Plan, direct_step
from o1_model.training.joint import JointModel
from o1_model.training.objective import Objective
from o1_model.training.train import train
from o1_model.verify import in_o1, in_sentence_transformers, verify
from o1_records import Document, Example, InputError, Query, Source, Thought

STEPS = 3
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "initializer_range": 0.2, "max_position_embeddings": 64,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
# models that scale embeddings inside and outside, logits, both, or neither
CONFIGS = {
    "llama": hf.LlamaConfig(vocab_size=40, **SIZES, tie_word_embeddings=True),
    "gemma2": hf.Gemma2Config(vocab_size=40, **SIZES, **GROUPED),
    "gemma3": hf.Gemma3TextConfig(vocab_size=40, **SIZES, **GROUPED),
    "granite": hf.GraniteConfig(
        vocab_size=40, **SIZES, num_key_value_heads=2, logits_scaling=8.0, embedding_multiplier=12.0
    ),
    "bert": hf.BertConfig(
        vocab_size=40, **SIZES, is_decoder=True, hidden_dropout_prob=0, attention_probs_dropout_prob=0
    ),
}
LAYOUTS = {
    "o1": {},
    "mean-prefix": {"readout": "mean", "attention": "prefix"},
    "instruct": {"name": "instruct"},
}


def made(kind, **settings):
    """A backbone with control tokens, after the check, and its layout."""
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    lm = hf.AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind])).eval()
    lengths = {"query_length": 12, "thought_length": 12, "document_length": 12, "latent_steps": STEPS}
    layout = new_layout(tokenizer, **{**lengths, **settings})
    grow_vocabulary(lm, tokenizer)
    backbone = Backbone(lm, layout.control_ids)
    fit(backbone, layout, "mine")
    return backbone.eval(), layout


def slow_steps(lm, layout, row):
    """The states of the steps of one row: the whole of it again at every step, by the model's own code."""
    length = row.first + 1
    embedded = lm.get_input_embeddings()(torch.tensor([row.ids[:length]]))
    scale = getattr(lm.get_input_embeddings(), "scalar_embed_scale", 1.0)
    found = []
    for _ in range(layout.latent_steps):
        count = embedded.shape[1]
        sees = torch.ones(count, count).tril().bool()
        if layout.attention == "prefix":
            sees[:length, :length] = True
        mask = torch.zeros(count, count, dtype=embedded.dtype).masked_fill(~sees, -1e30)[None, None]
        out = lm(inputs_embeds=embedded, attention_mask=mask, output_hidden_states=True, use_cache=False)
        states, logits = out.hidden_states[-1][0], out.logits[0, -1].clone()
        found.append(states.mean(dim=0) if layout.readout == "mean" and not found else states[-1])
        ordinary = [token for token in range(len(logits)) if token not in layout.control_ids]
        soft = (logits[ordinary].softmax(dim=0) @ embedding_matrix(lm)[ordinary]) * scale
        embedded = torch.cat([embedded, soft[None, None]], dim=1)
    return torch.stack(found)


def rows_of(layout):
    texts = [[4 + (3 * n) % 20 for n in range(length)] for length in (0, 1, 3, 7, 12)]
    return [query_row(layout, text) for text in texts] + [document_row(layout, text) for text in texts]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, "o1") for kind in CONFIGS),
        ("bert", "mean-prefix"),
        ("llama", "mean-prefix"),
        ("llama", "instruct"),
    ],
)
@torch.no_grad()
def test_vectors_are_those_of_a_slow_loop_whatever_the_batch_and_the_padding(kind, settings):
    backbone, layout = made(kind, **LAYOUTS[settings])
    rows = rows_of(layout)
    steps = torch.stack([slow_steps(backbone.lm, layout, row) for row in rows])
    expected = F.normalize(steps.mean(dim=1), dim=-1).numpy()
    plain = Reader(backbone, new_layout(word_tokenizer(), **{**LAYOUTS[settings], "latent_steps": 0}), 0)
    thought = [query_row(layout, [5, 6], [7, 8, 9])] if layout.thinks else []
    for tokens in (1, 40, 10_000):
        reader = Reader(backbone, layout, 0, tokens)
        vectors = reader.read([*rows, *thought])
        assert (vectors[: len(rows)] * expected).sum(axis=1).min() >= 1 - 1e-6
        # a thought in the row is read as it was, and steps are not
        np.testing.assert_allclose(vectors[len(rows) :], plain.read(thought), atol=1e-6)
        distinct = {row.ids: row for row in [*rows, *thought]}
        aside = len({row.ids for row in rows}) * (STEPS - 1)
        assert reader.tokens_read == sum(map(len, distinct)) + aside
    for left in (False, True):
        batch, cache = collate([*rows, *thought], 0, left=left), DynamicCache()
        states = latent_states(backbone, layout, batch, backbone.encode(batch, layout, cache), cache)
        torch.testing.assert_close(states[: len(rows)], steps, atol=2e-5, rtol=1e-4)


def example(number):
    words = ("open", "zip", "file", "sort", "list", "keys", "read", "text")[number:]
    query = Query(query_id=f"q{number}", text=" ".join(words[: 1 + number % 3]))
    thought = Thought(
        query_id=query.query_id, thought_id="t", text=" ".join(words[: 5 - number]), source=Source(model="m")
    )
    documents = tuple(Document(doc_id=f"d{n}", text=" ".join(words[n : n + 3 + n])) for n in range(2))
    return Example(
        query=query,
        positives=documents[:1],
        negatives=documents[1:],
        thought=thought if number != 1 else None,
    )


EXAMPLES = [example(number) for number in range(4)]


@pytest.mark.parametrize("settings", ["o1", "mean-prefix"])
def test_terms_and_gradient_are_those_of_a_slow_loop(settings):
    """In float64, with both terms that make latent steps learn from thoughts."""
    backbone, layout = made("bert" if settings == "mean-prefix" else "llama", **LAYOUTS[settings])
    backbone.double()
    tokenizer = word_tokenizer()
    new_layout(tokenizer)
    objective = Objective(temperature=0.2, embed_weight=1.0, distil_weight=3.0, align_weight=2.0)
    batch = JointCollator(tokenizer=tokenizer, layout=layout, negatives=1, chunk_tokens=60)(EXAMPLES)["batch"]
    model = JointModel(backbone, layout, aligns=True)
    found = direct_step(
        model, batch, Plan(objective, 0, batch.n_labels), lambda loss, last: loss.backward(),
        torch.device("cpu"),
    )  # fmt: skip
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    def unit(state):
        return F.normalize(state, dim=-1)

    kept = {d.full_text: d for own in EXAMPLES for d in (*own.positives, *own.negatives)}
    ids = {
        text: document_row(layout, tokenizer(text, add_special_tokens=False)["input_ids"]) for text in kept
    }
    vectors = {text: unit(slow_steps(backbone.lm, layout, row).mean(dim=0)) for text, row in ids.items()}
    documents = torch.stack([vectors[text] for text in kept])
    places = {text: place for place, text in enumerate(kept)}

    def kl(own, other):
        given, wanted = ((documents @ each / 0.2).log_softmax(0) for each in (own, other))
        return F.kl_div(given, wanted.detach(), log_target=True, reduction="sum")

    losses, distils, aligns = [], [], []
    for own, row in zip(EXAMPLES, batch.query_rows, strict=True):
        steps = slow_steps(backbone.lm, layout, row)
        v_q, right = unit(steps.mean(dim=0)), places[own.positives[0].full_text]
        target = torch.tensor(right)
        losses.append(F.cross_entropy(documents @ v_q / 0.2, target))
        if own.thought is None:
            continue
        whole = collate([row], 0)
        states = backbone.encode(whole, layout)[0]
        v_t = unit(states[: row.last + 1].mean(dim=0) if layout.readout == "mean" else states[row.last])
        losses[-1] = (losses[-1] + F.cross_entropy(documents @ v_t / 0.2, target)) / 2
        distils.append(kl(v_q, v_t))
        tokens = row.last - row.first - 3
        assert tokens == len(own.thought.text.split())
        so_far = [row.first + 1 + step * tokens // STEPS for step in range(1, STEPS + 1)]
        assert row.ids[so_far[-1] + 1] == layout.eos
        pairs = zip(steps, so_far, strict=True)
        aligns.append(torch.stack([kl(unit(step), unit(states[far])) for step, far in pairs]).mean())
    terms = [torch.stack(each).mean() for each in (losses, distils, aligns)]
    (terms[0] + 3 * terms[1] + 2 * terms[2]).backward()
    assert float(found["distil"]) == pytest.approx(float(terms[1].detach()), rel=1e-6)
    assert float(found["align"]) == pytest.approx(float(terms[2].detach()), rel=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradient[name], parameter.grad, atol=1e-6, rtol=1e-5, msg=name)
    assert gradient["backbone.control_rows"].abs().sum() > 0


def trained(folder, model, steps, **of_model):
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2, learning_rate=3e-3,
        lr_scheduler_type="constant", save_steps=2, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    return train(
        ModelArguments(str(model), query_length=12, thought_length=12, latent_steps=STEPS, **of_model),
        DataArguments("examples"),
        arguments,
        objective=Objective(distil_weight=5.0, align_weight=0.05),
        examples=EXAMPLES,
    )


@pytest.mark.parametrize("of_model", [{}, {"lora_rank": 4}])
def test_a_trained_checkpoint_takes_its_steps_wherever_it_embeds(tmp_path, plain_models, of_model):
    whole = trained(tmp_path / "whole", plain_models["llama"], 4, **of_model)
    trained(tmp_path / "parts", plain_models["llama"], 2, **of_model)
    parts = trained(tmp_path / "parts", plain_models["llama"], 4, **of_model)
    texts = ["open zip file", "sort", ""]
    model = Embedder.from_pretrained(whole)
    vectors = model.encode_query(texts)
    # a training in two runs is that of one
    assert (Embedder.from_pretrained(parts).encode_query(texts) == vectors).all()
    assert load_layout(whole).latent_steps == STEPS
    assert "3 latent steps" in model.fingerprint().layout
    bare = Embedder.from_pretrained(whole, latent_steps=0)
    assert (bare.encode_query(texts) * vectors).sum(axis=1).max() < 1 - 1e-4
    assert bare.digest != model.digest
    # thinking gives v_q with the steps, and v_t without
    v_q, traces = model.decode(texts, Thinking(samples=1, max_tokens=4))
    np.testing.assert_allclose(v_q, vectors, atol=1e-6)
    np.testing.assert_allclose(
        [own[0].vector.numpy() for own in traces],
        [own[0].vector.numpy() for own in bare.decode(texts, Thinking(samples=1, max_tokens=4))[1]],
        atol=1e-6,
    )

    async def served():
        async with AsyncEmbedder(model) as shared:
            return await shared.encode_query(texts), await shared.encode_document(texts)

    for answer, own in zip(asyncio.run(served()), (vectors, model.encode_document(texts)), strict=True):
        np.testing.assert_allclose(answer, own, atol=1e-6)


def test_what_is_saved_is_what_is_loaded_and_other_runtimes_are_told(tmp_path, plain_models):
    model = Embedder.from_backbone(plain_models["llama"], query_length=12, latent_steps=STEPS)
    with torch.no_grad():
        model.backbone.control_rows.normal_(generator=torch.Generator().manual_seed(3))
    model.save_pretrained(tmp_path / "model")
    texts = ["open zip file", "sort"]
    again = Embedder.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(again.encode_query(texts), model.encode_query(texts), atol=1e-6)
    np.testing.assert_allclose(again.encode_document(texts), model.encode_document(texts), atol=1e-6)
    assert not verify(tmp_path / "model", in_o1).difference
    with pytest.raises(InputError, match="it takes 3 latent steps, and one pass is all"):
        verify(tmp_path / "model", in_sentence_transformers)
    assert not (tmp_path / "model" / "modules.json").exists()
    Embedder.from_backbone(plain_models["llama"], query_length=12).save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match="its layout is not that of"):
        average([tmp_path / "model", tmp_path / "plain"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "reference"}, "cannot tell a query with a thought"),
        ({"name": "instruct", "attention": "prefix"}, "is for encoders, which predict no next token"),
        ({"latent_steps": 1}, "latent_steps 1 is the read-out alone"),
        ({"latent_steps": -2}, "latent_steps"),
        ({"document_length": 61}, r"rows of up to 66 tokens, the model takes 64; lower"),
    ],
)
def test_layouts_that_cannot_take_steps_are_refused(tmp_path, settings, sentence):
    save_model(tmp_path, max_position_embeddings=64)
    lengths = {"query_length": 8, "thought_length": 8, "document_length": 8, "latent_steps": STEPS}
    with pytest.raises(InputError, match=sentence):
        Embedder.from_backbone(tmp_path, **{**lengths, **settings})


def test_models_that_cannot_take_steps_are_refused(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    sizes = {"vocab_size": len(tokenizer), **SIZES, "num_key_value_heads": 2}
    lengths = {"query_length": 8, "thought_length": 8, "document_length": 8, "latent_steps": STEPS}
    conv = hf.Lfm2Config(**sizes, layer_types=["conv", "full_attention"])
    hf.AutoModelForCausalLM.from_config(conv).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="its layers carry a state, which latent steps cannot leave"):
        Embedder.from_backbone(tmp_path, **lengths)
    hf.AutoModelForCausalLM.from_config(hf.MistralConfig(**sizes, sliding_window=8)).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match="the model takes 8 in a window, which latent steps look back through"
    ):
        Embedder.from_backbone(tmp_path, **lengths)
    hf.AutoModelForCausalLM.from_config(hf.MistralConfig(**sizes, sliding_window=24)).save_pretrained(
        tmp_path
    )
    model = Embedder.from_backbone(tmp_path, **lengths)
    with pytest.raises(InputError, match="a row of 30 tokens, but the model takes 24"):
        model.encode_query("open", instruction=" ".join(["read the list"] * 8))


def test_trainings_that_cannot_align_or_keep_a_cache_are_refused(tmp_path, plain_models):
    def start(objective, latent_steps=STEPS, examples=EXAMPLES, layout="o1", **flags):
        arguments = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[], **flags)
        model = ModelArguments(str(plain_models["llama"]), latent_steps=latent_steps, layout=layout)
        train(model, DataArguments("examples"), arguments, objective=objective, examples=examples)

    aligned = Objective(align_weight=0.1)
    with pytest.raises(InputError, match="needs latent_steps and the layout o1, got latent_steps 0 and"):
        start(aligned, latent_steps=0)
    with pytest.raises(InputError, match="got latent_steps 3 and layout instruct"):
        start(aligned, layout="instruct")
    with pytest.raises(InputError, match="no example has a thought; leave out --align_weight"):
        start(aligned, examples=EXAMPLES[1:2] * 2)
    with pytest.raises(InputError, match="not kept with activation_checkpointing"):
        start(Objective(), activation_checkpointing=True)


@torch.no_grad()
def test_a_longer_row_of_a_batch_pushes_no_token_out_of_the_window():
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, **SIZES, "num_key_value_heads": 2}
    lm = hf.AutoModelForCausalLM.from_config(hf.MistralConfig(**sizes, sliding_window=24)).eval()
    grow_vocabulary(lm, tokenizer)
    layout = new_layout(tokenizer, query_length=8, thought_length=20, document_length=8, latent_steps=STEPS)
    backbone = Backbone(lm, layout.control_ids).eval()
    reader, row = Reader(backbone, layout, 0, 10_000), query_row(layout, [5, 6, 7])
    longest, longer = (query_row(layout, [5, 6, 7], [8] * count) for count in (13, 14))
    assert len(longest.ids) + STEPS - 1 == 24
    np.testing.assert_allclose(reader.read([row, longest])[:1], reader.read([row]), atol=1e-6)
    with pytest.raises(InputError, match="a row of 25 tokens, but the model takes 24"):
        reader.read([row, longer])
    assert layout.longest == 8 + 3 + 20 + 3 + STEPS - 1
