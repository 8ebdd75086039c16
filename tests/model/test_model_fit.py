"""What a model computes is measured when it is loaded: put right, or refused with a sentence."""

import copy

import pytest
import torch
import transformers as hf

from helpers.tiny import save_model, word_tokenizer
from o1_model import Embedder, Thinking
from o1_model.backbone import Backbone, grow_vocabulary
from o1_model.checkpoint.fit import fit
from o1_model.layout import new_layout, query_row
from o1_records import InputError

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "initializer_range": 0.2, "max_position_embeddings": 64,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_n_groups": 1}
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip
ENDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip

# the number that the configuration says its logits are multiplied with, and the fields
SCALED = {
    "granite": (1 / 8, hf.GraniteConfig, {**GROUPED, "logits_scaling": 8.0, "embedding_multiplier": 12.0}),
    "cohere": (1 / 16, hf.CohereConfig, {**GROUPED, "logit_scale": 0.0625}),
    "cohere2": (
        1 / 4,
        hf.Cohere2Config,
        {**GROUPED, "logit_scale": 0.25, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "minicpm3": (1 / 2, hf.MiniCPM3Config, {**LATENT, "dim_model_base": 16, "scale_emb": 12.0}),
    "falcon_h1": (
        0.05,
        hf.FalconH1Config,
        {
            **GROUPED, **MAMBA, "mamba_d_ssm": 32, "mamba_chunk_size": 8, "lm_head_multiplier": 0.05,
            "embedding_multiplier": 3.0,
        },
    ),
}  # fmt: skip
OTHERS = {
    "qwen3_next": (1.0, hf.Qwen3NextConfig, {**GROUPED, **LINEAR, **EXPERTS}),
    "qwen3_5": (1.0, hf.Qwen3_5TextConfig, {**GROUPED, **LINEAR}),
    "lfm2": (1.0, hf.Lfm2Config, {**GROUPED, "layer_types": ["conv", "full_attention"]}),
    "modernbert": (
        1.0,
        hf.ModernBertDecoderConfig,
        {**ENDS, "layer_types": ["sliding_attention", "full_attention"], "local_attention": 8},
    ),
    "gpt2": (1.0, hf.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4}),
}
FAMILIES = {**SCALED, **OTHERS}


def plain(name):
    """A real model of a family, and its tokenizer."""
    _, config, fields = FAMILIES[name]
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    lm = hf.AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), **{**SIZES, **fields}))
    return lm.eval(), tokenizer


def fitted(lm, tokenizer, **settings):
    """A backbone around a copy, after the check."""
    tokenizer = copy.deepcopy(tokenizer)
    lengths = {"query_length": 8, "thought_length": 8, "document_length": 8}
    layout = new_layout(tokenizer, **{**lengths, **settings})
    lm = copy.deepcopy(lm)
    grow_vocabulary(lm, tokenizer)
    backbone = Backbone(lm, layout.control_ids)
    fit(backbone, layout, "mine")
    return backbone.eval(), layout, tokenizer


