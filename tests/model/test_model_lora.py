"""Adapters: on every projection, nothing else moves but the control rows, and load on their base only."""

import copy
import shutil

import msgspec
import pytest
import torch
import transformers as hf

from o1_model import Embedder
from o1_model.backbone import embedding_matrix, grow_vocabulary, load_lm
from o1_model.batch import collate
from o1_model.checkpoint.lora import (
    BASE_FILE,
    Lora,
    add_lora,
    base_of,
    four_bits,
    has_lora,
    is_adapter,
    load_adapter,
    merge_lora,
    read_base,
)
from o1_model.layout import query_row
from o1_model.training.saving import load_weights, save_weights
from o1_records import InputError

KINDS = ["llama", "bert"]
SMALL = Lora(rank=4, alpha=8, dropout=0.0)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def embedder(plain_models, kind):
    """A backbone with an untrained adapter."""
    torch.manual_seed(0)
    made = Embedder.from_backbone(plain_models[kind], query_length=12, thought_length=12)
    add_lora(made.backbone, SMALL)
    return made


def states(backbone, layout):
    batch = collate([query_row(layout, [5, 6, 7], [8, 9])], 0)
    return backbone.logits(backbone.encode(batch, layout)[0])


def train(backbone, layout, steps=3):
    """A few steps with weight decay, which would move whatever has a gradient."""
    trained = [p for p in backbone.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.05, weight_decay=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        states(backbone.train(), layout).logsumexp(dim=-1).sum().backward()
        optimiser.step()
    return backbone.eval()


def test_the_adapter_stands_on_every_projection_of_the_layers(embedder, kind):
    from peft.tuners.lora import LoraLayer

    adapted = {n for n, m in embedder.backbone.lm.named_modules() if isinstance(m, LoraLayer)}
    assert len(adapted) == {"llama": 2 * 7, "bert": 2 * 6}[kind]
    assert not any("lm_head" in name or "cls" in name or "pooler" in name for name in adapted)


@pytest.mark.parametrize("family", ["phi", "phi3", "qwen3", "gemma", "mistral"])
def test_projections_are_found_whatever_a_family_calls_them(family):
    """Fused, split, with other names: each linear layer inside the blocks, and no head."""
    import re

    from o1_model.checkpoint.lora import projections

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = hf.AutoConfig.for_model(family, vocab_size=20, pad_token_id=0, **sizes, num_key_value_heads=1)
    lm = hf.AutoModelForCausalLM.from_config(config)
    pattern = re.compile(projections(lm))
    found = {n for n, m in lm.named_modules() if pattern.fullmatch(n) and isinstance(m, torch.nn.Linear)}
    every = {n for n, m in lm.named_modules() if isinstance(m, torch.nn.Linear)}
    assert every - found == {"lm_head"}
    assert len(found) == 2 * {"phi": 6, "phi3": 4}.get(family, 7)


@torch.no_grad()
def test_logits_are_unchanged_at_step_0(embedder, plain_models, kind):
    plain = Embedder.from_backbone(plain_models[kind], query_length=12, thought_length=12)
    assert torch.equal(states(embedder.backbone, embedder.layout), states(plain.backbone, plain.layout))


def test_adapter_and_control_rows_move_and_nothing_else_does(embedder):
    backbone = embedder.backbone
    before = copy.deepcopy(dict(backbone.named_parameters()))
    train(backbone, embedder.layout)
    moved = {name for name, p in backbone.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name or name == "control_rows"}
    used = [place for place, name in enumerate(embedder.layout.control_ids) if name != embedder.layout.doc]
    assert (backbone.control_rows != before["control_rows"])[used].any(dim=1).all()


def test_a_checkpoint_loads_again_and_merging_changes_nothing(embedder, plain_models, kind, tmp_path):
    backbone, layout = train(embedder.backbone, embedder.layout), embedder.layout
    base = base_of(plain_models[kind])
    save_weights(embedder, tmp_path, base=base)
    assert is_adapter(tmp_path)
    assert not list(tmp_path.glob("model*.safetensors"))
    expected = states(backbone, layout).detach()
    loaded = load_adapter(tmp_path).eval()
    assert has_lora(loaded)
    torch.testing.assert_close(states(loaded, layout), expected)
    again = Embedder.from_backbone(plain_models[kind], query_length=12, thought_length=12)
    add_lora(again.backbone, SMALL)
    load_weights(again.backbone, tmp_path)
    torch.testing.assert_close(states(again.backbone.eval(), layout), expected)
    merge_lora(backbone)
    assert not has_lora(backbone)
    torch.testing.assert_close(states(backbone, layout), expected, rtol=1e-4, atol=1e-4)
    embedder.save_pretrained(tmp_path / "merged", certificate=False)
    vectors = [Embedder.from_pretrained(f).encode_query("open zip") for f in (tmp_path, tmp_path / "merged")]
    assert abs(vectors[0] - vectors[1]).max() < 1e-5


def test_the_adapter_is_peft_s_own(embedder, plain_models, kind, tmp_path):
    from peft import PeftModel

    backbone = train(embedder.backbone, embedder.layout)
    save_weights(embedder, tmp_path, base=base_of(plain_models[kind]))
    lm = load_lm(plain_models[kind])
    grow_vocabulary(lm, embedder.tokenizer)
    with torch.no_grad():
        embedding_matrix(lm)[backbone.control_ids] = backbone.control_rows
        theirs = PeftModel.from_pretrained(lm, str(tmp_path)).eval()
        ids = torch.tensor([[5, 6, embedder.layout.emb]])
        expected = backbone.hidden(ids, torch.ones_like(ids), torch.tensor([[0, 1, 2]]))
        positions = {"position_ids": torch.tensor([[0, 1, 2]])}
        output = theirs(input_ids=ids, output_hidden_states=True, **positions)
    torch.testing.assert_close(output.hidden_states[-1], expected)


def test_a_base_that_moved_is_found_and_another_is_refused(embedder, plain_models, kind, tmp_path):
    base = shutil.copytree(plain_models[kind], tmp_path / "base")
    save_weights(embedder, tmp_path / "adapter", base=base_of(base))
    moved = shutil.move(base, tmp_path / "moved")
    with pytest.raises(InputError, match="neither a folder nor a model id of the hub"):
        load_adapter(tmp_path / "adapter")
    assert has_lora(load_adapter(tmp_path / "adapter", base=moved))
    # trained on a copy of the hub: a folder has no revision, and the digest says that it is the same
    hub = shutil.copytree(tmp_path / "adapter", tmp_path / "of-hub")
    known = msgspec.structs.replace(read_base(hub), name_or_path="some/model", revision="main")
    (hub / BASE_FILE).write_bytes(msgspec.json.encode(known))
    assert has_lora(load_adapter(hub, base=moved))
    lm = load_lm(moved)
    with torch.no_grad():
        embedding_matrix(lm)[0, 0] += 1
    lm.save_pretrained(moved)
    with pytest.raises(InputError, match=r"was trained on .*base with digest \w+, but .*moved has \w+"):
        load_adapter(tmp_path / "adapter", base=moved)


def test_an_adapter_does_not_continue_a_whole_model(embedder, plain_models, kind, tmp_path):
    save_weights(embedder, tmp_path, base=base_of(plain_models[kind]))
    plain = Embedder.from_backbone(plain_models[kind], query_length=12, thought_length=12)
    with pytest.raises(InputError, match="holds an adapter, this run trains a whole model"):
        load_weights(plain.backbone, tmp_path)


def test_a_damaged_reference_to_the_base_is_one_sentence(embedder, plain_models, kind, tmp_path):
    save_weights(embedder, tmp_path, base=base_of(plain_models[kind]))
    (tmp_path / "o1_adapter.json").write_text('{"name_or_path": 3')
    with pytest.raises(InputError, match=r"o1_adapter\.json: cannot read the base"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("settings", [{"rank": 0}, {"rank": 8, "merge": True}])
def test_four_bits_hold_a_frozen_base_only(settings):
    with pytest.raises(InputError, match="give --lora_rank and leave out --merge"):
        four_bits(**settings)
