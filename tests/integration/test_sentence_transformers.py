"""The same checkpoint in sentence-transformers: its own tokenisation, its own model class, our vectors."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from helpers.tiny import byte_tokenizer, save_model
from o1_model import Embedder
from o1_model.__main__ import main
from o1_model.checkpoint.certificate import CERTIFICATE, TEXTS
from o1_model.checkpoint.save import chat_template
from o1_model.layout import query_row, text_ids
from o1_model.verify import in_sentence_transformers, verify
from o1_records import InputError, Query
from o1_records.kit.models import model_files

pytestmark = pytest.mark.extra

PLAIN = list(TEXTS[:-1])


def sentencepiece():
    """Like Mistral's: a mark before the first word, bytes for what is unknown, bos, no pad."""
    letters = [chr(c) for c in range(33, 127)]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    merges = [("▁", letter) for letter in letters]
    pieces += ["".join(pair) for pair in merges]
    model = models.BPE(
        {piece: n for n, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True
    )
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


TOKENIZERS = {"qwen2": byte_tokenizer, "llama": sentencepiece, "bert": byte_tokenizer}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return {
        kind: save_model(
            tmp_path_factory.mktemp(kind), kind, tokenizer=tokenizer(), max_position_embeddings=512
        )
        for kind, tokenizer in TOKENIZERS.items()
    }


def saved(plain, folder, kind, **layout):
    lengths = {"query_length": 20, "thought_length": 20, "document_length": 90}
    model = Embedder.from_backbone(plain[kind], **lengths, **layout)
    with torch.no_grad():
        model.backbone.control_rows.add_(0.3)
    model.save_pretrained(folder)
    return model


@cache
def embedder_of(folder):
    return Embedder.from_backbone(folder, query_length=400)


@cache
def template_of(folder):
    model = embedder_of(folder)
    return chat_template(model.layout, model.tokenizer)


def sentence_transformer(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("name", ["o1", "reference", "instruct"])
@pytest.mark.parametrize("kind", ["qwen2", "llama", "bert"])
def test_the_same_checkpoint_gives_the_same_vectors(plain, tmp_path, kind, name):
    model = saved(plain, tmp_path, kind, name=name)
    other = sentence_transformer(tmp_path)
    # one batch of all lengths: empty, short, about as long as is kept, and cut with the suffix kept
    texts = [*PLAIN, *("a" * n for n in (18, 19, 20, 21, 88, 89, 90, 91))]
    ours = model.encode_query(texts), model.encode_document(texts)
    theirs = other.encode_query(texts), other.encode_document(texts)
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, atol=2e-5)
    np.testing.assert_allclose(other.encode(PLAIN[:2]), ours[0][:2], atol=2e-5)
    verdict = verify(tmp_path, in_sentence_transformers)
    assert verdict.difference == ""
    assert verdict.checked == 14
    assert verdict.lowest_cosine >= 0.9999


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@given(text=st.text(max_size=40))
@example(" ")
@example("  two spaces")
@example("\u2581sign of a space")
@example("")
def test_the_chat_template_gives_the_rows_of_any_text(plain, kind, text):
    model = embedder_of(plain[kind])
    rendered = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        chat_template=template_of(plain[kind]),
        task="query",
        tokenize=True,
        return_dict=True,
    )
    (ids,) = text_ids(model.tokenizer, [text])
    assert tuple(rendered["input_ids"]) == query_row(model.layout, ids).ids


@pytest.mark.parametrize(("kind", "attention"), [("qwen2", "causal"), ("bert", "causal"), ("bert", "prefix")])
def test_mean_read_out_and_an_encoders_attention_are_the_same(plain, tmp_path, kind, attention):
    model = saved(plain, tmp_path, kind, readout="mean", attention=attention)
    other = sentence_transformer(tmp_path)
    assert getattr(other[0].model, "pooler", None) is None
    np.testing.assert_allclose(other.encode_query(PLAIN), model.encode_query(PLAIN), atol=2e-5)
    np.testing.assert_allclose(other.encode_document(PLAIN), model.encode_document(PLAIN), atol=2e-5)


def test_the_instruction_is_a_prompt(plain, tmp_path):
    model = saved(plain, tmp_path, "qwen2", name="instruct", instruction="find code")
    other = sentence_transformer(tmp_path)
    np.testing.assert_allclose(other.encode_query("zip"), model.encode_query("zip"), atol=2e-5)
    own = Query(query_id="q", text="zip", instruction="say why")
    prompted = other.encode_query("zip", prompt="Instruct: say why\nQuery: ")
    np.testing.assert_allclose(prompted, model.encode_query([own])[0], atol=2e-5)
    assert np.abs(prompted - model.encode_query("zip")).max() > 1e-3


def certify_again(folder):
    """Let the certificate say that the files are as they were saved."""
    path = folder / CERTIFICATE
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "files": model_files(folder)}))


def test_wrong_pooling_fails_and_is_named(plain, tmp_path, capsys):
    saved(plain, tmp_path, "qwen2")
    path = tmp_path / "1_Pooling" / "config.json"
    pooling = json.loads(path.read_bytes())
    pooling |= {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}
    path.write_text(json.dumps(pooling))
    command = ["verify", "--model", str(tmp_path), "--runtime", "o1", "--runtime", "sentence-transformers"]
    assert main(command) == 4
    assert "1_Pooling/config.json was changed since the checkpoint was saved" in capsys.readouterr().err
    # as a runtime that pools otherwise by itself
    certify_again(tmp_path)
    assert main(command) == 4
    out = capsys.readouterr().out
    assert "o1: pass" in out
    assert "sentence-transformers: fail" in out
    assert "wrong pooling: ['mean'], this layout reads 'lasttoken'" in out


def test_another_chat_template_fails_at_its_token(plain, tmp_path):
    saved(plain, tmp_path, "qwen2")
    path = tmp_path / "chat_template.jinja"
    path.write_text(path.read_text().replace('{{ "<query>" }}', ""))
    with pytest.raises(InputError, match=r"chat_template\.jinja was changed since the checkpoint was saved"):
        verify(tmp_path, in_sentence_transformers)
    certify_again(tmp_path)
    verdict = verify(tmp_path, in_sentence_transformers)
    assert verdict.difference.startswith("token ids of query '' differ at position 0:")


def test_the_command_passes(plain, tmp_path, capsys):
    saved(plain, tmp_path, "llama")
    assert main(["verify", "--model", str(tmp_path), "--runtime", "sentence-transformers"]) == 0
    assert "sentence-transformers: pass (14 vectors" in capsys.readouterr().out


def test_a_layout_that_cannot_be_expressed_is_refused_with_the_reason(plain, tmp_path):
    saved(plain, tmp_path, "qwen2", attention="prefix")
    with pytest.raises(InputError, match="cannot load it: a qwen2 attends causally there"):
        verify(tmp_path, in_sentence_transformers)
