"""Texts become the ids of ordinary text: cut or whole, in any number of threads, whatever else happens."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tiny import TEXT, byte_tokenizer, word_tokenizer
from o1_model.layout import new_layout, query_ids, query_row, row_frame, text_ids
from o1_model.tokens import TextTokenizer, text_tokenizer
from o1_records import InputError, Query


def subword_tokenizer():
    """Byte pairs that were learnt from a few words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learning = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    backend.train_from_iterator([TEXT * 3, "aaaa aaaaaaaa reading writing lists listing " * 5], learning)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


TOKENIZERS = {"words": word_tokenizer(), "bytes": byte_tokenizer(), "subwords": subword_tokenizer()}
PIECES = st.sampled_from(
    ["read", "list", " ", "\n", "aaaa", "a", "猫", "🐈‍⬛", "zip file", "<emb>", "  ", "x1"]
)
LONG = st.lists(PIECES, max_size=40).map("".join).flatmap(lambda one: st.integers(1, 60).map(one.__mul__))


@settings(max_examples=60)
@given(st.lists(LONG, max_size=4), st.integers(0, 40), st.sampled_from(list(TOKENIZERS)))
def test_the_beginning_of_a_text_has_the_ids_of_the_beginning_of_the_whole(texts, most, name):
    tokenizer = text_tokenizer(TOKENIZERS[name])
    assert tokenizer(texts, most) == [ids[: most + 1] for ids in tokenizer(texts)]


def test_what_lies_beyond_the_cut_is_not_tokenised(monkeypatch):
    tokenizer = TextTokenizer(byte_tokenizer())
    seen, ids = [], tokenizer._ids
    monkeypatch.setattr(tokenizer, "_ids", lambda texts: seen.extend(map(len, texts)) or ids(texts))
    (found,) = tokenizer(["read the list " * 500_000], 12)
    assert len(found) == 13
    assert max(seen) < 1000


def test_a_tokenizer_in_other_hands_meanwhile_changes_nothing():
    """How transformers' tokenizers split, cut and pad is state that every call sets."""
    tokenizer = word_tokenizer()
    layout = new_layout(tokenizer)
    texts = ["sort <emb> the <thought> list", "open a zip file " * 40] * 50
    expected = text_ids(tokenizer, texts)
    assert not any(set(layout.control_ids) & set(ids) for ids in expected)

    def others_use_it(number):
        tokenizer(["read <emb>"] * 20, truncation=True, max_length=2 + number % 3, padding=True)

    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(others_use_it, number) for number in range(40)]
        ours = [pool.submit(text_ids, tokenizer, texts) for _ in range(40)]
        assert all(each.result() == expected for each in ours)
        for each in others:
            each.result()


def test_control_tokens_that_are_added_later_are_known():
    tokenizer = word_tokenizer()
    before = text_ids(tokenizer, ["sort <emb> list"])
    layout = new_layout(tokenizer)
    assert text_ids(tokenizer, ["sort <emb> list"]) == before
    assert text_tokenizer(tokenizer).decode([layout.emb], control=True) == "<emb>"
    assert text_tokenizer(tokenizer).decode([layout.emb]) == ""


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_the_instruction_never_pushes_the_query_out(name):
    tokenizer = TOKENIZERS[name]
    layout = new_layout(tokenizer, name="instruct", query_length=6, instruction="how do i " * 30)
    first, second = query_ids(layout, tokenizer, ["zip file", "sort keys"])
    rows = [query_row(layout, text.ids, prompt=text.prompt).ids for text in (first, second)]
    assert rows[0] != rows[1]
    own = text_ids(tokenizer, ["sort keys"])[0]
    assert len(second.ids) - second.prompt <= len(own) + 1
    long = Query(query_id="q", text="read " * 50, instruction="open " * 90)
    (cut,) = query_ids(layout, tokenizer, [long])
    assert cut.cut and len(cut.ids) == cut.prompt + 6 + 1
    kept = query_row(layout, cut.ids, prompt=cut.prompt).ids
    assert kept[: cut.prompt] == tuple(cut.ids[: cut.prompt])


def test_what_a_tokenizer_puts_around_a_text_is_found():
    assert row_frame(word_tokenizer()) == (None, None)
    framed = word_tokenizer()
    from tokenizers import processors

    framed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    assert row_frame(framed) == (2, 3)


def test_half_a_surrogate_pair_is_refused():
    for tokenizer in TOKENIZERS.values():
        with pytest.raises(InputError, match="a lone surrogate"):
            text_ids(tokenizer, ["sort", "\ud83d list"])
        with pytest.raises(InputError, match="a lone surrogate"):
            text_ids(tokenizer, ["sort", "\ud83d list"], 3)
