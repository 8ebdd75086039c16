"""Every family of backbones, untouched from transformers: one set of laws for all of them."""

import copy
import os
import struct
from pathlib import Path

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers

from o1_model.backbone import Backbone, embedding_matrix, grow_vocabulary, load_lm
from o1_model.batch import collate
from o1_model.layout import document_row, new_layout, query_row, text_ids

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
}
GROUPED = {"num_key_value_heads": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "is_decoder": True}
FAMILIES = {
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig, GROUPED),
    "mistral": (hf.MistralForCausalLM, hf.MistralConfig, GROUPED),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config, GROUPED),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config, {**GROUPED, "head_dim": 8}),
    "gemma": (hf.GemmaForCausalLM, hf.GemmaConfig, {**GROUPED, "head_dim": 8}),
    "gemma2": (hf.Gemma2ForCausalLM, hf.Gemma2Config, {**GROUPED, "head_dim": 8}),
    "gemma3_text": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, {**GROUPED, "head_dim": 8}),
    "phi": (hf.PhiForCausalLM, hf.PhiConfig, GROUPED),
    "phi3": (hf.Phi3ForCausalLM, hf.Phi3Config, {**GROUPED, "pad_token_id": 0}),
    "bert": (hf.BertLMHeadModel, hf.BertConfig, NO_DROPOUT),
    "roberta": (hf.RobertaForCausalLM, hf.RobertaConfig, {**NO_DROPOUT, "pad_token_id": 1}),
    "xlm-roberta": (hf.XLMRobertaForCausalLM, hf.XLMRobertaConfig, {**NO_DROPOUT, "pad_token_id": 1}),
    "electra": (hf.ElectraForCausalLM, hf.ElectraConfig, {**NO_DROPOUT, "embedding_size": 32}),
}
TEXT, THOUGHT = [5, 6, 7, 8], [9, 10, 11]


def tiny(family, *, vocabulary=30, tied=False):
    """A real model of a family, small enough for a test."""
    torch.manual_seed(0)
    model, config, settings = FAMILIES[family]
    return model(config(vocab_size=vocabulary, tie_word_embeddings=tied, **{**SIZES, **settings})).eval()


@pytest.fixture(scope="module")
def tokenizer(plain_models):
    """The tokenizer of the other tests, with the control tokens."""
    words = hf.AutoTokenizer.from_pretrained(plain_models["llama"])
    new_layout(words)
    return words


@pytest.fixture(params=list(FAMILIES))
def family(request):
    return request.param


@pytest.fixture
def layout(plain_models):
    words = hf.AutoTokenizer.from_pretrained(plain_models["llama"])
    return new_layout(words, query_length=8, thought_length=8)


def started(family, tokenizer, layout, **settings):
    """The plain model, and a backbone made of the same weights."""
    plain = tiny(family, **settings)
    lm = copy.deepcopy(plain)
    grow_vocabulary(lm, tokenizer)
    return plain, Backbone(lm, layout.control_ids).eval()


def batch_of(layout, **settings):
    rows = [query_row(layout, TEXT, THOUGHT), query_row(layout, TEXT[:2], THOUGHT[:1])]
    return collate([*rows, document_row(layout, TEXT)], 0, **settings)


def close(first, second, tolerance=2e-5):
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_states_and_logits_of_ordinary_text_are_the_base_models_own(family, tokenizer, layout):
    plain, backbone = started(family, tokenizer, layout)
    ids = torch.tensor([TEXT + THOUGHT])
    expected = plain(input_ids=ids, output_hidden_states=True)
    mask, positions = torch.ones_like(ids), torch.arange(ids.shape[1])[None]
    states = backbone.hidden(ids, mask, positions)
    close(states, expected.hidden_states[-1])
    close(backbone.logits(states[0])[:, :30], expected.logits[0])


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_plain_model_with_merged_rows_computes_the_same(family, tokenizer, layout, tied):
    _, backbone = started(family, tokenizer, layout, tied=tied)
    backbone.control_rows.add_(0.1 * torch.randn_like(backbone.control_rows))
    batch = batch_of(layout)
    ours = backbone.encode(batch, layout)
    head = backbone.lm.get_output_embeddings()
    assert (head.weight is embedding_matrix(backbone.lm)) == tied
    before = embedding_matrix(backbone.lm).clone()
    with backbone.merged_control_rows():
        merged = copy.deepcopy(backbone.lm)
        merged.get_input_embeddings()._forward_hooks.clear()
        # one row at a time: BERT-family models pad by their own rule
        for row, length in enumerate(batch.mask.sum(dim=1)):
            ids = batch.input_ids[row : row + 1, :length]
            plain = merged(input_ids=ids, output_hidden_states=True)
            close(ours[row, :length], plain.hidden_states[-1][0])
            close(backbone.logits(ours[row, :length]), plain.logits[0])
    assert torch.equal(embedding_matrix(backbone.lm), before)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["causal", "prefix"])
