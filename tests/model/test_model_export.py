"""What is saved beside the weights: files with which other runtimes build the same rows."""

import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from o1_model import Embedder
from o1_model.checkpoint.card import elsewhere
from o1_model.checkpoint.certificate import read_certificate
from o1_model.checkpoint.save import chat_template
from o1_model.layout import document_row, query_row, text_ids

TEXTS = ["how do i open a zip file", "", "  read\n the list ", "sort keys"]


def rendered(folder, text, **task):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    message = [{"role": "user", "content": text}]
    return tuple(tokenizer.apply_chat_template(message, tokenize=True, return_dict=True, **task)["input_ids"])


@pytest.mark.parametrize("name", ["o1", "reference", "instruct"])
def test_the_chat_template_writes_the_rows_of_the_layout(plain_models, tmp_path, name):
    model = Embedder.from_backbone(plain_models["llama"], name=name)
    model.save_pretrained(tmp_path)
    for text, ids in zip(TEXTS, text_ids(model.tokenizer, TEXTS), strict=True):
        query = query_row(model.layout, ids).ids
        assert rendered(tmp_path, text, task="query") == rendered(tmp_path, text) == query
        assert rendered(tmp_path, text, task="document") == document_row(model.layout, ids).ids


def test_the_chat_template_stays_out_of_the_live_tokenizer(llama, tmp_path):
    llama.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    llama.save_pretrained(tmp_path)
    assert llama.tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert "<emb>" in (tmp_path / "chat_template.jinja").read_text()


def sentencepiece_like(plain):
    """A tokenizer that marks the start of a text's first word, and no other place after a special token."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁", "▁how", "▁do", "how", "do"]
    backend = Tokenizer(models.BPE({w: n for n, w in enumerate(words)}, [], unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    known = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    plain.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **known)


def test_a_tokenizer_that_marks_the_first_word_gets_a_template_that_writes_the_space(llama):
    before = chat_template(llama.layout, llama.tokenizer)
    control = list(llama.tokenizer.get_added_vocab())[-4:]
    sentencepiece_like(llama)
    llama.tokenizer.add_tokens(control, special_tokens=True)
    ids = dict(
        zip(("query", "emb", "thought", "doc"), llama.tokenizer.convert_tokens_to_ids(control), strict=True)
    )
    from msgspec.structs import replace

    template = chat_template(replace(llama.layout, **ids), llama.tokenizer)
    assert template is not None
    assert '{{ " " if' in template
    assert '{{ " " if' not in before


def test_a_tokenizer_that_cannot_be_followed_is_refused_with_the_reason(plain_models, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(plain_models["llama"])
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    # a token that swallows the space before it: "zip " becomes "zip"
    tokenizer.add_special_tokens({"eos_token": AddedToken("<end>", lstrip=True, normalized=False)})
    tokenizer.save_pretrained(tmp_path / "plain")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "plain" / name).write_bytes((plain_models["llama"] / name).read_bytes())
    model = Embedder.from_backbone(tmp_path / "plain", name="instruct")
    model.save_pretrained(tmp_path / "saved")
    assert (
        "its tokenizer splits a text differently after a control token"
        in read_certificate(tmp_path / "saved").refusal
    )
    assert not (tmp_path / "saved" / "modules.json").exists()


def test_lengths_and_read_out_are_those_of_the_rows(plain_models, tmp_path):
    model = Embedder.from_backbone(plain_models["bert"], readout="mean", attention="prefix", query_length=9)
    model.save_pretrained(tmp_path)
    transformer = json.loads((tmp_path / "sentence_bert_config.json").read_bytes())
    assert transformer["query_length"] == 9 + 3
    assert transformer["document_length"] == model.layout.document_length + 3
    # both ways up to <emb>: without a thought that is an encoder
    assert transformer["config_kwargs"] == {"is_decoder": False}
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_bytes())
    assert (pooling["pooling_mode_mean_tokens"], pooling["pooling_mode_lasttoken"]) == (True, False)
    assert pooling["word_embedding_dimension"] == model.dim


def test_what_cannot_be_expressed_leaves_no_files_of_an_earlier_save(plain_models, tmp_path):
    Embedder.from_backbone(plain_models["llama"]).save_pretrained(tmp_path)
    assert (tmp_path / "modules.json").exists()
    assert "SentenceTransformer" in elsewhere(tmp_path)
    Embedder.from_backbone(plain_models["llama"], attention="prefix").save_pretrained(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    gone = {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling"}
    assert left.isdisjoint(gone)
    assert "It does not load in sentence-transformers: a llama attends causally there" in elsewhere(tmp_path)


def test_a_folder_without_certificate_has_nothing_to_say_of_other_runtimes(tmp_path):
    assert elsewhere(tmp_path) == ""


def test_a_checkpoint_holds_no_pickle(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".jinja", ".md"}


def test_saving_changes_nothing_in_the_live_model(llama, tmp_path):
    with torch.no_grad():
        llama.backbone.control_rows.add_(0.3)
    before = {name: value.clone() for name, value in llama.backbone.state_dict().items()}
    llama.save_pretrained(tmp_path)
    after = llama.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