@torch.no_grad()
@pytest.mark.parametrize("name", list(FAMILIES))
def test_logits_are_the_models_own_times_its_scale(name):
    lm, tokenizer = plain(name)
    backbone, _, _ = fitted(lm, tokenizer)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    expected = lm(input_ids=ids, use_cache=False).logits[0]
    states = backbone.hidden(ids, None, torch.arange(5)[None])[0]
    torch.testing.assert_close(backbone.logits(states)[:, : len(tokenizer)], expected, rtol=1e-5, atol=1e-5)
    assert backbone.logit_scale == pytest.approx(FAMILIES[name][0], rel=1e-12)


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5", "falcon_h1", "lfm2"])
def test_hybrids_think_on_their_cache_whatever_the_batch(name):
    """Their states would see the padding before a prompt: only prompts of one length share a batch."""
    backbone, layout, tokenizer = fitted(*plain(name))
    assert backbone.recurrent
    model = Embedder(backbone, layout, tokenizer)
    queries = ["open", "how do i open a zip", "sort the list", "read the text", ""]
    thinking = Thinking(samples=3, max_tokens=6, temperature=3.0)
    v_q, traces = model.decode(queries, thinking)
    alone = [model.decode([query], thinking)[1][0] for query in queries]
    for query, own, single in zip(queries, traces, alone, strict=True):
        (ids,) = [row.ids[2:-1] for row in model.query_rows([query])]
        for trace, other in zip(own, single, strict=True):
            assert trace.token_ids == other.token_ids
            whole = model.read([query_row(layout, ids, trace.token_ids)])[0]
            torch.testing.assert_close(trace.vector, torch.from_numpy(whole), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.tensor(v_q), torch.tensor(model.encode_query(queries)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (hf.MambaConfig, {"state_size": 8}),
        (hf.Mamba2Config, {"num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 1, "chunk_size": 8}),
        (hf.RwkvConfig, {"attention_hidden_size": 32, "context_length": 64}),
    ],
)
def test_what_cannot_think_on_its_cache_is_refused_and_may_embed(config, fields):
    tokenizer = word_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, **fields}
    torch.manual_seed(0)
    lm = hf.AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), **sizes)).eval()
    kind = lm.config.model_type
    with pytest.raises(InputError, match=f"mine: a '{kind}' cannot .* layout 'o1'.*layout 'instruct' embeds"):
        fitted(lm, tokenizer)
    backbone, layout, own = fitted(lm, tokenizer, name="instruct")
    model = Embedder(backbone, layout, own)
    texts = ["open a zip", "sort", "how do i read the list"]
    together, alone = model.encode_document(texts), [model.encode_document(text) for text in texts]
    torch.testing.assert_close(torch.tensor(together), torch.tensor(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        lambda size: hf.Gemma3Config(
            text_config={"vocab_size": size, **SIZES, **GROUPED}, vision_config=VISION,
            mm_tokens_per_image=4, image_token_index=3,
        ),
        lambda size: hf.Qwen3_5Config(text_config={"vocab_size": size, **SIZES, **GROUPED, **LINEAR}),
    ],
    ids=["gemma3", "qwen3_5"],
)  # fmt: skip
def test_a_model_of_several_modalities_is_read_as_its_language_model(tmp_path, config):
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path / "plain")
    torch.manual_seed(0)
    lm = hf.AutoModelForCausalLM.from_config(config(len(tokenizer)))
    lm.save_pretrained(tmp_path / "plain")
    lengths = {"query_length": 8, "thought_length": 8, "document_length": 8}
    model = Embedder.from_backbone(tmp_path / "plain", **lengths)
    thinking = Thinking(samples=2, max_tokens=4, temperature=2.0)
    expected = model.encode_query(["open a zip", "sort"], think=thinking)
    model.save_pretrained(tmp_path / "saved")
    again = Embedder.from_pretrained(tmp_path / "saved").encode_query(["open a zip", "sort"], think=thinking)
    torch.testing.assert_close(torch.tensor(again), torch.tensor(expected), atol=1e-6, rtol=0)


class Rooted(hf.LlamaForCausalLM):
    """A model whose logits are more than a number times those of its head."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits.sign() * output.logits.abs().sqrt()
        return output


def test_logits_that_are_something_else_are_refused():
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    lm = Rooted(hf.LlamaConfig(vocab_size=len(tokenizer), **SIZES)).eval()
    with pytest.raises(InputError, match="its logits are not those of its head times a number"):
        fitted(lm, tokenizer)
    fitted(lm, tokenizer, name="instruct")


def test_an_encoder_under_the_name_of_a_decoder_is_refused():
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    fields = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    lm = hf.BertLMHeadModel(hf.BertConfig(vocab_size=len(tokenizer), is_decoder=False, **fields)).eval()
    with pytest.raises(InputError, match="later tokens change the states of earlier ones, as in an encoder"):
        fitted(lm, tokenizer)


def test_attention_that_cannot_look_ahead_is_refused_a_prefix():
    tokenizer = word_tokenizer()
    config = hf.RwkvConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, attention_hidden_size=32
    )
    lm = hf.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(InputError, match="its attention cannot look ahead; use attention 'causal'"):
        fitted(lm, tokenizer, name="instruct", attention="prefix")


def test_weights_that_are_no_numbers_are_refused_at_once(tmp_path):
    folder = save_model(tmp_path)
    lm = hf.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        lm.get_input_embeddings().weight.fill_(torch.nan)
    lm.save_pretrained(folder)
    with pytest.raises(InputError, match="no token embedding of the model is a finite number"):
        Embedder.from_backbone(folder)