def test_states_ignore_padding_and_the_cache_changes_nothing(family, tokenizer, layout, attention):
    _, backbone = started(family, tokenizer, layout)
    seen = type(layout)(**{**vars_of(layout), "attention": attention})
    right, left = batch_of(layout), batch_of(layout, left=True)
    states = backbone.encode(right, seen)
    padded_left = backbone.encode(left, seen)
    for row in range(3):
        close(states[row][right.mask[row].bool()], padded_left[row][left.mask[row].bool()])
    # the query first, then the thought on its cache
    whole = collate([query_row(layout, TEXT, THOUGHT)], 0)
    expected = backbone.encode(whole, seen)
    start = int(whole.first[0]) + 1
    query = collate([query_row(layout, TEXT)], 0)
    cache = hf.DynamicCache(config=backbone.config)
    close(backbone.encode(query, seen, cache), expected[:, :start])
    rest = backbone.hidden(whole.input_ids[:, start:], whole.mask, whole.positions[:, start:], cache)
    close(rest, expected[:, start:])


def vars_of(layout):
    return {name: getattr(layout, name) for name in layout.__struct_fields__}


@torch.no_grad()
def test_later_tokens_change_no_earlier_state(family, tokenizer, layout):
    _, backbone = started(family, tokenizer, layout)
    first = collate([query_row(layout, TEXT, THOUGHT)], 0)
    other = collate([query_row(layout, TEXT, [12, 13, 14])], 0)
    for attention in ("causal", "prefix"):
        seen = type(layout)(**{**vars_of(layout), "attention": attention})
        shared = int(first.first[0]) + 2
        close(backbone.encode(first, seen)[:, :shared], backbone.encode(other, seen)[:, :shared])


def test_control_rows_get_a_gradient_and_the_head_too(family, tokenizer, layout):
    _, backbone = started(family, tokenizer, layout)
    batch = batch_of(layout)
    states = backbone.encode(batch, layout)
    logits = backbone.logits(states[batch.label_row, batch.label_column])
    torch.nn.functional.cross_entropy(logits, batch.label_ids).backward()
    assert (backbone.control_rows.grad.abs().sum(dim=1) > 0)[[0, 1, 2]].all()
    assert backbone.lm.get_output_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize("family", ["qwen2", "bert"])
def test_a_padded_vocabulary_keeps_its_size(tokenizer, layout, family):
    plain, backbone = started(family, tokenizer, layout, vocabulary=64, tied=True)
    assert len(embedding_matrix(backbone.lm)) == 64
    assert torch.equal(embedding_matrix(backbone.lm), embedding_matrix(plain))
    grown = started(family, tokenizer, layout, vocabulary=20)[1]
    assert len(embedding_matrix(grown.lm)) == len(tokenizer)


STORIES = Path(os.environ.get("O1_DATA", "/nowhere")) / "stories260k"


def llama2c_tokenizer(path):
    """SentencePiece-BPE out of llama2.c's file: a length, then score, length and bytes of each token."""
    data = path.read_bytes()
    at, pieces = 4, []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8 : at + 8 + length].decode(), score))
        at += 8 + length
    # llama2.c decodes the three special pieces and the space mark for printing
    names = ["<unk>", "<s>", "</s>", *[text.replace(" ", "▁") for text, _ in pieces[3:]]]
    ids = {name: number for number, name in enumerate(names)}
    scores = dict(zip(names, [score for _, score in pieces], strict=True))
    merges = [
        (piece[:cut], piece[cut:], score)
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if not piece.startswith("<") and piece[:cut] in ids and piece[cut:] in ids
    ]
    merges.sort(key=lambda merge: -merge[2])
    backend = Tokenizer(
        models.BPE(
            vocab=ids, merges=[m[:2] for m in merges], unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.mark.skipif(not STORIES.exists(), reason="no stories260k under O1_DATA")
@torch.no_grad()
def test_a_pretrained_llama_still_tells_its_story():
    words = llama2c_tokenizer(STORIES / "tok512.bin")
    layout = new_layout(words, query_length=64, thought_length=64)
    lm = load_lm(STORIES)
    plain = copy.deepcopy(lm)
    grow_vocabulary(lm, words)
    backbone = Backbone(lm, layout.control_ids)
    story = "Once upon a time, there was a little girl named Lily."
    ids = torch.tensor([[words.bos_token_id, *text_ids(words, [story])[0]]])
    assert words.decode(ids[0, 1:]).strip() == story
    states = backbone.hidden(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None])
    logits = backbone.logits(states[0])[:, :512]
    close(logits, plain(input_ids=ids).logits[0], 1e-4)
    surprise = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
    # a tokenizer that cut the words otherwise, or permuted weights, would be at ln 512 = 6.2
    assert surprise < 1.5
